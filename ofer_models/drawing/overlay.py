"""The mesh and the landmarks drawn onto the frame, with OpenCV alone."""

from __future__ import annotations

import cv2
import numpy as np

from ofer_models.drawing.shading import SKIN, Shader, face_normals
from ofer_models.perception.intrinsics import Intrinsics

_SHIFT = 3  # fractional bits of the coordinates handed to OpenCV
_OPACITY = 0.7
_SLIVER = 0.05  # px^2, twice the area
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
    index = np.full(window.shape[:2], -1, np.int32)
    corners = pixels[visible] - (left, top)
    for number, corner in enumerate(np.round(corners * (1 << _SHIFT)).astype(np.int32)):
        cv2.fillConvexPoly(index, corner, number, cv2.LINE_8, _SHIFT)
    row, column = np.nonzero(index >= 0)
    drawn = index[row, column]
    paint = shade[visible][..., None] * (1.0 if colors is None else colors[visible])
    surface = _planes(corners, paint.astype(np.float32))[drawn]
    color = surface[:, 0] * column[:, None] + surface[:, 1] * row[:, None] + surface[:, 2]
    color = np.clip(255 * color * (SKIN if colors is None else 1), 0, 255)
    # Pixels of the outline are covered in part.
    cover = opacity * cv2.blur((index >= 0).astype(np.float32), (3, 3))[row, column, None]
    window[row, column] = np.round(window[row, column] * (1 - cover) + cover * color).astype(np.uint8)


def _planes(corners: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values (F, 3, C) at triangles' corners (F, 3, 2) px as planes (F, 3, C): slope to the right, slope down, value at
    (0, 0). A sliver, in which the slope means nothing, has its mean.
    """
    a, b, c = corners.transpose(1, 0, 2)
    u, v = b - a, c - a
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    good = np.abs(area) > _SLIVER
    area = np.where(good, area, 1)[:, None]
    along_u, along_v = values[:, 1] - values[:, 0], values[:, 2] - values[:, 0]
    right = (along_u * v[:, 1:] - along_v * u[:, 1:]) / area * good[:, None]
    down = (along_v * u[:, :1] - along_u * v[:, :1]) / area * good[:, None]
    origin = np.where(good[:, None], values[:, 0], values.mean(axis=1)) - right * a[:, :1] - down * a[:, 1:]
    return np.stack([right, down, origin], axis=1).astype(np.float32)


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
