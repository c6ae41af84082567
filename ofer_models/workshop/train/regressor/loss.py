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
    vertices; expression and jaw over the face; the rotation by how far it turns the face, the camera by how far it and
    the rotation together move the mean head's landmarks in the picture, and by its scale.

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
        root = head.joint_regressor[0] @ head.v_template
        marks = head.landmarks(head.v_template, "landmarks68")
        self.register_buffer("marks", torch.from_numpy((1000 * (marks - root)).astype(np.float32)))

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
            parts["rotation"] = _length(_REACH * error["rotation"])
        if "camera" in error:
            there, here = (self._placed(groups) for groups in (given, _added(given, error)))
            scale = _REACH * error["camera"][:, 0] / given["camera"][:, 0]
            apart = ((here - there).square().sum(2) + _LEAST**2).sqrt().mean(1)
            parts["camera"] = (scale.square() + _LEAST**2).sqrt() + apart
        if "occlusion" in error:
            parts["occlusion"] = _COVERED * error["occlusion"].abs()[:, 0]
        return parts


    def _placed(self, groups: dict[str, Tensor]) -> Tensor:
        """The mean head's landmarks (n, 68, 2) mm before the camera, from the crop's middle."""
        turned = self.marks @ rotation_matrices(groups["rotation"])[:, :2].transpose(1, 2)
        return turned + 1000 * groups["camera"][:, None, 1:]


def rotation_matrices(vectors: Tensor) -> Tensor:
    """Rodrigues' formula: rotation vectors (n, 3) to matrices (n, 3, 3)."""
    angle = (vectors.square().sum(1) + 1e-12).sqrt()[:, None, None]
    x, y, z = vectors.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).reshape(-1, 3, 3)
    first, second = angle.sin() / angle, (1 - angle.cos()) / angle**2
    return torch.eye(3, device=vectors.device) + first * cross + second * cross @ cross


def _added(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value + b[name] for name, value in a.items()}


def _length(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(1) + _LEAST**2).sqrt()


def _root(directions: np.ndarray) -> Tensor:
    """(D, D) such that the length of error @ root is the root mean square distance in mm that an error moves vertices
    by; directions (D, V, 3): of one unit, m.
    """
    flat = 1000 * directions.reshape(len(directions), -1).astype(np.float64)
    values, vectors = np.linalg.eigh(flat @ flat.T / directions.shape[1])
    return torch.from_numpy((vectors * np.sqrt(values.clip(0))).astype(np.float32))
