"""Rigid and similarity alignment: in closed form on points that correspond, and of a scan to a mesh."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ofer_models.head.model import rotation_matrices
from ofer_models.head.rigid import best_rotation
from ofer_models.workshop.measure.metrics.closest_point import TriangleSurface


@dataclass(frozen=True)
class Similarity:
    """x' = scale * rotation @ x + translation; rotation (3, 3), translation (3,)."""

    scale: float
    rotation: np.ndarray
    translation: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Transform points (..., 3)."""
        return self.scale * points @ self.rotation.T + self.translation

    def back(self, points: np.ndarray) -> np.ndarray:
        """The inverse, on points (..., 3)."""
        return (points - self.translation) @ self.rotation / self.scale


def align_points(source: np.ndarray, target: np.ndarray, *, scale: bool = True) -> Similarity:
    """The transform of source (n, 3) that is nearest to target (n, 3) in the sum of squares, without reflection.

    scale False keeps the source's size. Raises ValueError for fewer than three points or source points on one spot.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3 or len(source) < 3:
        raise ValueError(f"alignment needs two equal sets of three points or more, got {source.shape}, {target.shape}")
    middle, goal = source.mean(0), target.mean(0)
    centred = source - middle
    spread = (centred**2).sum()
    if spread == 0:
        raise ValueError("alignment needs points that are apart")
    turned, products = best_rotation(centred, target - goal)
    rotation, size = turned.T, float(products / spread) if scale else 1.0
    return Similarity(size, rotation, goal - size * rotation @ middle)


def align_scan(scan: np.ndarray, surface: TriangleSurface, start: Similarity, *, scale: bool = True) -> Similarity:
    """Refine `start`, which takes the mesh to the scan, until the squared distances of scan vertices (P, 3) from the
    transformed surface are least.

    Least squares of the distances: at the closest point one changes by the transform's motion along the line between
    the two alone.
    """
    from scipy.optimize import least_squares

    scan = np.asarray(scan, np.float64)
    middle = scan.mean(0)

    @lru_cache(maxsize=1)  # the solver asks for distances and then for derivatives at the same place
    def measure(step: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places on the surface, and towards the scan: unit directions and distances."""
        at = _moved(start, np.array(step), middle)
        on, triangle = surface.closest(at.back(scan))
        on = at(on)
        apart = scan - on
        distance = np.linalg.norm(apart, axis=1)
        normal = surface.normals(triangle) @ at.rotation.T
        return on, np.where(distance[:, None] > 1e-9, apart / np.maximum(distance, 1e-300)[:, None], normal), distance

    def jacobian(step: np.ndarray) -> np.ndarray:
        on, direction, _ = measure(tuple(step))
        arm = on - middle
        columns = [np.cross(arm, direction), direction, (arm * direction).sum(1, keepdims=True)]
        return -np.concatenate(columns, axis=1)[:, : len(step)]

    unknowns = np.zeros(7 if scale else 6)
    found = least_squares(lambda step: measure(tuple(step))[2], unknowns, jacobian, method="lm", x_scale="jac")
    return _moved(start, found.x, middle)


def _moved(transform: Similarity, step: np.ndarray, middle: np.ndarray) -> Similarity:
    """A transform followed by a small turn, shift and growth (6 or 7,) about a point."""
    turn = rotation_matrices(step[:3])
    growth = float(np.exp(step[6])) if len(step) == 7 else 1.0
    translation = growth * turn @ (transform.translation - middle) + middle + step[3:6]
    return Similarity(transform.scale * growth, turn @ transform.rotation, translation)
