"""Mirrored training pictures: every face seen in a mirror is another plausible face, for nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ofer_models.head.model import HeadModel
from ofer_models.perception.crops import canonical_face

_JAW_SIGN = (1.0, -1.0, -1.0)  # pitch stays, yaw and roll turn


@dataclass(frozen=True)
class Mirror:
    """What a mirror does: landmarks change places by landmark_order (478,), betas' = betas @ shape (S, S), and
    coefficients' (E + 3,) = coefficients[coefficient_order] * coefficient_sign.
    """

    landmark_order: Tensor
    shape: Tensor
    coefficient_order: Tensor
    coefficient_sign: Tensor

    @staticmethod
    def knows(head: HeadModel) -> bool:
        """Whether the head's units have sides by name; FLAME's expressions, mere directions, have not."""
        return any(_other_side(name) != name for name in head.expression_names)

    @classmethod
    def of(cls, head: HeadModel) -> Mirror:
        """Work out the mirror of a head whose mesh is symmetric and whose expression names end in Left and Right."""
        names = list(head.expression_names)
        partner = [names.index(_other_side(name)) for name in names]
        order = torch.tensor([*partner, *(len(names) + axis for axis in range(3))])
        sign = torch.tensor([1.0] * len(names) + list(_JAW_SIGN))
        landmarks = torch.from_numpy(mirrored_order(canonical_face()))
        return cls(landmarks, torch.from_numpy(_mirror_shape(head)), order, sign)

    def landmarks(self, points: Tensor) -> Tensor:
        """Encoder landmarks (n, 478, 6): x of both halves changes sign, left and right points change places."""
        return points[:, self.landmark_order] * torch.tensor([-1.0, 1, 1, -1, 1, 1])

    def points(self, offsets: Tensor) -> Tensor:
        """Offsets (n, 468, 2) of landmarks in the crop, the irises left out."""
        return offsets[:, self.landmark_order[: offsets.shape[1]]] * torch.tensor([-1.0, 1])

    def coefficients(self, values: Tensor) -> Tensor:
        """Expression and jaw (n, E + 3)."""
        return values[:, self.coefficient_order] * self.coefficient_sign


def _other_side(name: str) -> str:
    for side, other in (("Left", "Right"), ("Right", "Left")):
        if name.endswith(side):
            return name.removesuffix(side) + other
    return name


def mirrored_order(points: np.ndarray) -> np.ndarray:
    """For each point (n, 3) the index of the one nearest to its image in the plane x = 0."""
    image = points * [-1, 1, 1]
    return np.linalg.norm(points[None] - image[:, None], axis=-1).argmin(1)


def _mirror_shape(head: HeadModel) -> np.ndarray:
    """(S, S) matrix that takes the betas of a head to those of its mirror image, least squares over the vertices."""
    partner = mirrored_order(head.v_template)
    directions = head.shapedirs[..., : head.n_shape]
    mirrored = directions[partner] * np.array([-1, 1, 1], np.float32)[:, None]
    solution = np.linalg.lstsq(directions.reshape(-1, head.n_shape), mirrored.reshape(-1, head.n_shape), rcond=1e-4)[0]
    return np.ascontiguousarray(solution.T, np.float32)
