"""Landmarks on the surface of the open head, found as a camera would find them.

Frontal pictures of many identities are rendered, MediaPipe places its 468 points, each point is cast back onto the
mesh, and the places on the mean head are averaged over the identities. So the head's landmarks are where MediaPipe sees
them, not where an artist would; but each on its own lip or lid, and none on an eyeball (see `face_parts`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ofer_models.head.landmark_sets import LANDMARKS68, N_MEDIAPIPE, NOW7
from ofer_models.head.model import HeadModel
from ofer_models.workshop.head.face_parts import PART_POINTS, part_triangles

EMBEDDING_NAMES = ("mediapipe", "landmarks68", "now7")
_PICTURE = 384
_CANDIDATES = 30  # triangles looked at when a place is put back on the surface
_DISTANCE = 0.9  # metres from the camera to the head


def embed_landmarks(
    head: HeadModel, *, identities: int = 160, seed: int = 0, progress: Callable = lambda iterable, text: iterable
) -> dict[str, np.ndarray]:
    """Embedding arrays by `head.npz` name, and landmark_spread_mm: how far the places differ between identities."""
    from ofer_models.perception.intrinsics import project
    from ofer_models.perception.landmarks import FaceLandmarker, Roi
    from ofer_models.workshop.pictures.paint import paint_head
    from ofer_models.workshop.pictures.render import plain_light, render
    from ofer_models.workshop.pictures.surface import MOUTH, describe_surface

    surface, landmarker = describe_surface(head), FaceLandmarker()
    camera = np.array([[1100.0, 0, _PICTURE / 2], [0, 1100.0, _PICTURE / 2], [0, 0, 1]])
    outside = surface.material != MOUTH
    rng = np.random.default_rng(seed)
    places = []
    for _ in progress(range(identities), "placing landmarks"):
        betas = rng.standard_normal(head.n_shape).astype(np.float32)
        shaped = head.shaped(betas)
        vertices = (shaped - _middle(head, shaped)) * [1, -1, -1] + [0, 0, _DISTANCE]
        background = np.full((_PICTURE, _PICTURE, 3), rng.uniform(0.2, 0.8), np.float32)
        drawn = render(head, surface, vertices, camera, paint_head(surface, None, rng), plain_light(), background)
        picture = (np.clip(drawn.image, 0, 1) * 255).astype(np.uint8)
        eyes = project(vertices[head.masks["eyes"]].mean(0), camera)
        result = landmarker(picture, Roi(eyes[0], eyes[1] + 40, 330.0, 0.0))
        if result is None or result.presence < 0.5:
            continue
        places.append(_cast(result.points[:N_MEDIAPIPE, :2], drawn.triangle, drawn.bary, outside, head))
    if len(places) < identities // 2:
        raise RuntimeError(
            f"MediaPipe found {len(places)} of {identities} rendered heads; something is wrong with the rendering"
        )
    stacked = np.stack(places)
    mean = np.median(stacked, axis=0)
    spread = float(1000 * np.linalg.norm(stacked - mean, axis=-1).mean())
    skin = outside & ~np.isin(head.faces, head.masks["eyes"]).any(1)
    triangle, bary = _attach(mean, head, skin)
    for part, own in part_triangles(head).items():
        rows = list(PART_POINTS[part])
        triangle[rows], bary[rows] = _attach(mean[rows], head, skin & own)
    arrays: dict[str, np.ndarray] = {"landmark_spread_mm": np.float32(spread)}
    for name, rows in (("mediapipe", range(N_MEDIAPIPE)), ("landmarks68", LANDMARKS68), ("now7", NOW7)):
        arrays[f"{name}_triangle"] = triangle[list(rows)]
        arrays[f"{name}_bary"] = bary[list(rows)]
    return arrays


def _middle(head: HeadModel, shaped: np.ndarray) -> np.ndarray:
    return shaped[head.masks["eyes"]].mean(0) - [0, 0.03, 0]


def _cast(
    points: np.ndarray, triangle: np.ndarray, bary: np.ndarray, outside: np.ndarray, head: HeadModel
) -> np.ndarray:
    """Mean-head positions (L, 3) under picture points (L, 2); points beside the head take the nearest pixel on it."""
    scale = triangle.shape[0] // _PICTURE
    hit = (triangle >= 0) & outside[triangle]
    rows, columns = np.nonzero(hit)
    pixels = np.stack([columns, rows], axis=1).astype(np.float32)
    fine = (points + 0.5) * scale - 0.5
    x, y = np.clip(np.round(fine).astype(int), 0, triangle.shape[0] - 1).T
    for index in np.flatnonzero(~hit[y, x]):
        nearest = ((pixels - fine[index]) ** 2).sum(1).argmin()
        x[index], y[index] = columns[nearest], rows[nearest]
    corners = head.v_template[head.faces[triangle[y, x]]]
    return np.einsum("lc,lcx->lx", bary[y, x], corners)


def _attach(points: np.ndarray, head: HeadModel, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The closest places on the mean head's allowed triangles: triangle (L,) and bary (L, 3)."""
    import trimesh

    usable = np.flatnonzero(allowed)
    corners = head.v_template[head.faces[usable]].astype(np.float64)
    near = np.argsort(((corners.mean(1)[None] - points[:, None]) ** 2).sum(-1), axis=1)[:, :_CANDIDATES]  # (L, k)
    repeated = np.repeat(points, _CANDIDATES, axis=0)
    closest = trimesh.triangles.closest_point(corners[near.ravel()], repeated)
    best = ((closest - repeated) ** 2).sum(-1).reshape(near.shape).argmin(1)
    local = near[np.arange(len(points)), best]
    chosen = closest.reshape(*near.shape, 3)[np.arange(len(points)), best]
    bary = trimesh.triangles.points_to_barycentric(corners[local], chosen)
    bary = np.clip(bary, 0, 1)
    return usable[local].astype(np.int64), (bary / bary.sum(1, keepdims=True)).astype(np.float32)
