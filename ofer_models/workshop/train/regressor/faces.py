"""Uncovered faces with what a teacher says of them: what a student learns from, once it sees them covered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofer_models.bundle.manifest import REGRESSOR, Bundle
from ofer_models.bundle.regression import COEFFICIENTS, CROP, CropSpec
from ofer_models.files.arrays import read_npz
from ofer_models.files.refusal import FileRefused, one_line
from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.perception.pictures import PictureError, pictures_in, read_picture
from ofer_models.perception.regressor_crop import cut_face, normalised
from ofer_models.runtime.stages import StageSet
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.made_of import check_record, write_record
from ofer_models.workshop.train.regressor.people import PeopleHeads

UNCOVERED = 0.03  # occlusion up to which a rendering counts as uncovered
_BATCH = 32
_ANEW = "give another --work, or remove that file"
Face = tuple[np.ndarray, np.ndarray]  # a picture (H, W, 3) uint8 RGB and mesh points (478, >= 2) px in it


@dataclass(frozen=True)
class TaughtFaces:
    """n faces: crops (n, S, S, 3) uint8 RGB as the student sees them, marks (n, 68, 2) px in them, and the teacher's
    coefficients (n, D) of the same faces as it sees them."""

    crops: np.ndarray
    marks: np.ndarray
    told: np.ndarray

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, rows: slice) -> TaughtFaces:
        return TaughtFaces(self.crops[rows], self.marks[rows], self.told[rows])


class Teacher:
    """The regressor of a bundle, asked by crops."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._regressor = StageSet(bundle, names=(REGRESSOR,)).regressor
        self.spec = self._regressor.spec
        self.sha256 = bundle.files[bundle.stages[REGRESSOR].files["graph"].name].sha256

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Coefficients (n, D) of crops (n, S, S, 3) uint8 RGB of its own size."""
        parts = [
            self._regressor.stage(**{CROP: normalised(crops[start : start + _BATCH], self.spec.crop)})[COEFFICIENTS]
            for start in range(0, len(crops), _BATCH)
        ]
        return np.concatenate(parts)


def taught_faces(teacher: Teacher, seen: CropSpec, faces: Iterable[Face], cache: Path, made_of: dict) -> TaughtFaces:
    """Ask the teacher about all faces, cut for the student as `seen` says; kept in a file, for the same made_of.

    Raises DataError for a file made of something else, and where there are no faces.
    """
    if check_record(cache, made_of, _ANEW) and cache.is_file():
        try:
            return TaughtFaces(**read_npz(cache))
        except (FileRefused, OSError, TypeError) as error:
            raise DataError(f"{cache} {one_line(error)}; {_ANEW}") from None
    own, crops, marks, told = [], [], [], []
    for picture, points in faces:
        own.append(cut_face(picture, points, teacher.spec.crop)[0])
        crop, matrix = cut_face(picture, points, seen)
        crops.append(crop)
        marks.append(points[LANDMARKS68, :2] @ matrix[:, :2].T + matrix[:, 2])
        if len(own) == _BATCH:
            told.append(teacher(np.stack(own)))
            own = []
    if own:
        told.append(teacher(np.stack(own)))
    if not crops:
        raise DataError("there is no uncovered face to learn from")
    taught = TaughtFaces(np.stack(crops), np.stack(marks).astype(np.float32), np.concatenate(told))
    np.savez(cache, crops=taught.crops, marks=taught.marks, told=taught.told)
    write_record(cache, made_of)
    return taught


def rendered_faces(people: PeopleHeads) -> Iterator[Face]:
    """The renderings of people that nothing covers."""
    for index in uncovered(people):
        yield people.pictures.image(int(index)), people.pictures.points[index]


def uncovered(people: PeopleHeads) -> np.ndarray:
    """Numbers of the pictures that nothing covers."""
    indices = np.arange(len(people))
    return np.flatnonzero(people.targets.of_crops(indices, people.pictures.visible)[:, -1] < UNCOVERED)


def photographed_faces(folder: Path, progress: Callable, say: Callable[[str], None] = print) -> Iterator[Face]:
    """The largest face of each photograph in a folder; those that cannot be read, or show none, are named and left out.

    Raises DataError for a folder without pictures.
    """
    from ofer_models.perception.detector import FaceDetector
    from ofer_models.perception.landmarks import FaceLandmarker, roi_from_keypoints

    pictures = pictures_in(folder.iterdir())[0] if folder.is_dir() else []
    if not pictures:
        raise DataError(f"{folder} holds no photographs")
    detector, landmarker = FaceDetector(), FaceLandmarker()
    for path in progress(pictures, "reading photographs", len(pictures)):
        try:
            rgb = read_picture(path)
        except PictureError as error:
            say(f"{path.name} is left out: {error}")
            continue
        found = max(detector.detect(rgb), key=lambda face: face.box[2] * face.box[3], default=None)
        result = found and landmarker.locate(rgb, roi_from_keypoints(found.box, found.keypoints), found.keypoints[:2])
        if result is None:
            say(f"{path.name} is left out: no face is found")
        else:
            yield rgb, result.points
