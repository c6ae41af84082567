"""A dense landmark network: an aligned crop to MediaPipe's 478 points, a deviation for each, and whether it is seen.

After E. Wood et al., "3D face reconstruction with dense landmarks" (ECCV 2022): all points and a deviation for each
from one pass over the crop. Plain convolutions, because they reach far more of a processor's speed than separable ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.perception.landmark_crop import HALF, INPUT, POINTS, to_unit

_CHANNELS = (32, 64, 96, 160, 256)  # after each halving of the picture
_RESIDUALS = (0, 0, 0, 1, 1)  # and residual blocks at that size
_HIDDEN = 512
_LEAST, _MOST = -6.0, 1.0  # log deviation in the network's unit: 0.16 px to more than the crop


class LandmarkNetwork(nn.Module):
    """Crops (n, 3, 128, 128) RGB in -1..1 to points (n, 478, 2) px of the crop, deviations (n, 478) px of each
    coordinate, and visible (n, 478), the logit of the probability that the point is seen. 103 million multiplications.

    mean (478, 2) px: where the points lie in the mean.
    """

    def __init__(self, mean: np.ndarray | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for channels, residuals in zip(_CHANNELS, _RESIDUALS, strict=True):
            layers.append(convolution(before, channels, 2))
            layers += [Residual(channels) for _ in range(residuals)]
            before = channels
        side = INPUT // 2 ** len(_CHANNELS)
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(before * side * side, _HIDDEN), nn.ReLU(inplace=True))
        self.out = nn.Linear(_HIDDEN, POINTS * 4)
        nn.init.normal_(self.out.weight, std=1e-3)
        start = torch.zeros(POINTS, 4)
        if mean is not None:
            start[:, :2] = torch.from_numpy(to_unit(np.asarray(mean, np.float32)))
        start[:, 2] = -2.0
        self.out.bias.data = start.reshape(-1)

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """In px, as a pipeline wants it."""
        points, log_deviation, visible = self.raw(crop)
        return points * HALF + (INPUT - 1) / 2, log_deviation.exp() * HALF, visible

    def raw(self, crop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points and log deviations in the unit of `to_unit`, as a training wants it."""
        hidden = self.hidden(self.features(crop))
        with torch.autocast(crop.device.type, enabled=False):  # bfloat16 would round a point by a quarter of a pixel
            values = self.out(hidden.float()).reshape(-1, POINTS, 4)
        return values[..., :2], values[..., 2].clamp(_LEAST, _MOST), values[..., 3]


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
