"""How good a view of a face is for telling the shape of its head: measured, 0 to 1."""

from __future__ import annotations

import cv2
import numpy as np

from ofer_models.perception.head_pose import HeadPose

FULL_SIZE_PX = 45.0  # distance between the outer eye corners from which a face counts as large
# Deviation of the Laplacian as a part of the picture's own: 0.17 to 0.47 on aligned crops of eleven sharp photographs,
# 0.04 to 0.15 after a blur by three pixels.
FULL_SHARPNESS = 0.2


def view_quality(points: np.ndarray, frontal: np.ndarray, occlusion: float, sharpness: float = 1.0) -> float:
    """Quality in 0..1 of a view: points (478, >=2) px, frontal (3,) the face's direction in the camera frame,
    occlusion 0..1, sharpness 0..1. Each factor can spoil a view by itself.
    """
    size = min(1.0, float(np.linalg.norm(points[263, :2] - points[33, :2])) / FULL_SIZE_PX)
    facing = max(0.0, -float(frontal[2]))
    return size * facing**2 * (1 - occlusion) * sharpness


def sharpness(crop: np.ndarray) -> float:
    """0..1 of an aligned crop (3, h, w), any scale and offset: fine detail as a part of the contrast.

    A small or blurred face has little of it after it was scaled up; brightness and contrast do not matter. Only the
    middle of the crop counts, since the background may be sharp where the face is not.
    """
    height, width = crop.shape[-2:]
    middle = crop[:, height // 5 : height - height // 5, width // 5 : width - width // 5]
    grey = middle.mean(axis=0, dtype=np.float32)
    contrast = float(grey.std())
    if contrast < 1e-6:
        return 0.0
    # Sensor noise looks like detail: a light blur first leaves the edges and takes most of it.
    smooth = cv2.GaussianBlur(grey, (3, 3), 0.8)
    detail = float(cv2.Laplacian(smooth, cv2.CV_32F, ksize=1).std())
    return min(1.0, detail / contrast / FULL_SHARPNESS)


def facing(points: np.ndarray, pose: HeadPose | None) -> np.ndarray:
    """Direction of the face (3,) in the camera frame: from the last pose, else from the depth of landmarks (478, 3)."""
    if pose is not None:
        return pose.rotation[:, 2]
    across, down = points[263] - points[33], points[152] - points[10]
    normal = np.cross(down, across)
    return normal / max(float(np.linalg.norm(normal)), 1e-9)
