"""Decoding many expressions of one or several identities: the fast path of every frame.

With neck and eyes at rest only the jaw moves by skinning, so a hypothesis is one matrix product (expression units and
the jaw's pose corrective) and one small rotation of what the jaw carries. Equal to `HeadModel.decode`, an order of
magnitude cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofer_models.head.model import JAW, HeadModel, Identity, LandmarkEmbedding, rotation_matrices


class HypothesisDecoder:
    """Decodes expressions of an identity at chosen vertices of a head (all or a region)."""

    def __init__(self, head: HeadModel, vertices: np.ndarray | None = None) -> None:
        """vertices: (V',) indices into the head, all by default; outputs keep their order."""
        self.indices = np.arange(head.n_vertices) if vertices is None else np.asarray(vertices, np.int64)
        self._basis = np.ascontiguousarray(_drive_basis(head, self.indices).reshape(-1, 3 * len(self.indices)))
        weights = head.lbs_weights[self.indices, JAW]
        self._carried = np.flatnonzero(weights)
        self._weights = weights[self._carried, None]
        self._joint_shift = _joint_basis(head)[head.n_shape :]

    def __call__(self, identity: Identity, expressions: np.ndarray, jaws: np.ndarray) -> np.ndarray:
        """Vertices (H, V', 3) in metres of expressions (H, E) and jaws (H, 3) axis-angle."""
        expressions = np.asarray(expressions, np.float32)
        turn, drive = _drive(expressions, jaws)
        vertices = (drive @ self._basis).reshape(len(drive), -1, 3)
        vertices += identity.vertices[self.indices]
        joint = identity.joints[JAW] + expressions @ self._joint_shift  # (H, 3)
        carried = vertices[:, self._carried]
        vertices[:, self._carried] += self._weights * ((carried - joint[:, None]) @ turn.transpose(0, 2, 1))
        return vertices


@dataclass(frozen=True)
class RestingLandmarks:
    """What `LandmarkDecoder` needs of F faces without expression: means (F, L + L', 3), see there, and their jaws'
    joints (F, 3), metres."""

    means: np.ndarray
    joints: np.ndarray

    def __getitem__(self, faces: np.ndarray | slice) -> RestingLandmarks:
        return RestingLandmarks(self.means[faces], self.joints[faces])


class LandmarkDecoder:
    """Landmarks of hypotheses, of many faces in one go, without the mesh.

    A landmark is a mean of three vertices, each of which the jaw carries by a part of its own. Its place needs that
    mean, and the same mean weighed by those parts as well: both are linear in all coefficients.
    """

    def __init__(self, head: HeadModel, embedding: LandmarkEmbedding) -> None:
        self._head = head
        self._corners = head.faces[embedding.triangle]  # (L, 3)
        parts = embedding.bary * head.lbs_weights[self._corners, JAW]
        self._carried = np.flatnonzero(parts.any(axis=1))
        self._shares = parts.sum(axis=1)[self._carried, None]
        self._bary, self._parts = embedding.bary, parts[self._carried]
        used, inverse = np.unique(self._corners, return_inverse=True)
        basis = _drive_basis(head, used)[:, inverse.reshape(self._corners.shape)]  # (E + 9, L, 3, 3)
        self._basis = np.ascontiguousarray(self._means(basis).reshape(len(basis), -1))
        shapes = np.moveaxis(head.shapedirs[used, :, : head.n_shape], -1, 0)[:, inverse.reshape(self._corners.shape)]
        self._shape_basis = np.ascontiguousarray(self._means(shapes).reshape(head.n_shape, -1))
        self._joint_basis = _joint_basis(head)

    def of_faces(self, identities: Sequence[Identity], expressions: np.ndarray, jaws: np.ndarray) -> np.ndarray:
        """Landmarks (F, H, L, 3) in metres of F identities with expressions (F, H, E) and jaws (F, H, 3)."""
        return self.moved(self.at_rest(identities), expressions, jaws)

    def at_rest(self, identities: Sequence[Identity]) -> RestingLandmarks:
        """Of F identities, for as many calls of `moved` as are made with them."""
        corners = np.stack([identity.vertices[self._corners] for identity in identities])
        return RestingLandmarks(self._means(corners), np.stack([identity.joints[JAW] for identity in identities]))

    def moved(self, resting: RestingLandmarks, expressions: np.ndarray, jaws: np.ndarray) -> np.ndarray:
        """Landmarks (F, H, L, 3) in metres of F faces with expressions (F, H, E) and jaws (F, H, 3)."""
        return self._decode(resting.means, resting.joints, np.asarray(expressions, np.float32), jaws)

    def of_candidates(self, betas: np.ndarray, expression: np.ndarray, jaw: np.ndarray) -> np.ndarray:
        """Landmarks (N, L, 3) in metres of shapes betas (N, S), all with one expression (E,) and jaw (3,)."""
        head, count, betas = self._head, len(betas), np.asarray(betas, np.float32)
        neutral = self._means(head.v_template[self._corners]) + (betas @ self._shape_basis).reshape(count, -1, 3)
        joint = head.joint_regressor[JAW] @ head.v_template + betas @ self._joint_basis[: head.n_shape]
        expressions = np.broadcast_to(np.asarray(expression, np.float32), (count, 1, head.n_expression))
        return self._decode(neutral, joint, expressions, np.broadcast_to(jaw, (count, 1, 3)))[:, 0]

    def expression_directions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a unit of each expression coefficient moves landmarks by: plain (E, L, 3) with the jaw at rest; for the
        landmarks carried (L',) by the jaw turned (E, L', 3), of which R - I of the jaw is added."""
        n, count = self._head.n_expression, len(self._bary)
        both = self._basis[:n].reshape(n, -1, 3)
        shift = self._joint_basis[self._head.n_shape :]
        return both[:, :count], both[:, count:] - self._shares * shift[:, None], self._carried

    def shape_directions(self) -> np.ndarray:
        """(S, L, 3): what a unit of each shape coefficient moves landmarks by, the jaw at rest."""
        return self._shape_basis.reshape(self._head.n_shape, -1, 3)[:, : len(self._bary)]

    def _means(self, corners: np.ndarray) -> np.ndarray:
        """Of values (..., L, 3, 3) at the corners: (..., L + L', 3), plain means and those weighed by the jaw's parts,
        these for the L' landmarks that it carries."""
        plain = np.einsum("lc,...lcx->...lx", self._bary, corners)
        weighed = np.einsum("lc,...lcx->...lx", self._parts, corners[..., self._carried, :, :])
        return np.concatenate([plain, weighed], axis=-2)

    def _decode(self, neutral: np.ndarray, joint: np.ndarray, expressions: np.ndarray, jaws: np.ndarray) -> np.ndarray:
        faces, count = expressions.shape[:2]
        flat = expressions.reshape(faces * count, -1)
        turn, drive = _drive(flat, np.reshape(jaws, (-1, 3)))
        means = (drive @ self._basis).reshape(faces, count, -1, 3)
        means += neutral[:, None]
        means = means.reshape(faces * count, -1, 3)
        landmarks, weighed = means[:, : len(self._bary)], means[:, len(self._bary) :]
        joints = np.repeat(joint, count, axis=0) + flat @ self._joint_basis[self._head.n_shape :]
        landmarks[:, self._carried] += (weighed - self._shares * joints[:, None]) @ turn.transpose(0, 2, 1)
        return landmarks.reshape(faces, count, -1, 3)


def _drive(expressions: np.ndarray, jaws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R - I (H, 3, 3) of the jaws, and what the bases are driven by: (H, E + 9)."""
    turn = rotation_matrices(np.asarray(jaws, np.float32)) - np.eye(3, dtype=np.float32)
    return turn, np.concatenate([expressions, turn.reshape(len(turn), 9)], axis=1)


def _drive_basis(head: HeadModel, vertices: np.ndarray) -> np.ndarray:
    """(E + 9, V', 3): what expressions and R - I of the jaw add to chosen vertices."""
    expression = np.moveaxis(head.shapedirs[vertices, :, head.n_shape :], -1, 0)
    rows = slice(9 * (JAW - 1), 9 * JAW)
    return np.concatenate([expression, head.posedirs[rows].reshape(9, head.n_vertices, 3)[:, vertices]])


def _joint_basis(head: HeadModel) -> np.ndarray:
    """(S + E, 3): what shape and expression move the jaw joint by."""
    return np.einsum("v,vce->ec", head.joint_regressor[JAW], head.shapedirs)
