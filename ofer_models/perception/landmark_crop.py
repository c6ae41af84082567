"""What the landmark network sees of a picture: the crop, its unit of length, and the number of points. No torch."""

from __future__ import annotations

import math

import cv2
import numpy as np

from ofer_models.perception.crops import ARCFACE_TEMPLATE, five_points, similarity

INPUT = 128  # px of the crop's side
POINTS = 478  # MediaPipe's: 468 of the mesh, then five of each iris, the right one first
_SCALE = 0.84  # of ArcFace's 112 px: the whole face from chin to hair, and a nose in profile, lie in the crop
_CENTRE = (56.0, 64.0)  # of ArcFace's picture, in the middle of the crop
# The five points of `perception.crops.five_points` in the crop, px.
CROP_TEMPLATE = (ARCFACE_TEMPLATE - _CENTRE) * _SCALE + (INPUT - 1) / 2
HALF = INPUT / 2  # px of the network's unit of length
_CORNERS = np.array([[0, 0], [INPUT, 0], [0, INPUT], [INPUT, INPUT]]) - 0.5


def to_unit(points: np.ndarray) -> np.ndarray:
    """Crop px (..., 2) to the network's unit: 0 in the middle, 1 at the edge."""
    return (points - (INPUT - 1) / 2) / HALF


def landmark_crop(rgb: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The crop (128, 128, 3) uint8 that the network sees of mesh points (478, >= 2) px, and the map (2, 3) to it."""
    matrix = crop_map(points)
    return cut(rgb, matrix), matrix


def crop_map(points: np.ndarray) -> np.ndarray:
    """(2, 3) from the picture to the crop of mesh points (478, >= 2) px."""
    return similarity(five_points(points), CROP_TEMPLATE)


def cut(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The crop (128, 128, 3) uint8 that a map (2, 3) leads to; edge pixels are repeated beyond the picture."""
    shrink = int(1 / max(math.hypot(matrix[0, 0], matrix[1, 0]), 1e-6))
    if shrink < 2:
        return cv2.warpAffine(rgb, matrix, (INPUT, INPUT), borderMode=cv2.BORDER_REPLICATE)
    # A large face is averaged, not subsampled, and nothing beside it.
    corners = (_CORNERS - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    size = np.array(rgb.shape[1::-1])
    low = np.clip(np.floor(corners.min(0)).astype(int) - shrink, 0, size - 1)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + shrink + 1, low + 1, size)
    part = cv2.blur(rgb[low[1] : high[1], low[0] : high[0]], (shrink, shrink))
    to_crop = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ low])
    return cv2.warpAffine(part, to_crop, (INPUT, INPUT), borderMode=cv2.BORDER_REPLICATE)
