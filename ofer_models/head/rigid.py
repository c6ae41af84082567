"""The rotation that lays points on others best, the core of every alignment here.

Kabsch 1976; Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (1991).
"""

from __future__ import annotations

import numpy as np


def best_rotation(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (..., 3, 3), for row vectors and without reflection, of centred source (..., P, 3) onto centred target
    (P, 3), and (...) the sum of products of the two, by which a scale follows: divided by the source's sum of squares.
    """
    u, singular, vt = np.linalg.svd(np.swapaxes(source, -1, -2) @ target)
    signs = np.ones_like(singular)
    signs[..., 2] = np.sign(np.linalg.det(u @ vt))
    return (u * signs[..., None, :]) @ vt, (singular * signs).sum(axis=-1)
