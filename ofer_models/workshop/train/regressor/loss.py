"""What a regressor's errors count: how far they move the face, in millimetres."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.bundle.regression import RegressorSpec
from ofer_models.head.model import HeadModel
from ofer_models.workshop.train.tasks import displacements

_REACH = 80.0  # mm from the head's middle to its face: what a radian moves it by
_EXPRESSION, _COVERED = 2.0, 10.0  # expressions move little and mean much; mm that occlusion counts as
_LEAST = 0.02  # mm: the distance is smooth below


class HeadLoss(nn.Module):
    """Mean distance in mm between heads of two coefficient vectors (n, D): identity, mean-aligned, over the frontal
    vertices; expression and jaw over the face; rotation and camera by how far they move the face in the crop.

    Distances, not their squares: of an unsure face the median is told, not a mean that moves half as much.
    """

    def __init__(self, head: HeadModel, spec: RegressorSpec) -> None:
        super().__init__()
        self.groups = list(spec.groups.values())
        self.names = list(spec.groups)
        n, told = head.n_shape, spec.groups
        shape = displacements(head, head.masks["frontal"])[: told["shape"]]
        shape = shape - shape.mean(1, keepdims=True)
        moved = displacements(head, head.masks["face"])[n:]
        kept = [*range(told["expression"])] + [*range(len(moved) - 3, len(moved))] * ("jaw" in told)
        self.register_buffer("shape", _root(shape))
        self.register_buffer("moved", _root(moved[kept]))

    def forward(self, coefficients: Tensor, true: Tensor) -> Tensor:
        """The sum of all parts' means."""
        return torch.stack([part.mean() for part in self.parts(coefficients, true).values()]).sum()

    def parts(self, coefficients: Tensor, true: Tensor) -> dict[str, Tensor]:
        """What each part counts (n,)."""
        error = dict(zip(self.names, (coefficients - true).split(self.groups, dim=1), strict=True))
        given = dict(zip(self.names, true.split(self.groups, dim=1), strict=True))
        moving = [error[name] for name in ("expression", "jaw") if name in error]
        parts = {
            "identity": _length(error["shape"] @ self.shape),
            "expression": _EXPRESSION * _length(torch.cat(moving, dim=1) @ self.moved),
        }
        if "rotation" in error:
            parts["rotation"] = _REACH * _length(error["rotation"])
        if "camera" in error:
            scale = error["camera"][:, :1] / given["camera"][:, :1] * _REACH
            parts["camera"] = _length(torch.cat([scale, 1000 * error["camera"][:, 1:]], dim=1))
        if "occlusion" in error:
            parts["occlusion"] = _COVERED * error["occlusion"].abs()[:, 0]
        return parts


def _length(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(1) + _LEAST**2).sqrt()


def _root(directions: np.ndarray) -> Tensor:
    """(D, D) such that the length of error @ root is the root mean square distance in mm that an error moves vertices
    by; directions (D, V, 3): of one unit, m.
    """
    flat = 1000 * directions.reshape(len(directions), -1).astype(np.float64)
    values, vectors = np.linalg.eigh(flat @ flat.T / directions.shape[1])
    return torch.from_numpy((vectors * np.sqrt(values.clip(0))).astype(np.float32))
