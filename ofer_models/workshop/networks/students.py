"""Backbones of students: crops to the coefficients that a teacher tells."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

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
