"""One head to one picture: a pinhole camera, a painted surface, a few lights."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ofer_models.head.model import HeadModel
from ofer_models.perception.intrinsics import project
from ofer_models.workshop.pictures.raster import rasterize, shade, vertex_normals
from ofer_models.workshop.pictures.surface import Surface

SUPERSAMPLING = 2
_GLOSS = np.array([0.06, 0.35, 0.12, 0.04], np.float32)  # skin, eye, mouth, hair


@dataclass(frozen=True)
class Lighting:
    """directions (n, 3) unit, to the lights in camera axes; colours (n, 3); ambient (2, 3) from below and above."""

    directions: np.ndarray
    colours: np.ndarray
    ambient: np.ndarray


@dataclass(frozen=True)
class Rendering:
    """image (H, W, 3) float32 RGB in 0..1 or a little above; triangle (h, w) int32 and bary (h, w, 3) of the
    supersampled raster; points (V, 2) pixel positions of all vertices in the image.
    """

    image: np.ndarray
    triangle: np.ndarray
    bary: np.ndarray
    points: np.ndarray


def plain_light() -> Lighting:
    """A soft light from above the camera: what landmark networks like best."""
    directions = np.array([[0.3, -0.5, -0.81], [-0.5, -0.2, -0.84]], np.float32)
    return Lighting(
        directions, np.array([[0.55] * 3, [0.25] * 3], np.float32), np.array([[0.15] * 3, [0.3] * 3], np.float32)
    )


def random_light(rng: np.random.Generator) -> Lighting:
    """One to three lights, mostly in front of the face, and an ambient that differs above and below."""
    count = rng.integers(1, 4)
    directions = rng.normal(0, 1, (count, 3)) * [1.0, 0.7, 0.6] + [0, -0.4, -0.9]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    warmth = 1 + rng.normal(0, 0.08, (count + 2, 3))
    strengths = rng.dirichlet(np.ones(count)) * rng.uniform(0.35, 1.0)
    ambient = rng.uniform(0.12, 0.55, (2, 1)) * warmth[count:]
    return Lighting(
        directions.astype(np.float32),
        (strengths[:, None] * warmth[:count]).astype(np.float32),
        ambient.astype(np.float32),
    )


def render(
    head: HeadModel,
    surface: Surface,
    vertices: np.ndarray,
    camera: np.ndarray,
    paints: np.ndarray,
    light: Lighting,
    background: np.ndarray,
) -> Rendering:
    """Draw vertices (V, 3), given in the optical frame in metres, over background (H, W, 3) float32."""
    height, width = background.shape[:2]
    points = project(vertices, camera).astype(np.float32)
    fine = (points + 0.5) * SUPERSAMPLING - 0.5
    screen = np.concatenate([fine, vertices[:, 2:]], axis=1).astype(np.float32)
    triangle, bary = rasterize(screen, head.faces, height * SUPERSAMPLING, width * SUPERSAMPLING)
    normals = vertex_normals(np.ascontiguousarray(vertices, np.float32), head.faces)
    behind = cv2.resize(background, (width * SUPERSAMPLING, height * SUPERSAMPLING), interpolation=cv2.INTER_LINEAR)
    picture = shade(
        triangle, bary, head.faces, normals, surface.paint_xy, surface.material, surface.openness,
        paints, light.directions, light.colours, light.ambient, _GLOSS, behind,
    )  # fmt: skip
    image = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return Rendering(image, triangle, bary, points)


def vertex_visibility(head: HeadModel, rendering: Rendering) -> np.ndarray:
    """Which vertices (V,) bool the camera sees: corners of triangles that own a pixel or more (eyeballs included)."""
    drawn = np.zeros(len(head.faces) + 1, bool)  # the last one stands for -1, no triangle
    drawn[rendering.triangle] = True
    seen = np.zeros(head.n_vertices, bool)
    seen[head.faces[drawn[:-1]]] = True
    return seen
