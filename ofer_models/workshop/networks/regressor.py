"""A small regressor: an aligned crop to all coefficients of a head, on the landmark network's first layers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.workshop.networks.landmarks import LandmarkNetwork, Residual, convolution

_TRUNK = 5  # layers of the landmark network's features that come before: 160 channels of 8 x 8
_EARLY = 3  # of them before the first feature map: 96 channels of 16 x 16
_AFTER, _SIDE = 160, 4  # channels before the last halving of the picture, and the side after it
_CHANNELS, _HIDDEN = 128, 384


class RegressorNetwork(nn.Module):
    """Crops (n, 3, 128, 128) RGB in -1..1 to coefficients (n, D). 83 million multiplications.

    mean, deviation (D,): what the outputs are at the start, and how far they move.
    """

    def __init__(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        super().__init__()
        self.trunk = LandmarkNetwork().features[:_TRUNK]
        self.tail = nn.Sequential(convolution(_AFTER, _CHANNELS, 2), Residual(_CHANNELS))
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(_CHANNELS * _SIDE * _SIDE, _HIDDEN), nn.ReLU(inplace=True)
        )
        self.out = nn.Linear(_HIDDEN, len(mean))
        nn.init.normal_(self.out.weight, std=1e-2)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("mean", torch.from_numpy(np.asarray(mean, np.float32)))
        self.register_buffer("deviation", torch.from_numpy(np.asarray(deviation, np.float32)))

    def start_from(self, landmarks: LandmarkNetwork) -> None:
        """Take the first layers of a landmark network: they know faces and what hides them."""
        self.trunk.load_state_dict(landmarks.features[:_TRUNK].state_dict())

    def forward(self, crop: Tensor) -> Tensor:
        """Coefficients in the head's units."""
        return self._told(self.hidden(self.tail(self.trunk(crop))))

    def maps(self, crop: Tensor) -> tuple[list[Tensor], Tensor]:
        """Four feature maps, from early to late, and the coefficients (n, D)."""
        early = self.trunk[:_EARLY](crop)
        late = self.trunk[_EARLY:](early)
        tail = self.tail(late)
        hidden = self.hidden(tail)
        return [early, late, tail, hidden], self._told(hidden)

    def _told(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):  # bfloat16 has three digits
            return self.out(hidden.float()) * self.deviation + self.mean
