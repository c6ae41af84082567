"""Which landmarks of a face something covers, told from what the encoders' convolutions see of the aligned crop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

POINTS = 468  # MediaPipe's without the irises
_HIDDEN = 128


class Visibility(nn.Module):
    """Outputs (F, n) of the encoders' last convolution to the log odds (F, 468) that nothing covers each landmark.

    The convolutions themselves are not changed by it: they have learned what occluders look like, since an encoder has
    to know what not to believe. scale (n,): set once from training data.
    """

    def __init__(self, features: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(features))
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(features, _HIDDEN), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(_HIDDEN, POINTS),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features * self.scale)
