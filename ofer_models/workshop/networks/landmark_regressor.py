"""A small regressor: an aligned crop to all coefficients of a head, by what the landmark network's convolutions see."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.workshop.networks.landmarks import LandmarkNetwork

FEATURES = 4096  # of the last convolution, 256 channels of 4 x 4
_NARROW, _HIDDEN = 160, 256


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
        return self.out(self.layers(features * self.scale)) * self.deviation + self.mean


class LandmarkRegressor(nn.Module):
    """Crops (n, 3, 128, 128) RGB in -1..1 to coefficients (n, D). 100 million multiplications.

    The convolutions are the landmark network's and are not changed: they know faces and what hides them.
    """

    def __init__(self, landmarks: LandmarkNetwork, head: RegressorHead) -> None:
        super().__init__()
        self.trunk, self.head = landmarks.features, head

    def features(self, crop: Tensor) -> Tensor:
        """What the head sees (n, FEATURES)."""
        return self.trunk(crop).flatten(1).float()

    def forward(self, crop: Tensor) -> Tensor:
        """Coefficients in the head's units."""
        return self.head(self.features(crop))
