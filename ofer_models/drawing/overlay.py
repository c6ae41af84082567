"""The mesh and the landmarks drawn onto the frame, with OpenCV alone."""

from __future__ import annotations

import cv2
import numpy as np

from ofer_models.drawing.atlas import texel
from ofer_models.drawing.raster import rasterize
from ofer_models.drawing.shading import SKIN, Shader, face_normals
from ofer_models.perception.intrinsics import Intrinsics

_OPACITY = 0.7
_LARGEST = 200  # px of a mesh's longer side up to which it is painted pixel by pixel
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
    A mesh of more than `_LARGEST` px is painted at that size and enlarged: its shading has no finer detail.
    """
    if len(vertices) == 0 or vertices[:, 2].min() <= 1e-3:
        return  # at or behind the camera: nothing sensible to draw
    triangles = shader.triangles
    vertices = vertices.astype(np.float32)
    normals = face_normals(vertices, triangles)
    shade = shader.brightness(vertices, normals)[:, None]
    # Facing: the normal points against the ray from the camera to the triangle.
    towards = np.einsum("fc,fc->f", normals, vertices.take(triangles[:, 0], axis=0)) < 0
    visible = triangles[towards]
    depth = vertices[:, 2].take(visible)
    visible = visible.take(np.argsort(-(depth[:, 0] + depth[:, 1] + depth[:, 2])), axis=0)  # sum(axis=1) is slow here
    pixels = intrinsics.project(vertices).astype(np.float32)
    height, width = image.shape[:2]
    left, top = np.floor(np.clip(pixels.min(axis=0), 0, (width, height))).astype(int)
    right, bottom = np.ceil(np.clip(pixels.max(axis=0), 0, (width, height))).astype(int) + 1
    window = image[top:bottom, left:right]
    if window.size == 0 or len(visible) == 0:
        return
    size = np.array(window.shape[1::-1])
    scale = np.maximum(np.ceil(size * min(1.0, _LARGEST / size.max())), 1).astype(np.float32) / size
    corners = (pixels.take(visible, axis=0) - np.float32([left, top]) + 0.5) * scale - 0.5
    values = 255 * (shade if colors is None else shade * colors.astype(np.float32))
    painted, cover = rasterize(corners, values.take(visible, axis=0), tuple(np.rint(scale * size).astype(int)[::-1]))
    # Pixels of the outline are covered in part.
    cover *= opacity * cv2.blur(cover, (3, 3))
    painted = np.clip(painted * (SKIN if colors is None else 1), 0, 255) * cover[..., None]
    if (scale < 1).any():
        painted, cover = (cv2.resize(part, tuple(size.tolist())) for part in (painted, cover))
    window[:] = np.rint(window * (1 - cover[..., None]) + painted).astype(np.uint8)


def draw_textured(
    image: np.ndarray, vertices: np.ndarray, triangles: np.ndarray, intrinsics: Intrinsics, texture: np.ndarray,
    vt: np.ndarray, ft: np.ndarray,
) -> None:  # fmt: skip
    """Draw a mesh with its texture (T, T, 3) uint8 into `image` (H, W, 3) uint8 in place, unlit: the texture has light.

    vertices (V, 3) before the camera; vt (P, 2), v up, ft (F, 3): where triangles (F, 3) lie in the texture.
    """
    towards = np.einsum("fc,fc->f", face_normals(vertices, triangles), vertices[triangles[:, 0]]) < 0
    depth = vertices[triangles, 2].sum(1)
    shown = np.flatnonzero(towards)[np.argsort(-depth[towards])]
    pixels = intrinsics.project(vertices).astype(np.float32)
    places = texel(vt, len(texture)).astype(np.float32)
    where, cover = rasterize(pixels[triangles[shown]], places[ft[shown]], image.shape[:2])
    x, y = (np.ascontiguousarray(where[..., axis]) for axis in (0, 1))
    drawn = cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    image[cover > 0] = drawn[cover > 0]


def draw_landmarks(image: np.ndarray, points: np.ndarray, color: tuple[int, int, int] = _LANDMARK_COLOR) -> None:
    """Mark points (L, 2 or more) px by one pixel each, in place; points outside the image are left out."""
    column, row = np.round(points[:, :2]).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < image.shape[1]) & (row < image.shape[0])
    image[row[inside], column[inside]] = color


def draw_label(image: np.ndarray, roi: tuple[int, int, int, int], text: str) -> None:
    """A thin box (x, y, w, h) px and a line of text above it, in place; nothing for a box without a size."""
    x, y, width, height = (int(value) for value in roi)
    if width < 1 or height < 1:
        return
    cv2.rectangle(image, (x, y), (x + width, y + height), _TEXT_COLOR, 1)
    cv2.putText(image, text, (x, max(y - 5, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _TEXT_COLOR, 1, cv2.LINE_AA)
