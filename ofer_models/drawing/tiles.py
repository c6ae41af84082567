"""Square tiles of which contact sheets are made: a frame, a crop of it, a mesh, and text on them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from ofer_models.perception.intrinsics import Intrinsics

BACKGROUND = 40  # grey level
_FONT, _FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


class Square(NamedTuple):
    """A part of a picture, px; it may reach beyond the picture."""

    left: float
    top: float
    side: float

    @classmethod
    def around(cls, pixels: np.ndarray, margin: float) -> Square:
        """The square with the middle of pixels (L, 2), `margin` times as large as they need."""
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        side = margin * max(float((high - low).max()), 1.0)
        left, top = (low + high - side) / 2
        return cls(float(left), float(top), side)


def zoomed(intrinsics: Intrinsics, square: Square, size: int) -> Intrinsics:
    """The camera whose whole picture is that square of the given camera's, at a tile's size in px."""
    scale = size / square.side
    to_tile = np.array([[scale, 0, -scale * square.left], [0, scale, -scale * square.top], [0, 0, 1]])
    return replace(intrinsics, K=to_tile @ intrinsics.K, width=size, height=size)


def blank(size: int) -> np.ndarray:
    """An empty tile (size, size, 3) uint8."""
    return np.full((size, size, 3), BACKGROUND, np.uint8)


def crop(rgb: np.ndarray, square: Square, size: int) -> np.ndarray:
    """A square of a picture (H, W, 3) uint8 as a tile; what lies outside of it is background."""
    scale = size / square.side
    height, width = rgb.shape[:2]
    if scale < 1:  # shrinking by areas first: warping alone would skip pixels
        shrunk = (max(1, round(width * scale)), max(1, round(height * scale)))
        rgb = cv2.resize(rgb, shrunk, interpolation=cv2.INTER_AREA)
    sx, sy = scale * width / rgb.shape[1], scale * height / rgb.shape[0]
    matrix = np.array([[sx, 0, -scale * square.left], [0, sy, -scale * square.top]])
    return cv2.warpAffine(rgb, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=3 * (BACKGROUND,))


def letterbox(rgb: np.ndarray, size: int) -> np.ndarray:
    """A whole picture (H, W, 3) uint8 in the middle of a tile."""
    height, width = rgb.shape[:2]
    scale = size / max(height, width)
    shown = (max(1, round(width * scale)), max(1, round(height * scale)))
    tile = blank(size)
    top, left = (size - shown[1]) // 2, (size - shown[0]) // 2
    tile[top : top + shown[1], left : left + shown[0]] = cv2.resize(rgb, shown, interpolation=cv2.INTER_AREA)
    return tile


def write(tile: np.ndarray, text: str) -> None:
    """A line of text along the tile's lower edge, in place."""
    place = (5, tile.shape[0] - 7)
    cv2.putText(tile, text, place, _FONT, _FONT_SIZE, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(tile, text, place, _FONT, _FONT_SIZE, (255, 255, 255), 1, cv2.LINE_AA)
