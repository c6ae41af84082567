"""Photographs of real faces with 68 annotated points, to watch a training on: never trained on, never kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.pictures.annotations import ANNOTATIONS, read_annotations
from ofer_models.workshop.pictures.measures import INNER

_EYES = (36, 45)  # outer corners


@dataclass(frozen=True)
class Faces:
    """annotated (n, 68, 2) px and MediaPipe's points (n, 478, 3) px of n faces, and the pictures they are in."""

    annotated: np.ndarray
    points: np.ndarray
    pictures: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.annotated)


def load_faces(folders: Sequence[Path]) -> Faces:
    """Annotated faces of folders with points.json: {file: [{"points68": [[x, y], ...]}, ...]}; MediaPipe's points are
    found here, on the annotated region. Faces that its network finds none in are left out.

    Raises DataError where a folder holds none.
    """
    from ofer_models.perception.landmarks import FaceLandmarker, Roi
    from ofer_models.perception.pictures import PictureError, read_picture

    landmarker = FaceLandmarker()
    annotated, points, pictures = [], [], []
    for folder in folders:
        annotations = read_annotations(folder)
        if not annotations:
            raise DataError(f"{folder} holds no {ANNOTATIONS} with annotated faces")
        for name, entries in annotations.items():
            try:
                rgb = read_picture(folder / name)
            except PictureError as error:
                raise DataError(f"{folder / name}: {error}") from None
            for marks in entries:
                low, high = marks.min(0), marks.max(0)
                across = marks[_EYES[1]] - marks[_EYES[0]]
                middle = (low + high) / 2 - [0, 0.1 * (high - low)[1]]
                roi = Roi(*middle, 1.6 * float((high - low).max()), float(np.arctan2(across[1], across[0])))
                result = landmarker.locate(rgb, roi)
                if result is not None:
                    annotated.append(marks)
                    points.append(result.points)
                    pictures.append(rgb)
    if not annotated:
        raise DataError(f"no annotated face was found in {', '.join(map(str, folders))}")
    return Faces(np.array(annotated), np.array(points), pictures)


def inner_errors(points: np.ndarray, annotated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n, 51) of mesh points (n, >= 468, 2) from annotated inner points (n, 68, 2), as shares of the distance
    between the outer eye corners; and the same once each point's mean offset over the faces, in the face's own axes, is
    taken out: annotators' points and the mesh's are not quite the same places.
    """
    found = points[:, LANDMARKS68, :2][:, INNER]
    across = annotated[:, _EYES[1]] - annotated[:, _EYES[0]]
    size = np.linalg.norm(across, axis=-1)[:, None, None]
    x = (across / size[:, 0])[:, None]
    y = np.stack([-x[..., 1], x[..., 0]], axis=-1)
    offset = (found - annotated[:, INNER]) / size
    own = np.stack([(offset * x).sum(-1), (offset * y).sum(-1)], axis=-1)
    return np.linalg.norm(own, axis=-1), np.linalg.norm(own - own.mean(0), axis=-1)
