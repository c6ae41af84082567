"""A regressor's coefficients as a face before its camera, with gradients: vertices, landmarks and lit colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.bundle.regression import RegressorSpec
from ofer_models.head.albedo import Albedo
from ofer_models.head.model import JAW, HeadModel
from ofer_models.workshop.networks.mesh_render import irradiance, render, vertex_normals

_SKIN = ("skin", "face")  # masks of what the photometric term looks at, the first that a head has


@dataclass(frozen=True)
class Placed:
    """points (B, V, 3): x and y px of the crop, y down, and depth; landmarks (B, 68, 2) px; colours (B, V, 3) RGB lit,
    albedo times light, None without an albedo."""

    points: Tensor
    landmarks: Tensor
    colours: Tensor | None


class TorchFace(nn.Module):
    """A head and what a regressor of it tells, as torch's buffers.

    unit: metres of the regressor's translations and distance. size: px of the crop's side. Translations are seen as CFR
    sees them, in a crop whose middle is size / 2 from the left and from below; a weak perspective as the manifest says.
    """

    def __init__(self, head: HeadModel, spec: RegressorSpec, albedo: Albedo | None, unit: float = 1.0) -> None:
        super().__init__()
        self.spec, self.size, self.has_joints = spec, spec.crop.size, head.has_joints
        embedding = head.embeddings["landmarks68"]
        arrays = {
            "template": head.v_template / unit, "directions": head.shapedirs / unit,
            "faces": head.faces.astype(np.int64),
            "corners": head.faces[embedding.triangle].astype(np.int64), "bary": embedding.bary,
            "jaw_weights": head.lbs_weights[:, JAW], "root": head.joint_regressor[0] @ head.v_template / unit,
            "jaw_joint": head.joint_regressor[JAW], "correctives": head.posedirs[9 * (JAW - 1) : 9 * JAW] / unit,
        }  # fmt: skip
        root = np.einsum("v,vcs->cs", head.joint_regressor[0], head.shapedirs[..., : head.n_shape])
        arrays["root_directions"] = root / unit
        mask = next(head.masks[name] for name in _SKIN if name in head.masks)
        arrays["skin"] = np.isin(np.arange(head.n_vertices), mask)
        self.shape_columns = head.n_shape
        self.lit = albedo is not None and albedo.at_vertices and {"albedo", "light"} <= spec.groups.keys()
        if self.lit:
            arrays |= {"albedo": albedo.mean, "albedo_directions": albedo.directions}
        for name, array in arrays.items():
            kind = np.float32 if array.dtype.kind == "f" else array.dtype
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array, kind)), persistent=False)

    def split(self, coefficients: Tensor) -> dict[str, Tensor]:
        """Coefficients (B, D) by group."""
        return dict(zip(self.spec.groups, coefficients.split(list(self.spec.groups.values()), dim=1), strict=True))

    def forward(self, coefficients: Tensor) -> Placed:
        """The face of each row of coefficients (B, D)."""
        told = self.split(coefficients)
        vertices = self.decode(told)
        turn = rotation_matrices(told["rotation"], self.spec.rotation)
        points = self._seen(vertices, turn, told)
        marks = (points[:, self.corners, :2] * self.bary[..., None]).sum(2)
        if not self.lit:
            return Placed(points, marks, None)
        n = told["albedo"].shape[1]
        albedo = self.albedo + torch.einsum("vck,bk->bvc", self.albedo_directions[..., :n], told["albedo"])
        normals = vertex_normals(vertices, self.faces) @ turn.transpose(1, 2)
        return Placed(points, marks, albedo * irradiance(normals, told["light"]))

    def decode(self, told: dict[str, Tensor]) -> Tensor:
        """Vertices (B, V, 3) in the head's frame and unit."""
        parts = ((0, told["shape"]), (self.shape_columns, told["expression"]))
        shaped = self.template + sum(
            torch.einsum("vck,bk->bvc", self.directions[..., start : start + part.shape[1]], part)
            for start, part in parts
        )
        if not self.has_joints or "jaw" not in told:
            return shaped
        turn = rotation_matrices(told["jaw"], "vector") - torch.eye(3, device=shaped.device)
        joint = torch.einsum("v,bvc->bc", self.jaw_joint, shaped)[:, None]
        shaped = shaped + (turn.flatten(1) @ self.correctives).reshape(shaped.shape)
        return shaped + self.jaw_weights[:, None] * ((shaped - joint) @ turn.transpose(1, 2))

    def picture(self, placed: Placed) -> tuple[Tensor, Tensor]:
        """Colours (B, S, S, 3) in 0..1, zero where there is no face, and where there is one (B, S, S). Needs `lit`."""
        drawn, triangle = render(placed.points, self.faces, placed.colours, (self.size, self.size))
        return drawn.clamp(0, 1), triangle >= 0

    def _seen(self, vertices: Tensor, turn: Tensor, told: dict[str, Tensor]) -> Tensor:
        if "translation" in told:
            placed = vertices @ turn.transpose(1, 2) + told["translation"][:, None]
            depth = self.spec.distance - placed[..., 2]
            x, y = (self.spec.focal * placed[..., axis] / depth + self.size / 2 for axis in (0, 1))
            return torch.stack([x, self.size - 1 - y, depth], -1)
        shape = told["shape"]
        root = (self.root + shape @ self.root_directions[:, : shape.shape[1]].T)[:, None]
        placed = (vertices - root) @ turn.transpose(1, 2) + root
        scale, shift = told["camera"][:, :1, None], told["camera"][:, None, 1:]
        place = scale * (placed[..., :2] + shift) * (self.size / 2)
        middle = (self.size - 1) / 2
        return torch.stack([middle + place[..., 0], middle - place[..., 1], 1 - placed[..., 2]], -1)


def rotation_matrices(told: Tensor, kind: str) -> Tensor:
    """(B, 3, 3) of rotation vectors (B, 3), or of Euler angles about x, y and z as Rz Ry Rx."""
    if kind == "vector":
        return _turned(told)
    x, y, z = (_turned(told * axis) for axis in torch.eye(3, device=told.device, dtype=told.dtype))
    return z @ y @ x


def _turned(vectors: Tensor) -> Tensor:
    """Rodrigues' formula; smooth at zero."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    return torch.linalg.matrix_exp(cross)
