"""One picture of what a run did: frame, crop, mesh and six hypotheses of a few moments, a row each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofer_models.drawing.overlay import draw_mesh
from ofer_models.drawing.shading import Shader
from ofer_models.drawing.tiles import Square, blank, crop, letterbox, write, zoomed
from ofer_models.perception.intrinsics import Intrinsics
from ofer_msgs.msg import Face
from ofer_ros.mesh import MeshDecoder

_TILE = 180  # px
_HYPOTHESES = 6
_MARGIN = 1.35  # of the face's box that a tile shows
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
    square = Square.around(moment.intrinsics.project(decoder.vertices(face)), _MARGIN)
    camera = zoomed(moment.intrinsics, square, _TILE)

    def mesh(row: int | None) -> np.ndarray:
        tile = blank(_TILE)
        draw_mesh(tile, decoder.vertices(face, row), shader, camera, opacity=1.0)
        return tile

    tiles = [letterbox(moment.rgb, _TILE), crop(moment.rgb, square, _TILE), mesh(None)]
    for tile, heading in zip(tiles, (moment.label, *_HEADINGS[1:]), strict=True):
        write(tile, heading)
    for row in np.unique(np.linspace(0, face.num_hypotheses - 1, _HYPOTHESES).round().astype(int)):
        tile = mesh(int(row))
        write(tile, f"{row}{' selected' if row == face.selected else ''}")
        tiles.append(tile)
    return np.hstack(tiles + [blank(_TILE)] * (len(_HEADINGS) + _HYPOTHESES - len(tiles)))
