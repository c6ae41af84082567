"""Where the camera of a training picture stands: as the landmark network's crop is cut."""

from __future__ import annotations

import numpy as np

from ofer_models.head.model import rotation_matrices
from ofer_models.perception.crops import five_points, similarity
from ofer_models.perception.landmark_crop import CROP_TEMPLATE, INPUT

SIZE = 160  # px of a training picture's side: the network's crop with room to move it by
MARGIN = (SIZE - INPUT) / 2
_TO_CAMERA = np.array([1.0, -1.0, -1.0], np.float32)  # head axes to a camera that looks at the face


def random_turn(rng: np.random.Generator) -> np.ndarray:
    """Head rotation (3, 3): mostly towards the camera, one in three anywhere to profile."""
    wide = rng.uniform() < 0.35
    yaw = rng.uniform(-80, 80) if wide else np.clip(rng.normal(0, 20), -80, 80)
    pitch = np.clip(rng.normal(0, 13), -42, 42)
    turn = np.eye(3, dtype=np.float32)
    for axis, angle in enumerate((pitch, yaw, rng.normal(0, 12))):
        turn = rotation_matrices((np.eye(3)[axis] * np.radians(angle)).astype(np.float32)) @ turn
    return turn


def crop_camera(
    landmarks: np.ndarray, middle: np.ndarray, turn: np.ndarray, distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """A camera that sees landmarks (>= 468, 3) as the network's crop does: its matrix (3, 3), and the pose (3, 4) of a
    head turned by (3, 3) whose `middle` lies `distance` metres in front of it.
    """
    rotation = _TO_CAMERA[:, None] * turn
    pose = np.concatenate([rotation, (np.array([0, 0, distance]) - rotation @ middle)[:, None]], axis=1)
    seen = placed(landmarks, pose)
    crop = similarity(five_points(seen[:, :2] / seen[:, 2:]), CROP_TEMPLATE + MARGIN)
    focal = float(np.hypot(crop[0, 0], crop[1, 0]))
    roll = np.eye(3)
    roll[:2, :2] = crop[:, :2] / focal
    camera = np.array([[focal, 0, crop[0, 2]], [0, focal, crop[1, 2]], [0, 0, 1]])
    return camera, roll @ pose


def placed(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points (P, 3) of a head's frame in a camera's, float32, by a pose (3, 4)."""
    return (points @ pose[:, :3].T + pose[:, 3]).astype(np.float32)


def project(points: np.ndarray, camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depths (P,) and pixels (P, 2) float32 of points (P, 3) in the camera's frame."""
    pixels = points[:, :2] / points[:, 2:] * camera[0, 0] + camera[:2, 2]
    return points[:, 2].astype(np.float32), pixels.astype(np.float32)
