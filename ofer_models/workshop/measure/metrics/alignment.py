"""Rigid and similarity alignment: in closed form on points that correspond, and of a scan to a mesh.

Closed form: Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (1991).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofer_models.head.model import rotation_matrices
from ofer_models.workshop.measure.metrics.closest_point import TriangleSurface

_ROUNDS, _SETTLED = 100, 1e-7


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
    u, singular, vt = np.linalg.svd((target - goal).T @ centred)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * signs) @ vt
    size = float((singular * signs).sum() / spread) if scale else 1.0
    return Similarity(size, rotation, goal - size * rotation @ middle)


def align_scan(scan: np.ndarray, surface: TriangleSurface, start: Similarity, *, scale: bool = True) -> Similarity:
    """Refine `start`, which takes the mesh to the scan, until the squared distances of scan vertices (P, 3) from the
    transformed surface are least.

    Gauss-Newton on the distances, with a damping that grows when a step does not help: at the closest point a distance
    changes by the transform's motion along the line between the two alone.
    """
    scan = np.asarray(scan, np.float64)
    unknowns = 7 if scale else 6

    def measure(at: Similarity) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        on, triangle = surface.closest(at.back(scan))
        on = at(on)
        apart = scan - on
        distance = np.linalg.norm(apart, axis=1)
        normal = surface.normals(triangle) @ at.rotation.T
        direction = np.where(distance[:, None] > 1e-9, apart / np.maximum(distance, 1e-300)[:, None], normal)
        return on, direction, distance

    best, damping = start, 1e-4
    on, direction, distance = measure(best)
    for _ in range(_ROUNDS):
        middle = on.mean(0)
        arm = on - middle
        columns = [np.cross(arm, direction), direction, (arm * direction).sum(1, keepdims=True)]
        jacobian = np.concatenate(columns, axis=1)[:, :unknowns]
        normal_matrix = jacobian.T @ jacobian
        damped = normal_matrix + damping * np.diag(normal_matrix.diagonal() + 1e-12)
        step = np.linalg.solve(damped, jacobian.T @ distance)
        tried = _moved(best, step, middle)
        result = measure(tried)
        before, after = (distance**2).sum(), (result[2] ** 2).sum()
        if after < before:
            best, (on, direction, distance), damping = tried, result, damping / 3
            if before - after <= _SETTLED * before:
                break
        else:
            damping *= 10
            if damping > 1e6:
                break
    return best


def _moved(transform: Similarity, step: np.ndarray, middle: np.ndarray) -> Similarity:
    """A transform followed by a small turn, shift and growth (6 or 7,) about a point."""
    turn = rotation_matrices(step[:3])
    growth = float(np.exp(step[6])) if len(step) == 7 else 1.0
    translation = growth * turn @ (transform.translation - middle) + middle + step[3:6]
    return Similarity(transform.scale * growth, turn @ transform.rotation, translation)
