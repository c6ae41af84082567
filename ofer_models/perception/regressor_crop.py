"""What a regressor sees of a face, as its manifest describes it, and where the face then is: from crop to camera."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from ofer_models.bundle.regression import CropSpec, RegressorSpec
from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.head.model import rotation_matrices
from ofer_models.perception.crops import five_points, similarity
from ofer_models.perception.head_pose import HeadPose

# Axes of a head that looks into the camera (y up, z towards it) in the camera's (y down, z away).
TO_CAMERA = np.diag([1.0, -1.0, -1.0])


def crop_map(points: np.ndarray, spec: CropSpec) -> np.ndarray:
    """The map (2, 3) from picture to crop px for mesh points (478, >= 2) px."""
    if spec.align == "five_points":
        return similarity(five_points(points), spec.template)
    marks = points[LANDMARKS68, :2]
    low, high = marks.min(0), marks.max(0)
    side = max(spec.scale * float((high - low).mean()), 1.0)
    step = (spec.size - 1) / side
    return np.column_stack([step * np.eye(2), -step * ((low + high) / 2 - side / 2)])


def regressor_crop(rgb: np.ndarray, points: np.ndarray, spec: CropSpec) -> tuple[np.ndarray, np.ndarray]:
    """Crops (F, 3, S, S) float32 of mesh points (F, 478, >= 2) px in rgb (H, W, 3) uint8, as the network wants them,
    and the maps (F, 2, 3) to their pixels.
    """
    crops, matrices = zip(*(cut_face(rgb, face, spec) for face in points), strict=True)
    return normalised(np.stack(crops), spec), np.stack(matrices)


def cut_face(rgb: np.ndarray, points: np.ndarray, spec: CropSpec) -> tuple[np.ndarray, np.ndarray]:
    """One crop (S, S, 3) uint8 RGB of mesh points (478, >= 2) px, and the map (2, 3) to its pixels."""
    matrix = crop_map(points, spec)
    return _cut(rgb, matrix, spec.size), matrix


def normalised(crops: np.ndarray, spec: CropSpec) -> np.ndarray:
    """Crops (n, S, S, 3) uint8 RGB as the network wants them: (n, 3, S, S) float32."""
    if spec.channels == "bgr":
        crops = crops[..., ::-1]
    scale, offset = 1 / (255 * spec.deviation), spec.mean / spec.deviation
    values = crops * scale.astype(np.float32) - offset.astype(np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def _cut(rgb: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    shrink = int(1 / max(np.hypot(matrix[0, 0], matrix[1, 0]), 1e-6))
    if shrink >= 2:  # a large face is averaged, not subsampled, where it is
        x, y, w, h = _inside(rgb, matrix, size, shrink)
        if w and h:
            matrix = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ [x, y]])
            rgb = cv2.blur(rgb[y : y + h, x : x + w], (shrink, shrink))
    return cv2.warpAffine(rgb, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)


def _inside(rgb: np.ndarray, matrix: np.ndarray, size: int, margin: int) -> tuple[int, int, int, int]:
    """The part x, y, w, h of a picture that a crop shows, with a margin."""
    back = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]]) @ back[:, :2].T + back[:, 2]
    height, width = rgb.shape[:2]
    (x0, y0), (x1, y1) = corners.min(0) - margin, corners.max(0) + margin + 1
    x0, x1 = (int(np.clip(v, 0, width)) for v in (x0, x1))
    y0, y1 = (int(np.clip(v, 0, height)) for v in (y0, y1))
    return x0, y0, x1 - x0, y1 - y0


def crop_camera(matrix: np.ndarray, K: np.ndarray, size: int) -> np.ndarray:
    """Rotation (3, 3) from the picture's camera K (3, 3) to one that looks at the middle of a crop, its x to the crop's
    right; matrix (2, 3): from picture to crop px.
    """
    back = cv2.invertAffineTransform(np.asarray(matrix, np.float64))
    middle = back[:, :2] @ np.full(2, (size - 1) / 2) + back[:, 2]
    ahead = np.linalg.solve(K, [*middle, 1.0])
    ahead /= np.linalg.norm(ahead)
    right = np.array([back[0, 0], back[1, 0], 0.0])
    right -= (right @ ahead) * ahead
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(ahead, right), ahead])


def regressed_rotation(groups: Mapping[str, np.ndarray], spec: RegressorSpec) -> np.ndarray:
    """Rotation (3, 3) of one face's head before a camera that looks at it, from the group `rotation`."""
    told = np.asarray(groups["rotation"], np.float64)
    if spec.rotation == "vector":
        return rotation_matrices(told)
    about = rotation_matrices(np.diag(told))
    return about[2] @ about[1] @ about[0]


def regressed_pose(
    groups: Mapping[str, np.ndarray], spec: RegressorSpec, matrix: np.ndarray, K: np.ndarray, root: np.ndarray,
    middle: np.ndarray,
) -> HeadPose | None:  # fmt: skip
    """The pose of one face in the picture's camera K (3, 3), head frame to optical frame; None where the regressor
    tells none. groups: one face's; matrix (2, 3): its crop's; root, middle (3,) m: its head's root joint and the mean
    of the landmarks, whose distance the scale of a weak perspective tells.
    """
    if "rotation" not in groups or not {"camera", "translation"} & groups.keys():
        return None
    turned = regressed_rotation(groups, spec)
    to_crop = crop_camera(matrix, K, spec.crop.size)
    focal = (K[0, 0] + K[1, 1]) / 2 * float(np.hypot(matrix[0, 0], matrix[1, 0]))  # in px of the crop
    if "camera" in groups:
        scale, *shift = (float(value) for value in groups["camera"])
        depth = focal / max(scale * spec.crop.size / 2, 1e-9)
        seen = (turned @ (middle - root) + root)[:2] + shift  # where the face's middle is before the camera
        centre = TO_CAMERA @ ([*seen, -depth] - turned @ middle)
    else:
        centre = TO_CAMERA @ (np.asarray(groups["translation"], np.float64) - [0, 0, spec.distance])
        centre[2] *= focal / spec.focal
    return HeadPose(to_crop.T @ TO_CAMERA @ turned, to_crop.T @ centre, np.zeros(0))
