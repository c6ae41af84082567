"""A dense landmark network: an aligned crop to MediaPipe's 478 points, a deviation for each, and whether it is seen.

After E. Wood et al., "3D face reconstruction with dense landmarks" (ECCV 2022): all points and a deviation for each
from one pass over the crop. Where a point is, is the mean of a map of its own (X. Sun et al., "Integral human pose
regression", ECCV 2018), not what one vector of the whole crop remembers of it, and is corrected by what a finer map
shows there: lids move by a tenth of what the coarsest map shows as one place. Plain convolutions, because they reach
far more of a processor's speed than separable ones.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofer_models.perception.crops import canonical_face, five_points, similarity
from ofer_models.perception.landmark_crop import CROP_TEMPLATE, HALF, INPUT, POINTS, to_unit

_CHANNELS = (32, 64, 96, 160, 256)  # after each halving of the picture
_RESIDUALS = (0, 0, 0, 1, 1)  # and residual blocks at that size
_MERGED = (128, 96, 64)  # on the way back to a quarter of the picture's size
_SIDE = INPUT // 8  # of the map in which points are found
_PRIOR = 0.3  # deviation, in the network's unit, of where an untrained network looks for a point
_LEAST, _MOST = -6.0, 1.0  # log deviation in the network's unit: 0.16 px to more than the crop


class LandmarkNetwork(nn.Module):
    """Crops (n, 3, 128, 128) RGB in -1..1 to points (n, 478, 2) px of the crop, deviations (n, 478) px of each
    coordinate, and visible (n, 478), the logit of the probability that the point is seen.

    Untrained it answers with the canonical face, seen from before.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for channels, residuals in zip(_CHANNELS, _RESIDUALS, strict=True):
            layers.append(convolution(before, channels, 2))
            layers += [Residual(channels) for _ in range(residuals)]
            before = channels
        self.features = nn.Sequential(*layers)
        steps = zip((_CHANNELS[4], *_MERGED[:2]), (_CHANNELS[3], _CHANNELS[2], _CHANNELS[1]), _MERGED, strict=True)
        self.merges = nn.ModuleList(Merge(*channels) for channels in steps)
        self.heads = PointHeads(_MERGED[1], _MERGED[2])

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """In px, as a pipeline wants it."""
        points, log_deviation, visible = self.raw(crop)
        return points * HALF + (INPUT - 1) / 2, log_deviation.exp() * HALF, visible

    def raw(self, crop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points and log deviations in the unit of `to_unit`, as a training wants it."""
        maps: list[Tensor] = []  # the last of each size
        for layer in self.features:
            crop = layer(crop)
            maps = [*(maps[:-1] if isinstance(layer, Residual) else maps), crop]
        merged = [maps[-1]]
        for merge, fine in zip(self.merges, maps[-2::-1], strict=False):
            merged.append(merge(merged[-1], fine))
        with torch.autocast(crop.device.type, enabled=False):  # bfloat16 would round a point by a quarter of a pixel
            values = self.heads(merged[-2].float(), merged[-1].float())
        return values[..., :2], values[..., 2].clamp(_LEAST, _MOST), values[..., 3]


def canonical_points() -> np.ndarray:
    """(478, 2) float32 px of the canonical face in a crop that is aligned to it."""
    face = canonical_face()
    linear = similarity(five_points(face), CROP_TEMPLATE)
    return (face[:, :2] @ linear[:, :2].T + linear[:, 2]).astype(np.float32)


def convolution(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels, 1)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))


class Merge(nn.Module):
    """A coarse map (n, coarse, s, s), enlarged, and a finer one (n, fine, 2 s, 2 s) as one (n, after, 2 s, 2 s)."""

    def __init__(self, coarse: int, fine: int, after: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(coarse, fine, 1, bias=False)
        self.both = nn.Sequential(nn.BatchNorm2d(fine), nn.ReLU(inplace=True), convolution(fine, after, 1))

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        large = F.interpolate(self.narrow(coarse), scale_factor=2.0)
        return self.both(large + fine)


class PointHeads(nn.Module):
    """Maps of features, coarse (n, coarse, 16, 16) and fine (n, fine, 32, 32), to (n, 478, 4): x and y in the network's
    unit, log deviation, logit of being seen.

    Every point looks at the coarse map by weights of its own, which sum to one: their mean place is the point, and the
    mean of the features there says what is left of it, how sure it is and whether it is seen. The fine map at the place
    that was found so corrects all of that once more.
    """

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        middle = (torch.arange(_SIDE) + 0.5) / _SIDE * 2 - 1
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        self.register_buffer("grid", torch.stack([x, y, x**2 + y**2]).reshape(1, 3, -1))
        # At first a Gaussian about the point in an aligned crop, a linear function of the grid.
        place = torch.from_numpy(to_unit(canonical_points()))
        narrow = torch.full((POINTS, 1), 1 / _PRIOR**2)
        look = torch.randn(POINTS, coarse) * 1e-3
        self.look = nn.Parameter(torch.cat([place * narrow, -narrow / 2, look], dim=1))
        self.tell = nn.Parameter(torch.zeros(POINTS, coarse, 4))
        self.correct = nn.Parameter(torch.zeros(POINTS, fine, 4))
        start = (self.look[:, :3] @ self.grid[0]).softmax(-1) @ self.grid[0, :2].T  # which the map's edge moves inwards
        bias = torch.tensor([0.0, 0.0, -2.0, 0.0]) + F.pad(place - start.detach(), (0, 2))
        self.bias = nn.Parameter(bias)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        there = torch.cat([self.grid.expand(coarse.shape[0], -1, -1), coarse.flatten(2)], dim=1)
        seen = (self.look @ there).softmax(-1) @ there.transpose(1, 2)
        place, told = seen[..., :2], self._each(seen[..., 3:], self.tell) + self.bias
        told = torch.cat([told[..., :2] + place, told[..., 2:]], dim=-1)
        return told + self._each(self._sampled(fine, told[..., :2].detach()), self.correct)

    def _sampled(self, features: Tensor, at: Tensor) -> Tensor:
        """A map (n, channels, s, s) between its cells: (n, 478, channels) at places (n, 478, 2) of the network's unit,
        its edge where they are outside.

        A training calls `grid_sample`; what runs has the same from operators that every runtime knows and is quick at.
        """
        if self.training:
            between = F.grid_sample(features, at[:, None], padding_mode="border", align_corners=False)
            return between[:, :, 0].transpose(1, 2)
        side = features.shape[-1]
        place = ((at + 1) * (side / 2) - 0.5).clamp(0, side - 1)
        corner = place.floor().clamp(max=side - 2)
        share, cells = place - corner, features.flatten(2).transpose(1, 2)
        share = torch.stack([1 - share, share], dim=-1)
        index = (corner[..., 1] * side + corner[..., 0]).long()[..., None].expand(-1, -1, features.shape[1])
        corners = [
            share[..., 1, row, None] * share[..., 0, column, None] * cells.gather(1, index + (row * side + column))
            for row in (0, 1) for column in (0, 1)
        ]  # fmt: skip
        return corners[0] + corners[1] + corners[2] + corners[3]

    def _each(self, features: Tensor, weights: Tensor) -> Tensor:
        """(n, 478, 4): each point's features (n, 478, channels) by weights of its own (478, channels, 4).

        A training has a matrix product for it; what runs multiplies and adds, which ONNX Runtime is twice as fast at as
        at a batch of matrices of one row.
        """
        if self.training:
            return (features.transpose(0, 1) @ weights).transpose(0, 1)
        return (features[:, :, None] * weights.transpose(1, 2)).sum(-1)
