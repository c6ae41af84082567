"""What the encoders see of a face: aligned and loose crops, and landmark features.

The crop arithmetic is OFER's preprocessing (ArcFace five-point alignment; a loose 1.6 times box for FaRL).
Pixel coordinates have the centre of the first pixel at (0, 0).
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from ofer_models.head.rigid import best_rotation

ALIGNED = 112
LOOSE = 224
LOOSE_MARGIN = 1.6

# ArcFace's five points in a 112 x 112 image: eye centres, nose tip, mouth corners; image left first.
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)

# The same five points on the mesh, each the mean of the two in a column. Eye corners rather than irises or lids: no
# gaze, no blinks.
_FIVE_POINTS = np.array([[33, 362, 4, 61, 291], [133, 263, 4, 61, 291]])

# Mesh points that expressions hardly move.
STABLE_POINTS = np.array(
    [
        *(10, 151, 9, 8, 67, 109, 338, 297, 54, 284),  # forehead
        *(21, 251, 127, 356),  # temples
        *(33, 133, 362, 263),  # eye corners
        *(168, 6, 197, 195, 5, 4, 2, 98, 327),  # nose: bridge, tip, base
    ]
)

# (478, 3), unit and axes as `frontalise` returns; made by workshop/head/canonical_face.py.
_CANONICAL = np.load(Path(__file__).with_name("canonical_face.npz"))["points"]
_STABLE = _CANONICAL[STABLE_POINTS].astype(np.float64)
_STABLE_MEAN = _STABLE.mean(axis=0)


def canonical_face() -> np.ndarray:
    """(478, 3) points of the symmetric face that `frontalise` lays every face on; its unit and axes."""
    return _CANONICAL.copy()


def five_points(points: np.ndarray) -> np.ndarray:
    """(..., 5, 2) ArcFace points of mesh points (..., 478, >=2); on an upright face image left comes first."""
    first, second = _FIVE_POINTS
    return (points[..., first, :2] + points[..., second, :2]) / 2


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity without reflection from `source` (..., P, 2) to `target` (P, 2): (..., 2, 3) float64.

    With points as complex numbers the best rotation and scale is one division (Umeyama's solution in the plane).
    """
    source, count = np.asarray(source, np.float64), len(target)
    s, t = source[..., 0] + 1j * source[..., 1], target[..., 0] + 1j * target[..., 1]
    s_mean, t_mean = s.sum(-1) / count, t.sum() / count
    s = s - s_mean[..., None]
    turn = (s.conj() @ (t - t_mean)) / np.maximum((s.real**2 + s.imag**2).sum(-1), 1e-12)
    offset = t_mean - turn * s_mean
    matrix = np.empty((*turn.shape, 2, 3))
    matrix[..., 0, 0] = matrix[..., 1, 1] = turn.real
    matrix[..., 1, 0], matrix[..., 0, 1] = turn.imag, -turn.imag
    matrix[..., 0, 2], matrix[..., 1, 2] = offset.real, offset.imag
    return matrix


def aligned_crop(rgb: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ArcFace's aligned crop: (112, 112, 3) uint8 and the (2, 3) map from image to crop pixels.

    points: (478, >=2) mesh points or (5, 2) ArcFace points in px.  Bilinear, black outside the image.
    """
    matrix = similarity(points if len(points) == 5 else five_points(points), ARCFACE_TEMPLATE)
    return cv2.warpAffine(rgb, matrix, (ALIGNED, ALIGNED)), matrix


def in_crop_unit(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (..., 2) px float32 in the aligned crop with its edge pixels at -1 and 1; matrix (2, 3) as `aligned_crop`
    returns it.
    """
    inside = np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return (inside / ((ALIGNED - 1) / 2) - 1).astype(np.float32)


def box_of(points: np.ndarray) -> np.ndarray:
    """(4,) xywh px, float: the upright box around mesh points (478, >=2)."""
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    return np.concatenate([low, high - low])


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Shared area of two boxes (4,) xywh, as a part of the smaller one: 0..1."""
    sides = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
    smaller = min(float(a[2] * a[3]), float(b[2] * b[3]))
    return float(sides.clip(0).prod()) / smaller if smaller > 0 else 0.0


def loose_crop(rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
    """FaRL's crop (224, 224, 3) uint8: an upright square of 1.6 times the mean side of `box` (4,) xywh px.

    Output pixel u lies at centre - s/2 + u s/223, with s the side cut to an integer.  Bilinear, black outside.
    """
    x, y, w, h = (float(v) for v in box)
    side = max(int(LOOSE_MARGIN * (w + h) / 2), 1)
    step = side / (LOOSE - 1)
    to_image = np.array([[step, 0, x + w / 2 - side / 2], [0, step, y + h / 2 - side / 2]])
    return cv2.warpAffine(rgb, to_image, (LOOSE, LOOSE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def quarter_of(angle: float) -> int:
    """Quarter turns counterclockwise (0..3) that bring a face with this roll, radians, nearest to upright."""
    return round(angle / (math.pi / 2)) % 4


def frontalise(points: np.ndarray) -> np.ndarray:
    """Mesh points (..., 478, 3) px with position, size and head rotation taken out: (..., 478, 3) float64.

    Each face is laid onto the canonical face by the similarity (Umeyama 1991, in three dimensions) that fits the stable
    points best, so what remains is identity and expression.  Axes as in the image (x right, y down, z away); the unit
    is half an aligned crop, in which eye centres are about 0.63 apart.
    """
    points = np.asarray(points, np.float64)
    centre, linear = _frontal_map(points[..., STABLE_POINTS, :])
    return (points - centre) @ linear + _STABLE_MEAN


def frontal_shape(points: np.ndarray) -> np.ndarray:
    """(S, 3) float64: the STABLE_POINTS of mesh points (478, 3) px, as `frontalise` lays them."""
    stable = points[STABLE_POINTS].astype(np.float64)
    centre, linear = _frontal_map(stable)
    return (stable - centre) @ linear + _STABLE_MEAN


def _frontal_map(stable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (..., 1, 3) of stable points (..., S, 3), and what takes points about them, as rows, onto the canonical
    face's about its own: (..., 3, 3)."""
    centre = stable.mean(axis=-2, keepdims=True)
    centred = stable - centre
    rotation, products = best_rotation(centred, _STABLE - _STABLE_MEAN)
    scale = products / np.maximum(np.einsum("...i,...i->...", centred, centred).sum(-1), 1e-12)
    return centre, rotation * scale[..., None, None]


def misfit(points: np.ndarray) -> float:
    """How far mesh points (478, 3) px are from any face: 0.03 to 0.09, more where the mesh lies on something else.

    The root mean square distance of the stable points from the canonical face's, in the unit of `frontalise`.
    """
    apart = frontal_shape(points) - _STABLE
    return float(np.sqrt((apart**2).sum(axis=-1).mean()))


def landmark_features(points: np.ndarray) -> np.ndarray:
    """(..., 478, 6) float32 of mesh points (..., 478, 3) px: [in the aligned crop | frontalised].

    First three: x, y in the aligned 112 crop with its edge pixels at -1 and 1, z in the same unit relative to the mean
    of the stable points.  Last three: `frontalise`.
    """
    points = np.asarray(points, np.float64)
    matrix = similarity(five_points(points), ARCFACE_TEMPLATE)
    half = (ALIGNED - 1) / 2
    scale = np.hypot(matrix[..., 0, 0], matrix[..., 1, 0])
    aligned = points[..., :2] @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]
    depth = points[..., 2] - points[..., STABLE_POINTS, 2].mean(axis=-1, keepdims=True)
    crop_frame = np.concatenate([aligned / half - 1, (depth * scale[..., None] / half)[..., None]], axis=-1)
    return np.concatenate([crop_frame, frontalise(points)], axis=-1).astype(np.float32)
