"""The albedo of the open head: principal components of the skins and eyes that training pictures show (CC0), in a
texture of its own.

MakeHuman's skins show whole bodies; the head's islands are cut out of their layout and put together anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ofer_models.drawing.atlas import fill_gutters, lay_out
from ofer_models.head.model import HeadModel
from ofer_models.workshop.bundle_writer import Provenance
from ofer_models.workshop.pictures.people.assets import PACKAGE, Library

SIZE, COMPONENTS = 256, 20
PROVENANCE = Provenance(f"components of the skins in {PACKAGE} (`ofer build-head --skins`)", "CC0-1.0", True)
_TONES = 4  # of each skin
_TONE, _TINT, _GAMMA = 0.22, 0.05, 2.2  # deviations of the logarithm of a tone, all colours and each, as in `looks`
_STEP = 1 / 256  # directions are rounded to it: half of a byte's step at a coefficient of two
# Scale of MakeHuman's layout for the eyes and for all else but the head, and the space around islands.
_EYES, _OTHERS, _MARGIN = 7.0, 0.9, 0.01
_LARGER = 2.2  # how much more room than in MakeHuman's layout the middle of the face has, in a sense: see `_magnified`
_ROUNDING = 1e5


def build_albedo(head: HeadModel, library: Library, out: Path, seed: int = 0) -> None:
    """Write `albedo.npz` for the open head: a mean and COMPONENTS directions of one deviation each."""
    from ofer_models.workshop.pictures.people.body import Body, corner_uv  # needs numba

    source = corner_uv(head, library)
    nose = head.embeddings["landmarks68"].triangle[27:36]
    body = Body(head, library)
    eye = body.eye_faces
    vt, ft = _atlas(source, nose, eye)
    values = np.concatenate([np.where(eye[:, None, None], body.uv, source), np.repeat(eye[:, None, None], 3, 1)], -1)
    places, covered = lay_out(vt, ft, values, SIZE)
    skins = np.stack(list(_skins(library, places, covered, np.random.default_rng(seed))))
    mean = skins.mean(0)
    flat = (skins - mean).reshape(len(skins), -1)
    _, deviations, directions = np.linalg.svd(flat, full_matrices=False)
    directions = (deviations[:COMPONENTS, None] / np.sqrt(len(skins)) * directions[:COMPONENTS]).T
    rounded = np.round(directions / _STEP) * _STEP
    np.savez_compressed(
        out, mean=np.round(255 * mean).astype(np.uint8), vt=vt.astype(np.float32), ft=ft.astype(np.int32),
        tex_dir=rounded.reshape(*mean.shape, COMPONENTS).astype(np.float16),
    )  # fmt: skip


def _skins(
    library: Library, places: np.ndarray, covered: np.ndarray, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Textures (SIZE, SIZE, 3) float32 sRGB of all skins in some tones, each with an eye."""
    from ofer_models.workshop.pictures.people.body import eye_paint

    eyes = library.textures_of("eyes")
    at = [np.ascontiguousarray(places[..., axis] * 512 - 0.5, np.float32) for axis in (0, 1)]
    for number in library.textures_of("skins"):
        for _ in range(_TONES):
            skin = library.textures[number][..., :3].astype(np.float32) / 255
            eye = eye_paint(library.textures[rng.choice(eyes)])[..., :3].astype(np.float32) / 255
            tone = np.exp(rng.normal(0, _TONE) + rng.normal(0, _TINT, 3)) ** (1 / _GAMMA)
            parts = [cv2.remap(texture, *at, cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
                     for texture in (skin * np.float32(tone), eye)]  # fmt: skip
            painted = np.where(places[..., 2:] > 0.5, parts[1], parts[0])
            yield fill_gutters(np.clip(painted, 0, 1), covered)


def _atlas(source: np.ndarray, face: np.ndarray, eye: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """vt (P, 2), v up, and ft (F, 3) of corners (F, 3, 2) in MakeHuman's layout, v down: the head itself above, upright
    and with most room for its triangles `face`, and all other islands in a row below. eye (F,) bool."""
    x, y = source[face].reshape(-1, 2).mean(0)
    middle = np.array([1 - y, x])
    keys, ft = np.unique(np.round(source.reshape(-1, 2) * _ROUNDING).astype(np.int64), axis=0, return_inverse=True)
    ft = ft.reshape(-1, 3)
    points = keys / _ROUNDING
    island = _islands(ft, len(points))
    sizes = np.bincount(island[ft[:, 0]], minlength=island.max() + 1)
    eyes = set(island[ft[eye].ravel()].tolist())
    placed, left = np.empty_like(points), _MARGIN
    below = 0.0
    for number in np.argsort(-sizes):
        own = island == number
        part = points[own]
        if number == sizes.argmax():  # lies on its side there, the crown to the left
            part = _magnified(np.stack([1 - part[:, 1], part[:, 0]], -1), middle)
        part = part - part.min(0)
        if number == sizes.argmax():
            part *= (1 - 2 * _MARGIN) / part[:, 0].max()
            placed[own] = part + _MARGIN
            below = part[:, 1].max() + 2 * _MARGIN
        else:
            part *= _EYES if number in eyes else _OTHERS
            placed[own] = part + [left, below]
            left += part[:, 0].max() + _MARGIN
    if placed.max() > 1 or placed.min() < 0:
        raise ValueError("the islands of the head's texture do not fit")
    return np.stack([placed[:, 0], 1 - placed[:, 1]], -1), ft


def _magnified(points: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Points (P, 2) moved away from the middle, less and less further out: no two change their order on a ray."""
    away = points - middle
    radius = np.linalg.norm(away, axis=1, keepdims=True)
    most = radius.max()
    return middle + away * most * (1 - np.exp(-_LARGER * radius / most)) / np.maximum(radius, 1e-9)


def _islands(ft: np.ndarray, count: int) -> np.ndarray:
    """Number (P,) of the connected part that each place belongs to."""
    number = np.arange(count)
    while True:
        least = number[ft].min(1)
        new = number.copy()
        for corner in range(3):
            np.minimum.at(new, ft[:, corner], least)
        new = new[new]
        if np.array_equal(new, number):
            return np.unique(number, return_inverse=True)[1]
        number = new
