"""Photographs that installed packages ship, with occluders drawn over them: real skin, hair and light, and exact truth.

scikit-image's astronaut and its hundred small faces (25 px, a subset of LFW), matplotlib's Grace Hopper. They teach
what covers a face, nothing else: who it is and what it does is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from ofer_models.head.landmark_sets import LANDMARKS68, N_MEDIAPIPE
from ofer_models.perception.crops import aligned_crop
from ofer_models.perception.detector import FaceDetector
from ofer_models.perception.landmarks import FaceLandmarker, roi_from_keypoints, roi_from_points
from ofer_models.workshop.pictures.camera_effects import SIZE, camera_effects
from ofer_models.workshop.pictures.occluders import add_occluders

_SMALL = 100  # the subset's first rows are faces, the rest is none


def shipped_photographs() -> Iterator[np.ndarray]:
    """Each photograph (H, W, 3) uint8 RGB; the small faces enlarged, on grey."""
    import matplotlib
    import skimage.data

    yield skimage.data.astronaut()
    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    yield cv2.cvtColor(cv2.imread(str(hopper)), cv2.COLOR_BGR2RGB)
    for face in skimage.data.lfw_subset()[:_SMALL]:
        grey = cv2.resize((255 * face / face.max()).astype(np.uint8), (150, 150), interpolation=cv2.INTER_CUBIC)
        yield np.dstack([cv2.copyMakeBorder(grey, 53, 53, 53, 53, cv2.BORDER_REPLICATE)] * 3)


def covered_photographs(
    count: int, seed: int, progress: Callable = lambda iterable, text, total: iterable
) -> tuple[np.ndarray, np.ndarray]:
    """count aligned crops (n, 112, 112, 3) uint8 and which landmarks (n, 468) bool an occluder covers.

    The two large photographs make half of them. Pictures whose face is not found again are left out.
    """
    landmarker, detector = FaceLandmarker(), FaceDetector()
    faces = []
    for photograph in shipped_photographs():
        for found in detector.detect(photograph)[:1]:
            result = landmarker.locate(photograph, roi_from_keypoints(found.box, found.keypoints))
            if result is not None:
                faces.append((photograph, result.points))
    rng = np.random.default_rng(seed)
    crops, covered = [], []
    for _ in progress(range(count), "covering photographs", count):
        large = rng.uniform() < 0.5
        photograph, points = faces[rng.integers(2) if large else rng.integers(2, len(faces))]
        picture, points = _cut_out(photograph, points, rng)
        image, alpha = add_occluders(picture.astype(np.float32) / 255, points[LANDMARKS68], rng, 0.75, hats=True)
        seen = camera_effects(image, rng)
        result = landmarker(seen, roi_from_points(points))
        if result is None:
            continue
        x, y = np.clip(np.round(points[:N_MEDIAPIPE]).astype(int), 0, SIZE - 1).T
        crops.append(aligned_crop(seen, result.points)[0])
        covered.append(alpha[y, x] > 0.5)
    return np.stack(crops), np.stack(covered)


def _cut_out(photograph: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture (SIZE, SIZE, 3) of the face, turned and scaled at random, and its points (478, 2) there."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    scale = SIZE * rng.uniform(0.45, 0.72) / float((high - low).max())
    angle = rng.normal(0, 0.15)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = SIZE / 2 - turn @ ((low + high) / 2) + rng.normal(0, 8, 2)
    picture = cv2.warpAffine(photograph, np.column_stack([turn, shift]), (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    return picture, points[:, :2] @ turn.T + shift
