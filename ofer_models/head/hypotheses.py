"""Decoding many expressions of one identity: the fast path of every frame.

With neck and eyes at rest only the jaw moves by skinning, so a hypothesis is one matrix product (expression units and
the jaw's pose corrective) and one small rotation of the vertices that the jaw carries. Equal to `HeadModel.decode`, an
order of magnitude cheaper.
"""

from __future__ import annotations

import numpy as np

from ofer_models.head.model import JAW, HeadModel, Identity, rotation_matrices


class HypothesisDecoder:
    """Decodes expressions of an identity at chosen vertices of a head (all, a region, or those under landmarks)."""

    def __init__(self, head: HeadModel, vertices: np.ndarray | None = None) -> None:
        """vertices: (V',) indices into the head, all by default; outputs keep their order."""
        self.indices = np.arange(head.n_vertices) if vertices is None else np.asarray(vertices, np.int64)
        count = len(self.indices)
        expression = head.shapedirs[self.indices, :, head.n_shape :].reshape(3 * count, head.n_expression).T
        rows = slice(9 * (JAW - 1), 9 * JAW)
        jaw = head.posedirs[rows].reshape(9, head.n_vertices, 3)[:, self.indices].reshape(9, 3 * count)
        self._basis = np.ascontiguousarray(np.concatenate([expression, jaw]))  # (E + 9, 3 V')
        weights = head.lbs_weights[self.indices, JAW]
        self._carried = np.flatnonzero(weights)
        self._weights = weights[self._carried, None]
        self._joint_shift = np.einsum("v,vce->ec", head.joint_regressor[JAW], head.shapedirs[..., head.n_shape :])

    def __call__(self, identity: Identity, expressions: np.ndarray, jaws: np.ndarray) -> np.ndarray:
        """Vertices (H, V', 3) in metres of expressions (H, E) and jaws (H, 3) axis-angle."""
        expressions, jaws = np.asarray(expressions, np.float32), np.asarray(jaws, np.float32)
        turn = rotation_matrices(jaws) - np.eye(3, dtype=np.float32)  # (H, 3, 3)
        drive = np.concatenate([expressions, turn.reshape(len(jaws), 9)], axis=1)
        vertices = (drive @ self._basis).reshape(len(jaws), -1, 3)
        vertices += identity.vertices[self.indices]
        joint = identity.joints[JAW] + expressions @ self._joint_shift  # (H, 3)
        carried = vertices[:, self._carried]
        vertices[:, self._carried] += self._weights * ((carried - joint[:, None]) @ turn.transpose(0, 2, 1))
        return vertices
