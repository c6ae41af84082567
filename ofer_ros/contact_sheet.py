"""One picture of what a run did: frame, crop, mesh and six hypotheses of a few moments, a row each."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ofer_models.drawing.overlay import draw_mesh
from ofer_models.drawing.shading import Shader
from ofer_models.perception.intrinsics import Intrinsics
from ofer_msgs.msg import Face
from ofer_ros.mesh import MeshDecoder

_TILE = 180  # px
_HYPOTHESES = 6
_MARGIN = 1.35  # of the face's box that a tile shows
_BACKGROUND = 40
_HEADINGS = ("frame", "crop", "mesh")


@dataclass(frozen=True)
class Moment:
    """A frame (H, W, 3) uint8 RGB with one of its faces and the camera that saw it; label names it on the sheet."""

    rgb: np.ndarray
    face: Face
    intrinsics: Intrinsics
    label: str


def contact_sheet(moments: list[Moment], decoder: MeshDecoder) -> np.ndarray:
    """RGB picture with one row a moment. Raises ValueError without moments."""
    if not moments:
        raise ValueError("a contact sheet needs at least one moment with a face")
    shader = Shader(decoder.triangles, len(decoder.vertex_indices))
    return np.vstack([_row(moment, decoder, shader) for moment in moments])


def _row(moment: Moment, decoder: MeshDecoder, shader: Shader) -> np.ndarray:
    face = moment.face
    square = _square(decoder.vertices(face), moment.intrinsics)
    camera = _zoomed(moment.intrinsics, square)

    def mesh(row: int | None) -> np.ndarray:
        tile = np.full((_TILE, _TILE, 3), _BACKGROUND, np.uint8)
        draw_mesh(tile, decoder.vertices(face, row), shader, camera, opacity=1.0)
        return tile

    tiles = [_frame_tile(moment.rgb), _crop(moment.rgb, square), mesh(None)]
    for tile, heading in zip(tiles, (moment.label, *_HEADINGS[1:]), strict=True):
        _write(tile, heading)
    for row in np.unique(np.linspace(0, face.num_hypotheses - 1, _HYPOTHESES).round().astype(int)):
        tile = mesh(int(row))
        _write(tile, f"{row}{' selected' if row == face.selected else ''}")
        tiles.append(tile)
    blank = np.full((_TILE, _TILE, 3), _BACKGROUND, np.uint8)
    return np.hstack(tiles + [blank] * (len(_HEADINGS) + _HYPOTHESES - len(tiles)))


def _square(vertices: np.ndarray, intrinsics: Intrinsics) -> tuple[float, float, float]:
    """Left, top and side (px) of the square around the projected mesh."""
    pixels = intrinsics.project(vertices)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    side = _MARGIN * float((high - low).max())
    left, top = (low + high - side) / 2
    return float(left), float(top), side


def _zoomed(intrinsics: Intrinsics, square: tuple[float, float, float]) -> Intrinsics:
    """The pinhole camera whose whole picture is that square, at a tile's size."""
    left, top, side = square
    scale = _TILE / side
    to_tile = np.array([[scale, 0, -scale * left], [0, scale, -scale * top], [0, 0, 1]])
    return Intrinsics(to_tile @ intrinsics.K, _TILE, _TILE, metric=intrinsics.metric)


def _crop(rgb: np.ndarray, square: tuple[float, float, float]) -> np.ndarray:
    left, top, side = square
    scale = _TILE / side
    matrix = np.array([[scale, 0, -scale * left], [0, scale, -scale * top]])
    return cv2.warpAffine(rgb, matrix, (_TILE, _TILE), flags=cv2.INTER_AREA, borderValue=3 * (_BACKGROUND,))


def _frame_tile(rgb: np.ndarray) -> np.ndarray:
    height, width = rgb.shape[:2]
    scale = _TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    tile = np.full((_TILE, _TILE, 3), _BACKGROUND, np.uint8)
    top, left = (_TILE - size[1]) // 2, (_TILE - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return tile


def _write(tile: np.ndarray, text: str) -> None:
    cv2.putText(tile, text, (5, _TILE - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(tile, text, (5, _TILE - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
