"""Backbones of students: crops to the coefficients that a teacher tells."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.workshop.networks.landmark_regressor import LandmarkRegressor, RegressorHead
from ofer_models.workshop.networks.landmarks import LandmarkNetwork
from ofer_models.workshop.networks.resnet import DEPTHS, FEATURES, ResNet50

BACKBONES = {"resnet50": 224, "small": 128}  # and the side of their crops, px
_HIDDEN = 1024


class ResNetStudent(nn.Module):
    """ResNet-50 and two linear layers, as DECA and Learner have them: crops (n, 3, 224, 224) to coefficients (n, D).

    mean, deviation (D,): of the coefficients.
    """

    def __init__(self, mean: np.ndarray, deviation: np.ndarray, depths: tuple[int, ...] = DEPTHS) -> None:
        super().__init__()
        self.body = ResNet50(depths=depths)
        self.hidden, self.out = nn.Linear(FEATURES, _HIDDEN), nn.Linear(_HIDDEN, len(mean))
        self.register_buffer("mean", torch.from_numpy(np.asarray(mean, np.float32)))
        self.register_buffer("deviation", torch.from_numpy(np.asarray(deviation, np.float32)))

    def forward(self, crop: Tensor) -> Tensor:
        """Coefficients in the head's units."""
        features = self.body(crop)
        with torch.autocast(crop.device.type, enabled=False):
            return self.out(self.hidden(features.float()).relu()) * self.deviation + self.mean


class SmallStudent(LandmarkRegressor):
    """The open regressor's form: the landmark network's convolutions, which stay as they are, and a head upon them."""

    def __init__(self, landmarks: LandmarkNetwork, mean: np.ndarray, deviation: np.ndarray) -> None:
        super().__init__(landmarks, RegressorHead(mean, deviation))
        self.trunk.requires_grad_(False)

    def train(self, mode: bool = True) -> SmallStudent:
        """The convolutions are never in training mode, which would change what they normalise by."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, crop: Tensor) -> Tensor:
        """Coefficients in the head's units."""
        with torch.no_grad():
            features = self.features(crop)
        with torch.autocast(crop.device.type, enabled=False):
            return self.head(features)
