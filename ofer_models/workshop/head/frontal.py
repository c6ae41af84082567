"""What identity is learned and measured by: frontal vertices in mm, mean-aligned. Where a head stands is no shape."""

from __future__ import annotations

import numpy as np

from ofer_models.head.model import HeadModel


def frontal_basis(head: HeadModel, every: int = 1) -> np.ndarray:
    """(S, 3 V') displacements in mm of every n-th frontal vertex by each shape coefficient, less those of all."""
    directions = head.shapedirs[head.masks["frontal"], :, : head.n_shape]
    return 1000 * (directions - directions.mean(0))[::every].reshape(-1, head.n_shape).T


def vertex_errors(betas: np.ndarray, truth: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Vertex errors (..., V') in mm of betas (..., S) from true ones (S,), on a `frontal_basis`."""
    offset = (betas - truth) @ basis
    return np.linalg.norm(offset.reshape(*offset.shape[:-1], -1, 3), axis=-1)
