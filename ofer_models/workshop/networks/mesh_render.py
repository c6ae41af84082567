"""A differentiable picture of a mesh: gradients through the barycentric weights for colour, position and light.

What a pixel shows is chosen by a z-buffer (`mesh_raster`), which has no gradient; where on its triangle the pixel lies
follows from the corners, and so does what is interpolated there. Silhouettes move no pixel, as with nvdiffrast without
its antialiasing and with PyTorch3D's hard blending.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ofer_models.head.spherical_harmonics import AMBIENT, TERMS, harmonics
from ofer_models.workshop.networks.mesh_raster import barycentric, visible_triangles


def render(points: Tensor, faces: Tensor, values: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Values (B, H, W, C), zero where nothing is drawn, and the triangle (B, H, W) of each pixel, -1 for none.

    points (B, V, 3): x and y px, y down, and depth; faces (F, 3), as for `visible_triangles`; values (B, V, C) at the
    vertices, run evenly over the surface (not over the picture). Differentiable in points and values.
    """
    triangle = visible_triangles(points, faces, size)
    return interpolate(points, faces, values, triangle), triangle


def interpolate(points: Tensor, faces: Tensor, values: Tensor, triangle: Tensor) -> Tensor:
    """The values of `render` where the triangle (B, H, W) of each pixel is known."""
    image, row, column = (triangle >= 0).nonzero(as_tuple=True)
    corners = faces[triangle[image, row, column]]
    own = points[image[:, None], corners]
    weights = barycentric(own[..., :2], torch.stack([column, row], -1).to(points.dtype))
    weights = weights / own[..., 2]  # what is even over the surface is not so over its picture
    weights = weights / weights.sum(-1, keepdim=True)
    drawn = (weights[..., None] * values[image[:, None], corners]).sum(-2)
    picture = values.new_zeros(*triangle.shape, values.shape[-1])
    return picture.index_put((image, row, column), drawn)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals (B, V, 3) of vertices (B, V, 3); zero where all triangles are without area."""
    a, b, c = vertices[:, faces].unbind(2)
    normals = torch.linalg.cross(b - a, c - a)
    summed = torch.zeros_like(vertices)
    for corner in range(3):
        summed = summed.index_add(1, faces[:, corner], normals)
    return summed / summed.norm(dim=-1, keepdim=True).clamp_min(1e-20)


def irradiance(normals: Tensor, light: Tensor) -> Tensor:
    """Light (B, V, 3) on unit normals (B, V, 3) of coefficients (B, 27); as `head.spherical_harmonics.irradiance`."""
    terms = torch.stack(harmonics(*normals.unbind(-1)), -1)
    gains = light.reshape(-1, 3, TERMS)
    ambient = torch.zeros(TERMS, dtype=light.dtype, device=light.device)
    ambient[0] = AMBIENT
    return terms @ (gains + ambient).transpose(1, 2)
