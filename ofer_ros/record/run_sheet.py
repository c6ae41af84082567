"""One picture of what a run did: frame, crop, mesh and six hypotheses of a few moments, a row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ofer_models.drawing.overlay import draw_mesh
from ofer_models.drawing.shading import Shader
from ofer_models.drawing.tiles import BACKGROUND, Square, blank, crop, letterbox, write, zoomed
from ofer_models.perception.intrinsics import Intrinsics
from ofer_msgs.msg import Face
from ofer_ros.output.face_meshes import MeshDecoder

TILE = 180  # px
HYPOTHESES = 6
COLUMNS = 3 + HYPOTHESES
_TITLE_HEIGHT = 26  # px
_FINE = 2  # meshes are drawn this much larger and shrunk, for smooth edges
_MARGIN = 1.35  # of the mesh's extent that a tile shows
_OPACITY = 0.8  # of the mesh over the crop
_SELECTED_COLOR = (110, 220, 120)


@dataclass(frozen=True)
class Moment:
    """A frame (H, W, 3) uint8 RGB with one of its faces and the camera that saw it; label names it on the sheet."""

    rgb: np.ndarray
    face: Face
    intrinsics: Intrinsics
    label: str


def choose_moments(occlusions: Sequence[float], count: int) -> list[int]:
    """Indices, in order, of at most `count` moments: half spread over the run, half the most occluded of the others."""
    total = len(occlusions)
    spread = set(np.linspace(0, total - 1, min(total, (count + 1) // 2)).round().astype(int).tolist())
    others = sorted(set(range(total)) - spread, key=lambda index: -occlusions[index])
    return sorted(spread | set(others[: count - len(spread)]))


def draw_run_sheet(moments: list[Moment], decoder: MeshDecoder) -> np.ndarray:
    """RGB picture: a line of titles and one row a moment. Raises ValueError without moments."""
    if not moments:
        raise ValueError("a contact sheet needs at least one moment with a face")
    shader = Shader(decoder.triangles, len(decoder.vertex_indices))
    rows = [np.hstack(_row(moment, decoder, shader)) for moment in moments]
    return np.vstack([_titles(moments[0].face.num_hypotheses), *rows])


def _titles(hypotheses: int) -> np.ndarray:
    line = np.full((_TITLE_HEIGHT, COLUMNS * TILE, 3), BACKGROUND, np.uint8)
    shown = min(hypotheses, HYPOTHESES)
    titles = ("frame", "crop", "mesh", f"{shown} of {hypotheses} hypotheses with their weights, the likeliest first")
    for column, title in enumerate(titles):
        cv2.putText(line, title, (column * TILE + 5, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.48, 3 * (235,), 1, cv2.LINE_AA)
    return line


def _row(moment: Moment, decoder: MeshDecoder, shader: Shader) -> list[np.ndarray]:
    face = moment.face
    square = Square.around(moment.intrinsics.project(decoder.vertices(face)), _MARGIN)
    camera = zoomed(moment.intrinsics, square, _FINE * TILE)

    def mesh(row: int | None, onto: np.ndarray, opacity: float) -> np.ndarray:
        draw_mesh(onto, decoder.vertices(face, row), shader, camera, opacity)
        return cv2.resize(onto, (TILE, TILE), interpolation=cv2.INTER_AREA)

    tiles = [letterbox(moment.rgb, TILE), crop(moment.rgb, square, TILE)]
    tiles.append(mesh(None, crop(moment.rgb, square, _FINE * TILE), _OPACITY))
    write(tiles[0], moment.label)
    write(tiles[1], f"{100 * face.occlusion:.0f} % hidden")
    write(tiles[2], f"{100 * face.landmark_error:.1f} % off")
    weights = np.array(face.scores)
    likeliest_first = np.argsort(-weights, kind="stable")
    for rank in np.unique(np.linspace(0, len(weights) - 1, HYPOTHESES).round().astype(int)):
        row = int(likeliest_first[rank])
        tile = mesh(row, blank(_FINE * TILE), 1.0)
        write(tile, f"{weights[row]:.3f}")
        if row == face.selected:
            cv2.rectangle(tile, (1, 1), (TILE - 2, TILE - 2), _SELECTED_COLOR, 1)
        tiles.append(tile)
    return tiles + [blank(TILE)] * (COLUMNS - len(tiles))
