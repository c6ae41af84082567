"""The mesh and the landmarks drawn onto the frame, with OpenCV alone."""

from __future__ import annotations

import cv2
import numpy as np

from ofer_models.drawing.shading import SKIN, Shader, face_normals
from ofer_models.perception.intrinsics import Intrinsics

_SHIFT = 3  # fractional bits of the coordinates handed to OpenCV
_OPACITY = 0.7
_LANDMARK_COLOR = (80, 230, 80)
_TEXT_COLOR = (255, 230, 90)


def draw_mesh(
    image: np.ndarray,
    vertices: np.ndarray,
    shader: Shader,
    intrinsics: Intrinsics,
    opacity: float = _OPACITY,
    colors: np.ndarray | None = None,
) -> None:
    """Blend a shaded mesh into `image` (H, W, 3) uint8 in place.

    vertices (V, 3) in the camera optical frame; colors (V, 3) RGB in 0..1, the colour of skin by default. Triangles
    that face away are left out, the rest is painted from far to near: enough for a head, and no depth buffer is needed.
    """
    if len(vertices) == 0 or vertices[:, 2].min() <= 1e-3:
        return  # at or behind the camera: nothing sensible to draw
    triangles = shader.triangles
    normals = face_normals(vertices.astype(np.float32), triangles)
    shade = shader.brightness(vertices, normals)
    # Facing: the normal points against the ray from the camera to the triangle.
    towards = np.einsum("fc,fc->f", normals, vertices[triangles[:, 0]].astype(np.float32)) < 0
    visible = triangles[towards]
    depth = vertices[:, 2][visible].sum(axis=1)
    visible = visible[np.argsort(-depth)]
    pixels = intrinsics.project(vertices)
    height, width = image.shape[:2]
    left, top = np.floor(np.clip(pixels.min(axis=0), 0, (width, height))).astype(int)
    right, bottom = np.ceil(np.clip(pixels.max(axis=0), 0, (width, height))).astype(int) + 1
    window = image[top:bottom, left:right]
    if window.size == 0 or len(visible) == 0:
        return
    painted = window.copy()
    corners = np.round((pixels - (left, top))[visible] * (1 << _SHIFT)).astype(np.int32)
    paint = SKIN if colors is None else colors[visible].mean(axis=1)
    filled = (255 * shade[visible].mean(axis=1)[:, None] * paint).tolist()
    for corner, color in zip(corners, filled, strict=True):
        cv2.fillConvexPoly(painted, corner, color, cv2.LINE_8, _SHIFT)
    cv2.addWeighted(painted, opacity, window, 1.0 - opacity, 0.0, dst=window)


def draw_landmarks(image: np.ndarray, points: np.ndarray, color: tuple[int, int, int] = _LANDMARK_COLOR) -> None:
    """Mark points (L, 2 or more) px by one pixel each, in place; points outside the image are left out."""
    column, row = np.round(points[:, :2]).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < image.shape[1]) & (row < image.shape[0])
    image[row[inside], column[inside]] = color


def draw_label(image: np.ndarray, roi: tuple[int, int, int, int], text: str) -> None:
    """A thin box (x, y, w, h) px and a line of text above it, in place."""
    x, y, width, height = (int(value) for value in roi)
    cv2.rectangle(image, (x, y), (x + width, y + height), _TEXT_COLOR, 1)
    cv2.putText(image, text, (x, max(y - 5, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _TEXT_COLOR, 1, cv2.LINE_AA)
