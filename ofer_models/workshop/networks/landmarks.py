"""A dense landmark network: an aligned crop to MediaPipe's 478 points, a deviation for each, and whether it is seen.

After E. Wood et al., "3D face reconstruction with dense landmarks" (ECCV 2022): all points and a deviation for each
from one pass over the crop. Plain convolutions, because they reach far more of a processor's speed than separable ones.
Eyes and mouth are looked at once more where the picture is still fine: after five halvings an eye is a third of one
place, and its lids move by a tenth of it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.perception.crops import canonical_face, five_points, similarity
from ofer_models.perception.landmark_crop import CROP_TEMPLATE, HALF, INPUT, POINTS, to_unit

_CHANNELS = (32, 64, 96, 160, 256)  # after each halving of the picture
_RESIDUALS = (0, 0, 0, 1, 1)  # and residual blocks at that size
_HIDDEN = 512
_REGION_CHANNELS = (48, 64, 96)
_REGION_HIDDEN = 160
# Windows of the map after the first halving that hold the right eye, the left eye and the mouth of an aligned crop,
# also where the crop lies off: first row and column, and how many of each.
_WINDOWS = ((14, 14, 20, 20), (14, 30, 20, 20), (34, 18, 20, 28))
_LEAST, _MOST = -6.0, 1.0  # log deviation in the network's unit: 0.16 px to more than the crop


class LandmarkNetwork(nn.Module):
    """Crops (n, 3, 128, 128) RGB in -1..1 to points (n, 478, 2) px of the crop, deviations (n, 478) px of each
    coordinate, and visible (n, 478), the logit of the probability that the point is seen. 163 million multiplications.

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
        side = INPUT // 2 ** len(_CHANNELS)
        self.features = nn.Sequential(*layers)
        # Normalised, as the regions are: without it 493 of the 512 units were dead after 1.5 million crops.
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(before * side * side, _HIDDEN, bias=False), nn.BatchNorm1d(_HIDDEN),
            nn.ReLU(inplace=True),
        )  # fmt: skip
        self.out = nn.Linear(_HIDDEN, POINTS * 4)
        nn.init.normal_(self.out.weight, std=1e-3)
        face = canonical_points()
        start = torch.zeros(POINTS, 4)
        start[:, :2] = torch.from_numpy(to_unit(face))
        start[:, 2] = -2.0
        self.out.bias.data = start.reshape(-1)
        self.regions = nn.ModuleList(Region(window, face) for window in _WINDOWS)

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """In px, as a pipeline wants it."""
        points, log_deviation, visible = self.raw(crop)
        return points * HALF + (INPUT - 1) / 2, log_deviation.exp() * HALF, visible

    def raw(self, crop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points and log deviations in the unit of `to_unit`, as a training wants it."""
        fine = self.features[0](crop)
        hidden = self.hidden(self.features[1:](fine))
        with torch.autocast(crop.device.type, enabled=False):  # bfloat16 would round a point by a quarter of a pixel
            values = self.out(hidden.float()).reshape(-1, POINTS, 4)
        for region in self.regions:
            values = values + region(fine, hidden)
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


class Region(nn.Module):
    """What a window of the fine map says about the points in it: a correction (n, 478, 4) of what the whole crop says,
    zero outside the window and before any training.

    window: first row and column in the map (n, 32, 64, 64), rows and columns. face (478, 2) px: which points those are.
    """

    def __init__(self, window: tuple[int, int, int, int], face: np.ndarray) -> None:
        super().__init__()
        top, left, rows, columns = window
        self.rows, self.columns = slice(top, top + rows), slice(left, left + columns)
        cells = torch.from_numpy(face) / 2
        inside = (cells >= torch.tensor([left, top])) & (cells < torch.tensor([left + columns, top + rows]))
        chosen = inside.all(-1).nonzero()[:, 0]
        self.register_buffer("place", nn.functional.one_hot(chosen, POINTS).float().T.contiguous())
        first, second, third = _REGION_CHANNELS
        self.features = nn.Sequential(
            convolution(_CHANNELS[0], first, 1), convolution(first, second, 2), Residual(second),
            convolution(second, third, 2), nn.Flatten(),
        )  # fmt: skip
        self.fine = nn.Linear(third * (rows // 4) * (columns // 4), _REGION_HIDDEN, bias=False)
        self.whole = nn.Linear(_HIDDEN, _REGION_HIDDEN, bias=False)
        self.norm = nn.BatchNorm1d(_REGION_HIDDEN)
        self.out = nn.Linear(_REGION_HIDDEN, len(chosen) * 4)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, fine: Tensor, hidden: Tensor) -> Tensor:
        """fine (n, 32, 64, 64), hidden (n, 512) of the whole crop."""
        own = self.fine(self.features(fine[:, :, self.rows, self.columns])) + self.whole(hidden)
        own = torch.relu(self.norm(own))
        with torch.autocast(fine.device.type, enabled=False):
            return self.place @ self.out(own.float()).reshape(-1, self.place.shape[1], 4)
