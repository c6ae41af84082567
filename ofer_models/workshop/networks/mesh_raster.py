"""Which triangle each pixel of a picture shows: a z-buffer of torch operations, on the CPU and on a GPU.

As in `drawing.raster`, all pixels of all triangles' boxes are tested at once, here with depths and for a batch. No
gradient goes through the choice; `mesh_render` takes it from there.
"""

from __future__ import annotations

import torch
from torch import Tensor

_AT_ONCE = 1 << 21  # pixels of boxes tested in one go: some 100 MB
_EDGE = 1e-5  # of a triangle: pixels on the edge between two belong to both, and none is left open
_NONE = torch.iinfo(torch.int64).max


@torch.no_grad()
def visible_triangles(points: Tensor, faces: Tensor, size: tuple[int, int]) -> Tensor:
    """The nearest triangle that faces the camera at each pixel (B, H, W) int64, -1 where there is none.

    points (B, V, 3): x and y px with pixel centres at integers, y down, and the depth, which is positive before the
    camera. faces (F, 3), counter-clockwise seen from outside with y up; size: (H, W). Left out are triangles that turn
    their back, have no area, or have a corner at or behind the camera or one that is no number. Of two at one depth the
    first in `faces` stays.
    """
    height, width = size
    owner, low, box = _boxes(points, faces, size)
    pixels = box.prod(-1)
    ends = torch.cumsum(pixels, 0)
    buffer = torch.full((len(points) * height * width,), _NONE, dtype=torch.int64, device=points.device)
    start = 0
    while start < len(owner):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, done + _AT_ONCE, right=True)))
        part = slice(start, stop)
        _draw(buffer, points, faces, owner[part], low[part], box[part, 0], pixels[part], size)
        start = stop
    return torch.where(buffer == _NONE, -1, buffer & 0xFFFFFFFF).reshape(-1, height, width)


def _boxes(points: Tensor, faces: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Of the triangles that may be seen: numbers (n,) counted through the batch, the first pixel (n, 2) and the width
    and height (n, 2) of their boxes inside the picture."""
    corners = points[:, faces].flatten(0, 1)  # (B F, 3, 3)
    a, b, c = corners[..., :2].unbind(1)
    area = _cross(b - a, c - a)
    limit = torch.tensor([size[1] - 1, size[0] - 1], device=points.device)
    low = corners[..., :2].amin(1).ceil().clamp_min(0)
    high = torch.minimum(corners[..., :2].amax(1).floor(), limit)
    seen = (area < 0) & (corners[..., 2] > 0).all(1) & corners.isfinite().all(2).all(1) & (high >= low).all(1)
    owner = seen.nonzero()[:, 0]
    first = low[owner].long()
    return owner, first, high[owner].long() - first + 1


def _draw(
    buffer: Tensor, points: Tensor, faces: Tensor, owner: Tensor, low: Tensor, across: Tensor, pixels: Tensor,
    size: tuple[int, int],
) -> None:  # fmt: skip
    """Put triangles into the buffer (B H W,): the depth's bits above the triangle's number, so that the least wins."""
    which = torch.repeat_interleave(torch.arange(len(owner), device=points.device), pixels)
    place = torch.arange(len(which), device=points.device) - (torch.cumsum(pixels, 0) - pixels)[which]
    x = place % across[which] + low[which, 0]
    y = place // across[which] + low[which, 1]
    image, triangle = owner[which] // len(faces), owner[which] % len(faces)
    corners = points[image[:, None], faces[triangle]]
    weights = barycentric(corners[..., :2], torch.stack([x, y], -1).to(points.dtype))
    depth = 1 / (weights / corners[..., 2]).sum(-1)
    inside = ((weights >= -_EDGE).all(-1) & (depth > 0)).nonzero()[:, 0]
    # The bits of positive floats are in the order of the floats.
    bits = depth[inside].float().view(torch.int32).long()
    key = (bits << 32) | triangle[inside]
    at = (image[inside] * size[0] + y[inside]) * size[1] + x[inside]
    buffer.scatter_reduce_(0, at, key, "amin")


def barycentric(corners: Tensor, pixels: Tensor) -> Tensor:
    """Weights (..., 3) that make pixels (..., 2) of the corners (..., 3, 2) of triangles with an area."""
    to = corners - pixels[..., None, :]
    a, b, c = to.unbind(-2)
    parts = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], -1)
    return parts / parts.sum(-1, keepdim=True)


def _cross(u: Tensor, v: Tensor) -> Tensor:
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]
