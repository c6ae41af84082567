"""A picture of one reconstruction: input, crop, overlay, identity, where the hypotheses differ, and all of them."""

from __future__ import annotations

import cv2
import numpy as np

from ofer_models.drawing.overlay import draw_label, draw_mesh, draw_textured
from ofer_models.drawing.shading import Shader, spread_colors
from ofer_models.drawing.tiles import Square, blank, crop, letterbox, write, zoomed
from ofer_models.head.model import HeadModel
from ofer_models.head.region import region_triangles
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.reconstruction.mesh_files import MeshTexture
from ofer_models.reconstruction.result import Reconstruction

TILE, COLUMNS = 256, 5
_FINE = 2  # meshes are drawn this much larger and shrunk, for smooth edges
_MARGIN = 1.35  # of the face's projection that crop and overlay show
_DISTANCE = 4.0  # head sizes, from which meshes are seen from the front
_TO_CAMERA = np.array([1.0, -1.0, -1.0])  # head frame, seen from the front, to the camera's axes
_SURE = 0.5  # mm: a scale never ends below it, so that noise does not look like doubt
_BAR = (226, 236, 30, 190)  # left, right, top, bottom of the colour bar, px


class _Region:
    """Triangles of the head, all or those in a mask, over the vertices that they use."""

    def __init__(self, head: HeadModel, mask: str | None = None) -> None:
        faces = region_triangles(head, mask) if mask else head.faces
        self.vertices, corners = np.unique(faces, return_inverse=True)
        self.shader = Shader(corners.reshape(-1, 3), len(self.vertices))


def draw_sheet(rgb: np.ndarray, result: Reconstruction, texture: MeshTexture | None = None) -> np.ndarray:
    """The sheet (rows, COLUMNS * TILE, 3) uint8 RGB of a face of the picture rgb (H, W, 3) uint8; with its texture the
    selected hypothesis is also shown in it, from the front and from both sides."""
    face, head, whole = result.face, result.head, _Region(result.head)
    middle, distance, front = _front_view(result.identity)

    def frontal(vertices: np.ndarray, text: str, colors: np.ndarray | None = None) -> np.ndarray:
        placed = (vertices - middle) * _TO_CAMERA + [0, 0, distance]
        tile = _mesh_tile(placed, whole, front, colors)
        write(tile, text)
        return tile

    tiles = [*_views_of_the_picture(rgb, result), frontal(result.identity, f"identity, p = {face.identity_score:.2f}")]
    limit = float(np.fmax(np.percentile(result.spread_mm[head.masks["face"]], 99), _SURE))
    known = len(result.hypotheses) > 1
    text = "spread of hypotheses" if known else "spread: not known of one"
    uncertainty = frontal(result.hypotheses.mean(0), text, spread_colors(result.spread_mm, limit))
    if known:
        _draw_bar(uncertainty, limit)
    tiles.append(uncertainty)
    for row, vertices in enumerate(result.hypotheses):
        selected = row == face.selected
        tile = frontal(vertices, f"{row}  {face.scores[row]:.2f}{'  selected' if selected else ''}")
        if selected:
            cv2.rectangle(tile, (1, 1), (TILE - 2, TILE - 2), (80, 230, 80), 2)
        tiles.append(tile)
    if texture is not None:
        for degrees in (0, -35, 35):
            turned = _turned(result.hypotheses[face.selected] - middle, degrees) * _TO_CAMERA + [0, 0, distance]
            tile = blank(_FINE * TILE)
            draw_textured(tile, turned, head.faces, front, texture.picture, texture.vt, texture.ft)
            tile = cv2.resize(tile, (TILE, TILE), interpolation=cv2.INTER_AREA)
            write(tile, f"texture, {degrees} degrees")
            tiles.append(tile)
    tiles += [blank(TILE)] * (-len(tiles) % COLUMNS)
    return np.vstack([np.hstack(tiles[start : start + COLUMNS]) for start in range(0, len(tiles), COLUMNS)])


def _views_of_the_picture(rgb: np.ndarray, result: Reconstruction) -> list[np.ndarray]:
    """The whole picture with the face's box, the crop, and the selected hypothesis over the crop."""
    face = result.face
    region = _Region(result.head, "face")
    placed = result.hypotheses[face.selected] @ face.rotation.T + face.translation
    square = Square.around(face.landmarks[:, :2], _MARGIN)
    marked = letterbox(rgb, TILE)
    scale = TILE / max(rgb.shape[:2])
    left, top = (TILE - rgb.shape[1] * scale) / 2, (TILE - rgb.shape[0] * scale) / 2
    x, y, width, height = face.roi
    box = (round(left + x * scale), round(top + y * scale), round(width * scale), round(height * scale))
    draw_label(marked, box, "")
    plain = crop(rgb, square, TILE)
    overlay = plain.copy()
    draw_mesh(overlay, placed[region.vertices], region.shader, zoomed(result.intrinsics, square, TILE))
    tiles = [marked, plain, overlay]
    for tile, text in zip(tiles, (f"input, {result.name}", f"occlusion {face.occlusion:.2f}", "overlay"), strict=True):
        write(tile, text)
    return tiles


def _front_view(identity: np.ndarray) -> tuple[np.ndarray, float, Intrinsics]:
    """The neutral head's middle (3,), the distance to see it from, and a camera that it then fills but for a margin."""
    low, high = identity.min(0), identity.max(0)
    extent = float((high - low).max())
    size, distance = _FINE * TILE, _DISTANCE * extent
    focal = size * (distance - extent / 2) / extent
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return (low + high) / 2, distance, Intrinsics(K, size, size)


def _turned(vertices: np.ndarray, degrees: float) -> np.ndarray:
    """Vertices (V, 3) turned about the vertical axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return vertices @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])


def _mesh_tile(vertices: np.ndarray, region: _Region, camera: Intrinsics, colors: np.ndarray | None) -> np.ndarray:
    fine = blank(_FINE * TILE)
    chosen = None if colors is None else colors[region.vertices]
    draw_mesh(fine, vertices[region.vertices], region.shader, camera, opacity=1.0, colors=chosen)
    return cv2.resize(fine, (TILE, TILE), interpolation=cv2.INTER_AREA)


def _draw_bar(tile: np.ndarray, limit: float) -> None:
    left, right, top, bottom = _BAR
    tile[top:bottom, left:right] = 255 * spread_colors(np.linspace(limit, 0, bottom - top), limit)[:, None]
    for text, row in ((f"{limit:.1f} mm", top - 8), ("0", bottom + 14)):
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.36, 1)
        place = (tile.shape[1] - 6 - max(width, tile.shape[1] - right), row)
        cv2.putText(tile, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1, cv2.LINE_AA)
