"""Reading photographs with a bundle's own pipeline: what was seen, and where each hypothesis puts the face's points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofer_models.head.landmark_sets import LANDMARKS68, N_MEDIAPIPE, landmarks_on_people
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.pictures import PictureError, printable, read_picture
from ofer_models.pipeline import FacePipeline
from ofer_models.reconstruction.pictures import find_pictures
from ofer_models.reconstruction.unknown_camera import read_still
from ofer_models.tracking.face import Face
from ofer_models.workshop.errors import EvaluationError
from ofer_models.workshop.pictures.annotations import read_annotations

MAX_FACES = 20


@dataclass(frozen=True)
class Photograph:
    """A picture and the 68 points (68, 2) px of those faces in it that somebody has annotated."""

    path: Path
    annotated: list[np.ndarray]

    def read(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Raises EvaluationError where it cannot be read."""
        try:
            return read_picture(self.path)
        except PictureError as error:
            raise EvaluationError(f"{printable(self.path)}: {error}") from None


@dataclass(frozen=True)
class Reading:
    """One face. seen (68, 2) px: MediaPipe's points; hypotheses (H, 68, 2) px: the posed meshes'; mean (68, 2) px: of
    the hypotheses' mean coefficients; annotated (68, 2) or None. shapes (H, 468, 3) mm: landmarks of the hypotheses'
    expressions on the mean head, mean_shape (468, 3) mm of their mean; betas (S,) of the chosen head."""

    picture: str
    face: Face
    seen: np.ndarray
    hypotheses: np.ndarray
    mean: np.ndarray
    annotated: np.ndarray | None
    shapes: np.ndarray
    mean_shape: np.ndarray

    @property
    def selected(self) -> np.ndarray:
        return self.hypotheses[self.face.selected]


def find_photographs(folders: list[Path]) -> list[Photograph]:
    """The pictures in folders by name, with the annotations that a folder's points.json holds.

    Raises EvaluationError where there are none, and DataError for an annotation that is no 68 points.
    """
    photographs: list[Photograph] = []
    for folder in folders:
        found, problems, _ = find_pictures([str(folder)])
        if problems:
            raise EvaluationError(f"--real {folder}: {problems[str(folder)]}")
        notes = read_annotations(folder)
        photographs += [Photograph(path, notes.get(path.name, [])) for path in found]
    return photographs


class Reader:
    """Reads photographs one by one, each as if it were the first that the pipeline sees."""

    def __init__(self, pipeline: FacePipeline) -> None:
        self.pipeline = pipeline
        self._nobody = np.zeros(pipeline.head.n_shape, np.float32)

    def faces(self, rgb: np.ndarray) -> tuple[list[Face], Intrinsics]:
        """Faces in a picture (H, W, 3), the largest first, and the camera that was assumed."""
        self.pipeline.reset()
        found, camera = read_still(self.pipeline, rgb, self.pipeline.reset)
        return sorted(found, key=lambda face: -face.roi[2] * face.roi[3]), camera

    def reading(self, name: str, face: Face, camera: Intrinsics, annotated: np.ndarray | None = None) -> Reading:
        """What a face of the last picture was read as."""
        head = self.pipeline.head
        coefficients = (
            np.concatenate([face.expressions, face.expressions.mean(0, keepdims=True)]),
            np.concatenate([face.jaws, face.jaws.mean(0, keepdims=True)]),
        )
        posed = landmarks_on_people(head, head.decode(face.shape, *coefficients))
        pixels = (posed @ face.rotation.T + face.translation) @ camera.K.T
        pixels = pixels[..., :2] / pixels[..., 2:]
        shapes = 1000 * head.landmarks(head.decode(self._nobody, *coefficients), "mediapipe")
        seen = camera.undistort(face.landmarks[:N_MEDIAPIPE, :2])[LANDMARKS68]
        return Reading(name, face, seen, pixels[:-1], pixels[-1], annotated, shapes[:-1], shapes[-1])

    def read(self, photograph: Photograph) -> list[Reading]:
        """The largest face, or each annotated one that was found: the face whose eyes are nearest to the annotated."""
        rgb = photograph.read()
        faces, camera = self.faces(rgb)
        if not photograph.annotated:
            return [self.reading(photograph.path.name, face, camera) for face in faces[:1]]
        readings = []
        for points in photograph.annotated:
            middle, size = points[36:48].mean(0), float(np.ptp(points, axis=0).max())
            apart = [np.linalg.norm(face.landmarks[LANDMARKS68, :2][36:48].mean(0) - middle) for face in faces]
            if apart and min(apart) < 0.25 * size:
                face = faces[int(np.argmin(apart))]
                readings.append(self.reading(photograph.path.name, face, camera, points))
        return readings
