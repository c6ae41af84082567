"""Decoding many expressions of one or several identities: the fast path of every frame.

With neck and eyes at rest only the jaw moves by skinning, so a hypothesis is one matrix product (expression units and
the jaw's pose corrective) and one small rotation of the vertices that the jaw carries. Equal to `HeadModel.decode`, an
order of magnitude cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ofer_models.head.model import JAW, HeadModel, Identity, LandmarkEmbedding, rotation_matrices


class HypothesisDecoder:
    """Decodes expressions of identities at chosen vertices of a head (all, a region, or those under landmarks)."""

    def __init__(self, head: HeadModel, vertices: np.ndarray | None = None) -> None:
        """vertices: (V',) indices into the head, all by default; outputs keep their order."""
        self._head = head
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
        neutral = identity.vertices[self.indices][None], identity.joints[JAW][None]
        return self.decode(*neutral, np.asarray(expressions)[None], np.asarray(jaws)[None])[0]

    def of_faces(self, identities: Sequence[Identity], expressions: np.ndarray, jaws: np.ndarray) -> np.ndarray:
        """Vertices (F, H, V', 3) of F identities with expressions (F, H, E) and jaws (F, H, 3)."""
        neutral = np.stack([identity.vertices[self.indices] for identity in identities])
        return self.decode(neutral, np.stack([identity.joints[JAW] for identity in identities]), expressions, jaws)

    def of_candidates(self, betas: np.ndarray, expression: np.ndarray, jaw: np.ndarray) -> np.ndarray:
        """Vertices (N, V', 3) of shapes betas (N, S), all with one expression (E,) and jaw (3,)."""
        template, shape_basis, joint, joint_basis = self._shapes
        betas = np.asarray(betas, np.float32)
        neutral = template + (betas @ shape_basis).reshape(len(betas), -1, 3)
        expressions = np.broadcast_to(expression, (len(betas), 1, len(expression)))
        jaws = np.broadcast_to(jaw, (len(betas), 1, 3))
        return self.decode(neutral, joint + betas @ joint_basis, expressions, jaws)[:, 0]

    def decode(self, neutral: np.ndarray, joint: np.ndarray, expressions: np.ndarray, jaws: np.ndarray) -> np.ndarray:
        """Vertices (F, H, V', 3) on neutral heads (F, V', 3) whose jaws turn about joint (F, 3)."""
        faces, count = expressions.shape[:2]
        flat = np.asarray(expressions, np.float32).reshape(faces * count, -1)
        turn = rotation_matrices(np.asarray(jaws, np.float32).reshape(-1, 3)) - np.eye(3, dtype=np.float32)
        drive = np.concatenate([flat, turn.reshape(-1, 9)], axis=1)
        vertices = (drive @ self._basis).reshape(faces, count, -1, 3)
        vertices += neutral[:, None]
        vertices = vertices.reshape(faces * count, -1, 3)
        joints = np.repeat(joint, count, axis=0) + flat @ self._joint_shift  # (F H, 3)
        carried = vertices[:, self._carried]
        vertices[:, self._carried] += self._weights * ((carried - joints[:, None]) @ turn.transpose(0, 2, 1))
        return vertices.reshape(faces, count, -1, 3)

    @cached_property
    def _shapes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Template (V', 3), basis (S, 3 V') of the chosen vertices; the jaw joint (3,) and its basis (S, 3)."""
        head = self._head
        basis = head.shapedirs[self.indices, :, : head.n_shape].reshape(-1, head.n_shape).T
        regressor = head.joint_regressor[JAW]
        joint_basis = np.einsum("v,vcs->sc", regressor, head.shapedirs[..., : head.n_shape])
        return head.v_template[self.indices], np.ascontiguousarray(basis), regressor @ head.v_template, joint_basis


class LandmarkDecoder:
    """Landmarks of hypotheses, without the rest of the mesh."""

    def __init__(self, head: HeadModel, embedding: LandmarkEmbedding) -> None:
        corners = head.faces[embedding.triangle]
        used, inverse = np.unique(corners, return_inverse=True)
        self._corners = inverse.reshape(corners.shape)  # (L, 3) into `used`
        self._bary = embedding.bary
        self._decode = HypothesisDecoder(head, used)

    def of_faces(self, identities: Sequence[Identity], expressions: np.ndarray, jaws: np.ndarray) -> np.ndarray:
        """Landmarks (F, H, L, 3) in metres; arguments as `HypothesisDecoder.of_faces`."""
        return self._on(self._decode.of_faces(identities, expressions, jaws))

    def of_candidates(self, betas: np.ndarray, expression: np.ndarray, jaw: np.ndarray) -> np.ndarray:
        """Landmarks (N, L, 3) in metres; arguments as `HypothesisDecoder.of_candidates`."""
        return self._on(self._decode.of_candidates(betas, expression, jaw))

    def _on(self, vertices: np.ndarray) -> np.ndarray:
        landmarks = self._bary[:, :1] * vertices[..., self._corners[:, 0], :]
        for corner in (1, 2):
            landmarks += self._bary[:, corner, None] * vertices[..., self._corners[:, corner], :]
        return landmarks
