"""The photograph's own texture on the head: what it shows of the face, and what is likely where the face is hidden.

A texel is seen where the surface faces the camera, nothing of the head lies before it, and the landmarks around it are
open to sight. Elsewhere its mirror image on the other side stands for it, in the light of this side, and where that is
hidden too the albedo and light that fit what is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ofer_models.drawing.atlas import fill_gutters, lay_out
from ofer_models.drawing.raster import rasterize
from ofer_models.drawing.shading import Shader, face_normals
from ofer_models.head.albedo import Albedo
from ofer_models.head.model import HeadModel
from ofer_models.head.spherical_harmonics import AMBIENT, TERMS, harmonics, irradiance
from ofer_models.reconstruction.result import Reconstruction

SIZE = 768  # px of the texture's side
_DEPTHS = 512  # px of the depth map's longer side
_BEFORE = 0.006  # metres: what lies nearer to the camera than that hides a texel
_GRAZING, _FRONTAL = 0.25, 0.55  # cosines of the view from which a texel counts a little, and in full
_DOUBTFUL, _CLEAR = 0.35, 0.65  # of a landmark's chance to be open to sight
_FEATHER = 0.012  # of the texture's side
_FITTED, _ROUNDS, _OFF = 6000, 4, 0.08  # texels, rounds, and the difference from which one counts less
_NEAR, _FAR = 0.012, 0.03  # metres from the nearest landmark: to there all counts, from there on nothing
# Of each texel: what holds the light's terms of the first and second order and the albedo near nothing.
_STIFF_LIGHT, _STIFF_ALBEDO = np.repeat([0.0, 0.02, 0.08], [1, 3, 5]), 0.01
_LEAST = 0.15  # of a light by which another is divided
_UP = np.array([1.0, -1.0, -1.0], np.float32)  # camera axes to those of the light: y up, z towards the camera


@dataclass(frozen=True)
class _Texels:
    """Of n covered texels: place (n, 2) px in the picture, normal (n, 3) in the light's axes, seen (n,) 0..1."""

    place: np.ndarray
    normal: np.ndarray
    seen: np.ndarray


def photo_texture(rgb: np.ndarray, result: Reconstruction, albedo: Albedo) -> np.ndarray:
    """The texture (SIZE, SIZE, 3) uint8 RGB of a face in the picture rgb (H, W, 3) uint8, lit as it is there."""
    head, face = result.head, result.face
    placed = (result.hypotheses[face.selected] @ face.rotation.T + face.translation).astype(np.float32)
    normals = Shader(head.faces, len(placed)).vertex_normals(face_normals(placed, head.faces))
    towards = -placed / np.linalg.norm(placed, axis=1, keepdims=True)
    channels = np.concatenate(
        [placed, normals * _UP, (normals * towards).sum(1, keepdims=True), _open(head, face.visible)[:, None]], axis=1
    )
    partner = mirrored_vertices(head)
    corners = np.concatenate([channels, channels[partner]], axis=1)[head.faces]
    flat, covered = lay_out(albedo.vt, albedo.ft, corners, SIZE)
    depths = _depth_map(placed, result)
    own, other = (_texels(part, result, depths) for part in np.split(flat[covered], 2, axis=1))
    mean, directions = (_enlarged(values)[covered] for values in (albedo.mean, albedo.directions))
    picture = rgb.astype(np.float32) / 255
    colours, mirrored = (_sampled(picture, texels.place) for texels in (own, other))
    skin, light = _fit(colours, own, mean, directions)
    here, there = (np.maximum(irradiance(texels.normal, light), _LEAST) for texels in (own, other))
    guess = skin * here
    weight = _feathered(other.seen, covered)[covered, None]
    guess = guess + weight * (mirrored * np.clip(here / there, 0.4, 2.5) - guess)
    weight = _feathered(own.seen, covered)[covered, None]
    texture = np.zeros((SIZE, SIZE, 3), np.float32)
    texture[covered] = guess + weight * (colours - guess)
    return np.round(255 * np.clip(fill_gutters(texture, covered), 0, 1)).astype(np.uint8)


def mirrored_vertices(head: HeadModel) -> np.ndarray:
    """The vertex (V,) nearest to each one's mirror image on the head at rest."""
    points = head.v_template
    mirrored = points * np.float32([-1, 1, 1])
    found = []
    for part in np.array_split(mirrored, max(1, len(points) // 500)):
        squares = (points**2).sum(1) - 2 * part @ points.T
        found.append(squares.argmin(1))
    return np.concatenate(found)


def _open(head: HeadModel, visible: np.ndarray | None) -> np.ndarray:
    """How far each vertex (V,) is open to sight, 0..1, by the landmarks nearest to it; nothing far from all of them,
    where hair and hats lie on the head."""
    name = "mediapipe" if "mediapipe" in head.embeddings else "landmarks68"
    marks = head.landmarks(head.v_template, name)
    squares = ((head.v_template[:, None] - marks[None]) ** 2).sum(-1)
    nearest = np.argpartition(squares, 4, axis=1)[:, :4]
    near = np.clip((_FAR - np.sqrt(squares.min(1))) / (_FAR - _NEAR), 0, 1)
    if visible is None or len(marks) > len(visible) or name != "mediapipe":
        return near.astype(np.float32)
    clear = np.clip((visible[: len(marks)] - _DOUBTFUL) / (_CLEAR - _DOUBTFUL), 0, 1)
    return (near * clear[nearest].mean(1)).astype(np.float32)


def _depth_map(placed: np.ndarray, result: Reconstruction) -> tuple[np.ndarray, np.ndarray]:
    """Depths (h, w) m of the head, large where there is none, and the map (2, 3) from picture to its px."""
    pixels = result.intrinsics.project(placed).astype(np.float32)
    low, high = pixels.min(0), pixels.max(0)
    scale = _DEPTHS / float((high - low).max())
    corners = (pixels - low) * scale
    faces = result.head.faces
    order = np.argsort(-placed[faces, 2].sum(1))
    shape = tuple(np.ceil((high - low) * scale).astype(int)[::-1] + 1)
    depth, there = rasterize(corners[faces[order]], placed[faces[order], 2:].astype(np.float32), shape)
    return np.where(there > 0, depth[..., 0], 1e3), np.concatenate([scale * np.eye(2), -scale * low[:, None]], axis=1)


def _texels(channels: np.ndarray, result: Reconstruction, depths: tuple[np.ndarray, np.ndarray]) -> _Texels:
    position, normal, facing, open_ = np.split(channels, [3, 6, 7], axis=1)
    place = result.intrinsics.project(position)
    depth, to_map = depths
    x, y = np.round(place @ to_map[:, :2].T + to_map[:, 2]).astype(int).T
    x, y = np.clip(x, 0, depth.shape[1] - 1), np.clip(y, 0, depth.shape[0] - 1)
    before = position[:, 2] < depth[y, x] + _BEFORE
    height, width = result.intrinsics.height, result.intrinsics.width
    inside = (place >= 0).all(1) & (place <= [width - 1, height - 1]).all(1)
    seen = np.clip((facing[:, 0] - _GRAZING) / (_FRONTAL - _GRAZING), 0, 1) * before * inside * open_[:, 0]
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return _Texels(place, normal / np.maximum(length, 1e-9), seen.astype(np.float32))


def _fit(
    colours: np.ndarray, texels: _Texels, mean: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Albedo (n, 3) of all texels and light (27,) that fit the colours (n, 3) of those that are seen, by turns; what
    neither explains, as hair or glasses, counts less."""
    rows = np.flatnonzero(texels.seen > 0.9)
    light = np.zeros(3 * TERMS)
    coefficients = np.zeros(directions.shape[-1])
    if len(rows) < 100:
        return mean, light
    rows = rows[:: max(1, len(rows) // _FITTED)]
    terms = np.stack(harmonics(*texels.normal[rows].T), axis=1).astype(np.float64)
    true, weight = colours[rows].astype(np.float64), np.ones(len(rows))
    stiff = len(rows) * np.diag(_STIFF_LIGHT)
    for _ in range(_ROUNDS):
        skin = mean[rows] + directions[rows] @ coefficients
        for channel in range(3):
            lit = skin[:, channel, None] * terms
            off = true[:, channel] - AMBIENT * lit[:, 0]
            system = (lit * weight[:, None]).T @ lit + stiff
            light[TERMS * channel : TERMS * (channel + 1)] = np.linalg.solve(system, (lit * weight[:, None]).T @ off)
        here = irradiance(texels.normal[rows], light)
        moved = (here[..., None] * directions[rows]).reshape(-1, len(coefficients))
        off = (true - here * mean[rows]).ravel()
        weights = np.repeat(weight, 3)[:, None]
        system = (moved * weights).T @ moved + len(rows) * _STIFF_ALBEDO * np.eye(len(coefficients))
        coefficients = np.linalg.solve(system, (moved * weights).T @ off)
        left = np.abs(off - moved @ coefficients).reshape(-1, 3).mean(1)
        weight = 1 / (1 + (left / _OFF) ** 2)
    return mean + directions @ coefficients.astype(np.float32), light


def _enlarged(values: np.ndarray) -> np.ndarray:
    """An albedo texture (T, T, ...) at SIZE."""
    flat = values.reshape(*values.shape[:2], -1)
    parts = [cv2.resize(flat[..., start : start + 4], (SIZE, SIZE)).reshape(SIZE, SIZE, -1)
             for start in range(0, flat.shape[2], 4)]  # fmt: skip
    return np.concatenate(parts, axis=2).reshape(SIZE, SIZE, *values.shape[2:])


def _sampled(picture: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Colours (n, 3) of a picture at places (n, 2) px."""
    columns = 1 << 12
    padded = np.zeros((-(-len(place) // columns) * columns, 2), np.float32)
    padded[: len(place)] = place
    x, y = padded.reshape(-1, columns, 2).transpose(2, 0, 1)
    found = cv2.remap(picture, np.ascontiguousarray(x), np.ascontiguousarray(y), cv2.INTER_LINEAR,
                      borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
    return found.reshape(-1, 3)[: len(place)]


def _feathered(seen: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Weights (SIZE, SIZE) of what is seen, falling to zero towards its border and not beyond it."""
    picture = np.zeros(covered.shape, np.float32)
    picture[covered] = seen
    picture[~covered] = 1  # an island's border is no border of what is seen
    reach = max(3, round(_FEATHER * len(covered)) | 1)
    return cv2.blur(cv2.erode(picture, np.ones((reach, reach))), (reach, reach)) * picture
