"""What the encoders learn to tell, and how much an error in it counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ofer_models.head.model import HeadModel
from ofer_models.workshop.pictures.dataset import PictureSet
from ofer_models.workshop.train.mirror import Mirror


@dataclass(frozen=True)
class Normaliser:
    """Coefficients as the networks see them: (raw - mean) / deviation, per coefficient (D,)."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def fit(cls, coefficients: np.ndarray) -> Normaliser:
        return cls(coefficients.mean(0).astype(np.float32), np.maximum(coefficients.std(0), 1e-3).astype(np.float32))

    def symmetric(self, mirror: Mirror) -> Normaliser:
        """The same for both sides, so that mirroring commutes with it."""
        order, sign = mirror.coefficient_order.numpy(), mirror.coefficient_sign.numpy()
        return Normaliser((self.mean + self.mean[order] * sign) / 2, (self.deviation + self.deviation[order]) / 2)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        return ((raw - self.mean) / self.deviation).astype(np.float32)

    def decode(self, normal: np.ndarray) -> np.ndarray:
        return (normal * self.deviation + self.mean).astype(np.float32)


@dataclass(frozen=True)
class Task:
    """What one encoder learns to tell: normalised targets (n, D) of all pictures, how much an error in each counts
    (D,), the quadratic form (D, D) that makes an error a mean squared vertex distance, and what a mirror does to
    targets.
    """

    targets: np.ndarray
    importance: np.ndarray
    metric: np.ndarray
    in_mirror: Callable[[Tensor], Tensor]

    def __getitem__(self, rows: slice) -> Task:
        return Task(self.targets[rows], self.importance, self.metric, self.in_mirror)

    def distance(self, error: np.ndarray) -> float:
        """Mean squared vertex distance of errors (n, D)."""
        return float(np.einsum("nd,de,ne->n", error, self.metric, error).mean())


def make_tasks(head: HeadModel, pictures: PictureSet, normaliser: Normaliser, mirror: Mirror | None) -> dict[str, Task]:
    """What the encoders learn: betas by the shape of the frontal face, expression and jaw by that of the whole face."""
    n = head.n_shape
    importance = frontal_importance(head)
    identity = _mean_aligned(displacements(head, head.masks["frontal"])[:n])
    expression = displacements(head, head.masks["face"])[n:] * normaliser.deviation[:, None, None]
    # Amplitudes, not squares: brows, lids and gaze move few millimetres and mean much.
    moved = np.sqrt(importance[n:]) * normaliser.deviation
    same = {"identity": _as_it_is, "expression": _as_it_is}
    turned = {"identity": lambda betas: betas @ mirror.shape, "expression": mirror.coefficients} if mirror else same
    return {
        "identity": Task(pictures.betas, _at_least(importance[:n], 0.02), _form(identity), turned["identity"]),
        "expression": Task(
            normaliser.encode(pictures.coefficients), _at_least(moved, 0.1), _form(expression), turned["expression"]
        ),
    }


def _at_least(importance: np.ndarray, share: float) -> np.ndarray:
    """With a part of the mean added."""
    return importance + share * importance.mean()


def _form(directions: np.ndarray) -> np.ndarray:
    """(D, D): mean squared vertex distance of coefficients whose units move vertices by directions (D, V, 3)."""
    flat = directions.reshape(len(directions), -1)
    return flat @ flat.T / directions.shape[1]


def _as_it_is(targets: Tensor) -> Tensor:
    return targets


def displacements(head: HeadModel, vertices: np.ndarray) -> np.ndarray:
    """(S + E + 3, V', 3) m: how a unit of each coefficient, or a radian of the jaw about each axis, moves vertices."""
    blend = np.moveaxis(head.shapedirs[vertices], -1, 0)
    step = 0.05
    rest = np.zeros((3, head.n_shape), np.float32)
    turned = head.decode(rest, jaw=step * np.eye(3, dtype=np.float32))[:, vertices]
    return np.concatenate([blend, (turned - head.v_template[vertices]) / step])


def frontal_importance(head: HeadModel) -> np.ndarray:
    """(S + E + 3,): squared displacement (m^2) of the frontal vertices by one unit of a coefficient or a radian."""
    moved = displacements(head, head.masks["frontal"])
    moved[: head.n_shape] = _mean_aligned(moved[: head.n_shape])
    return (moved**2).sum((1, 2))


def _mean_aligned(moved: np.ndarray) -> np.ndarray:
    """Identity is measured mean-aligned, so what only shifts the face counts nothing there."""
    return moved - moved.mean(1, keepdims=True)
