"""Sheets to look at: of a head just built (people, expression units, jaw, poses), and of training pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ofer_models.head.model import HeadModel, rotation_matrices
from ofer_models.perception.pictures import write_picture
from ofer_models.workshop.pictures.paint import paint_head
from ofer_models.workshop.pictures.people.source import Picture
from ofer_models.workshop.pictures.pictures import Sample
from ofer_models.workshop.pictures.render import plain_light, render
from ofer_models.workshop.pictures.surface import describe_surface

_TILE, _COLUMNS = 200, 8
_CAMERA = np.array([[600.0, 0, _TILE / 2], [0, 600.0, _TILE / 2], [0, 0, 1]])
_GREY = 0.5


def draw_head_sheet(head_path: Path, out: Path, seed: int = 0) -> None:
    """Write a PNG: a row each of identities, jaw openings and turns, then one tile for each expression unit."""
    head = HeadModel.load(head_path)
    surface = describe_surface(head)
    brows = head.landmarks(head.v_template, "landmarks68")
    rng = np.random.default_rng(seed)
    paint = paint_head(surface, brows, np.random.default_rng(5))
    nobody = np.zeros(head.n_shape, np.float32)

    def tile(
        label: str, vertices: np.ndarray, turn: tuple[float, float, float] = (0, 0, 0), skin: np.ndarray = paint
    ) -> np.ndarray:
        middle = vertices[head.masks["eyes"]].mean(0) - [0, 0.03, 0.03]
        placed = (vertices - middle) @ rotation_matrices(np.array(turn, np.float32)).T * [1, -1, -1] + [0, 0, 0.8]
        background = np.full((_TILE, _TILE, 3), _GREY, np.float32)
        drawn = render(head, surface, placed.astype(np.float32), _CAMERA, skin, plain_light(), background)
        picture = np.ascontiguousarray((np.clip(drawn.image, 0, 1) * 255).astype(np.uint8)[..., ::-1])
        cv2.putText(picture, label, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
        return picture

    tiles = [
        tile("identity", head.decode(rng.standard_normal(head.n_shape)), skin=paint_head(surface, brows, rng))
        for _ in range(2 * _COLUMNS)
    ]
    full = head.jaw_open_angle or 0.36
    tiles += [
        tile(f"jaw {share:.2f}", head.decode(nobody, jaw=np.array([share * full, 0, 0])))
        for share in np.linspace(0, 1, _COLUMNS)
    ]
    tiles += [
        tile(f"yaw {np.degrees(yaw):.0f}", head.v_template, (0, yaw, 0)) for yaw in np.linspace(-1.2, 1.2, _COLUMNS)
    ]
    for index, name in enumerate(head.expression_names):
        tiles.append(tile(name, head.decode(nobody, np.eye(head.n_expression, dtype=np.float32)[index])))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_picture(out, sheet(tiles))


def picture_tile(picture: np.ndarray, sample: Sample | None) -> np.ndarray:
    """A training picture (H, W, 3) RGB with MediaPipe's points (green), the true ones (red) and the crop: BGR, H high.

    Without a sample, where no face was found, the crop is grey.
    """
    height = len(picture)
    tile = np.full((height, height + 112, 3), 127, np.uint8)
    tile[:, :height] = picture[..., ::-1]
    if sample is not None:
        for points, colour in ((sample.true_points, (60, 60, 255)), (sample.points[:468], (90, 220, 60))):
            for x, y in np.round(points[::4, :2]).astype(int):
                cv2.circle(tile, (int(x), int(y)), 0, colour, -1)
        tile[:112, height:] = sample.crop[..., ::-1]
        cv2.putText(tile, f"hidden {sample.occlusion:.0%}", (height + 4, 132), cv2.FONT_HERSHEY_SIMPLEX, 0.4,
                    (255, 255, 255), 1, cv2.LINE_AA)  # fmt: skip
    return tile


def people_tile(picture: Picture) -> np.ndarray:
    """A picture of a person and, beside it, the same with its points, those that are seen in green: BGR, H high."""
    plain = picture.image[..., ::-1]
    marked = plain.copy()
    for (x, y), seen in zip(np.round(picture.points), picture.visible, strict=True):
        cv2.circle(marked, (int(x), int(y)), 0, (90, 220, 60) if seen else (60, 60, 255), -1)
    return np.hstack([plain, marked])


def sheet(tiles: list[np.ndarray]) -> np.ndarray:
    """Tiles of one size in rows of eight."""
    tiles = tiles + [np.full_like(tiles[0], 127)] * (-len(tiles) % _COLUMNS)
    return np.vstack([np.hstack(tiles[start : start + _COLUMNS]) for start in range(0, len(tiles), _COLUMNS)])
