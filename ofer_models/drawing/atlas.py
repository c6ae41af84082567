"""A head's surface laid out flat, as its texture has it: from corners of triangles to a texture's pixels."""

from __future__ import annotations

import cv2
import numpy as np

from ofer_models.drawing.raster import rasterize

_GUTTER = 8  # px filled around what is covered, so that no seam shows when a texture is sampled or shrunk


def lay_out(vt: np.ndarray, ft: np.ndarray, values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (T, T, C) float32 of triangles' corners (F, 3, C) at the texels that they cover (T, T) bool.

    vt (P, 2) in 0..1, v up, ft (F, 3): where the corners lie; size: T.
    """
    corners = texel(vt, size)[ft].astype(np.float32)
    painted, covered = rasterize(corners, values.astype(np.float32), (size, size))
    return painted, covered > 0


def texel(vt: np.ndarray, size: int) -> np.ndarray:
    """Places vt (..., 2) in 0..1, v up, in px of a texture, its first row at the top."""
    return np.stack([vt[..., 0], 1 - vt[..., 1]], axis=-1) * size - 0.5


def fill_gutters(texture: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """A texture (T, T, 3) float32 whose uncovered texels have their neighbours' mean, and beyond the gutter the whole
    texture's."""
    known = covered.astype(np.float32)
    filled = texture * known[..., None]
    for _ in range(_GUTTER):
        weight = cv2.blur(known, (3, 3))
        new = (known == 0) & (weight > 0)
        filled[new] = cv2.blur(filled, (3, 3))[new] / weight[new, None]
        known[new] = 1
    filled[known == 0] = texture[covered].mean(0) if covered.any() else 0
    return filled
