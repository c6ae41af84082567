"""What the renderer knows of a head once and for all: materials, paint coordinates, hollows. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofer_models.head.model import HeadModel
from ofer_models.workshop.pictures.raster import rasterize, vertex_normals

SKIN, EYE, MOUTH, HAIR = range(4)
PAINT_SIZE = 384
PAINT_SPAN = 0.24  # metres of the mean head across the skin paint
EYE_SPAN = 0.036


@dataclass(frozen=True)
class Surface:
    """material (F,) int8; paint_xy (V, 2) px into the material's paint; openness (V,) 0..1; skin-plane positions of
    vertices in px are paint_xy too. eye_opening (P, P) bool: where the mean head's eyeballs show, in skin paint; lips
    (P, P) float 0..1 likewise; centre (2,): x, y in metres at the middle of the skin paint.
    """

    material: np.ndarray
    paint_xy: np.ndarray
    openness: np.ndarray
    eye_opening: np.ndarray
    lips: np.ndarray
    centre: np.ndarray

    def to_paint(self, points: np.ndarray) -> np.ndarray:
        """Skin-paint pixels (n, 2) of points (n, 2 or 3) of the mean head, metres."""
        offset = (points[..., :2] - self.centre) * (PAINT_SIZE / PAINT_SPAN)
        return np.stack([offset[..., 0], -offset[..., 1]], axis=-1) + PAINT_SIZE / 2


def describe_surface(head: HeadModel) -> Surface:
    """Derive materials and paint coordinates of a head that has the masks of the open head."""
    template, faces = head.v_template, head.faces
    eyes = [head.masks["left_eye"], head.masks["right_eye"]]
    middle = np.mean([template[eye].mean(0) for eye in eyes], axis=0)
    centre = middle[:2] - [0, 0.035]
    scale = PAINT_SIZE / PAINT_SPAN
    paint_xy = np.stack([template[:, 0] - centre[0], centre[1] - template[:, 1]], 1) * scale + PAINT_SIZE / 2
    openness = _openness(template, faces)
    for joint, eye in zip((3, 4), eyes, strict=True):
        pole = (head.joint_regressor @ template)[joint]
        paint_xy[eye] = (template[eye, :2] - pole[:2]) * [1, -1] * (PAINT_SIZE / EYE_SPAN) + PAINT_SIZE / 2
    material = np.full(len(faces), SKIN, np.int8)
    material[_faces_of(head, "inner_mouth")] = MOUTH
    material[_faces_of(head, "eyes")] = EYE
    height = template[faces].mean(1)[:, 1] - middle[1]
    depth = template[faces].mean(1)[:, 2] - middle[2]
    # The scalp: above a line that falls from the forehead to the nape; the neck stays bare.
    scalp = (height > 0.075 + 0.9 * np.minimum(0, depth + 0.045)) & (height > -0.09) & (depth < 0.02)
    ears = np.abs(template[faces].mean(1)[:, 0]) > 0.068
    material[scalp & ~ears & (material == SKIN)] = HAIR

    surface = Surface(material, paint_xy.astype(np.float32), openness, np.zeros(0), np.zeros(0), centre)
    flat = np.concatenate([surface.to_paint(template), -template[:, 2:] * scale], axis=1).astype(np.float32)
    triangle, bary = rasterize(flat, faces, PAINT_SIZE, PAINT_SIZE)
    seen = np.where(triangle >= 0, material[triangle], -1)
    lip_vertex = np.zeros(len(template), np.float32)
    lip_vertex[head.masks["lips"]] = 1
    lips = np.where(triangle >= 0, (lip_vertex[faces[triangle]] * bary).sum(-1), 0)
    return Surface(material, paint_xy.astype(np.float32), openness, seen == EYE, lips.astype(np.float32), centre)


def _faces_of(head: HeadModel, mask: str) -> np.ndarray:
    """Triangles whose three corners all lie in a vertex mask."""
    inside = np.zeros(head.n_vertices, bool)
    inside[head.masks[mask]] = True
    return inside[head.faces].all(1)


def _openness(template: np.ndarray, faces: np.ndarray, directions: int = 96, size: int = 256) -> np.ndarray:
    """Share of the sky each vertex sees (V,), by rendering the head from many directions: ambient occlusion."""
    golden = np.pi * (3 - np.sqrt(5))
    normals = vertex_normals(template, faces)
    seen, facing = np.zeros(len(template)), np.full(len(template), 1e-6)
    centred = template - template.mean(0)
    scale = 0.45 * size / np.linalg.norm(centred, axis=1).max()
    for n in range(directions):
        z = 1 - 2 * (n + 0.5) / directions
        towards = np.array([np.sqrt(1 - z * z) * np.cos(golden * n), z, np.sqrt(1 - z * z) * np.sin(golden * n)])
        right = np.cross([0.0, 1.0, 0.0], towards)
        right /= np.linalg.norm(right)
        axes = np.stack([right, -np.cross(towards, right), -towards])  # x right, y down, depth away from the light
        view = centred @ axes.T * scale
        screen = np.concatenate([view[:, :2] + size / 2, view[:, 2:]], axis=1).astype(np.float32)
        triangle, bary = rasterize(screen, faces, size, size)
        depth = np.where(triangle >= 0, (screen[faces[triangle], 2] * bary).sum(-1), np.inf)
        pixel = np.clip(np.round(screen[:, :2]).astype(int), 0, size - 1)
        cosine = np.maximum(0, normals @ towards)
        facing += cosine
        seen += cosine * (screen[:, 2] < depth[pixel[:, 1], pixel[:, 0]] + 1.5)
    return (0.15 + 0.85 * np.minimum(1, 1.15 * seen / facing)).astype(np.float32)
