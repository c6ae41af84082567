"""A small regressor: an aligned crop to all coefficients of a head, on the landmark network's convolutions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.workshop.networks.landmarks import LandmarkNetwork

FEATURES = 4096  # of the last convolution, 256 channels of 4 x 4
_NARROW, _HIDDEN = 160, 256
_EARLY, _LATE = 3, 5  # layers of the trunk before the first and the second feature map: 16 x 16, 8 x 8


class RegressorHead(nn.Module):
    """Features (n, FEATURES) to coefficients (n, D).

    mean, deviation (D,): what the outputs are at the start, and how far they move. scale (FEATURES,): one over the
    features' deviations, set once from training data.
    """

    def __init__(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(FEATURES))
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, _NARROW), nn.ReLU(inplace=True), nn.Linear(_NARROW, _HIDDEN), nn.ReLU(inplace=True)
        )
        self.out = nn.Linear(_HIDDEN, len(mean))
        nn.init.normal_(self.out.weight, std=1e-2)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("mean", torch.from_numpy(np.asarray(mean, np.float32)))
        self.register_buffer("deviation", torch.from_numpy(np.asarray(deviation, np.float32)))

    def forward(self, features: Tensor) -> Tensor:
        """Coefficients in the head's units."""
        return self.told(self.hidden(features))

    def hidden(self, features: Tensor) -> Tensor:
        """The last layer before the coefficients (n, 256)."""
        return self.layers(features * self.scale)

    def told(self, hidden: Tensor) -> Tensor:
        """Coefficients of that layer."""
        return self.out(hidden) * self.deviation + self.mean


class RegressorNetwork(nn.Module):
    """Crops (n, 3, 128, 128) RGB in -1..1 to coefficients (n, D). 100 million multiplications.

    The convolutions are the landmark network's, which know faces and what hides them; what trains this network says
    whether they stay as they are.
    """

    def __init__(self, landmarks: LandmarkNetwork, head: RegressorHead) -> None:
        super().__init__()
        self.trunk, self.head = landmarks.features, head

    def features(self, crop: Tensor) -> Tensor:
        """What the head sees (n, FEATURES)."""
        return self.trunk(crop).flatten(1).float()

    def forward(self, crop: Tensor) -> Tensor:
        """Coefficients in the head's units."""
        features = self.features(crop)
        with torch.autocast(crop.device.type, enabled=False):  # bfloat16 has three digits
            return self.head(features)

    def maps(self, crop: Tensor) -> tuple[list[Tensor], Tensor]:
        """Four feature maps, from early to late, and the coefficients (n, D)."""
        early = self.trunk[:_EARLY](crop)
        late = self.trunk[_EARLY:_LATE](early)
        last = self.trunk[_LATE:](late)
        with torch.autocast(crop.device.type, enabled=False):
            hidden = self.head.hidden(last.flatten(1).float())
            return [early, late, last, hidden], self.head.told(hidden)
