"""The open bundle's encoder: a face's landmarks and aligned crop to a context vector.

Landmarks are what carries over from renderings to real faces, so they get most of the capacity; a small convolutional
branch adds what the landmark network does not see (lids, lips, what is covered).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTEXT = 256
_CHANNELS = (24, 48, 80, 112, 144)


class OpenContext(nn.Module):
    """landmarks (F, 478, 6) float32 and crop112 (F, 3, 112, 112) in -1..1 RGB to context (F, C).

    `perception.crops.encoder_inputs` makes the inputs.

    The input statistics are buffers, set once from training data by `fit_inputs`.
    """

    def __init__(self, context: int = CONTEXT, n_landmarks: int = 478, width: int = 256, dropout: float = 0.2) -> None:
        super().__init__()
        features = 6 * n_landmarks
        self.register_buffer("landmark_mean", torch.zeros(features))
        self.register_buffer("landmark_scale", torch.ones(features))
        self.landmarks = nn.Sequential(
            nn.Linear(features, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        layers: list[nn.Module] = []
        for n_in, n_out in zip((3, *_CHANNELS[:-1]), _CHANNELS, strict=True):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.BatchNorm2d(n_out), nn.GELU()]
        self.pixels = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(_CHANNELS[-1] * 16, 192), nn.GELU(), nn.Dropout(dropout)
        )
        self.join = nn.Sequential(nn.Linear(width + 192, 256), nn.GELU(), nn.Linear(256, context))

    def forward(self, landmarks: Tensor, crop112: Tensor) -> Tensor:
        """Context (F, C) of layer-normalised features, so that every entry is of order one."""
        flat = ((landmarks.flatten(1) - self.landmark_mean) * self.landmark_scale).clamp(-6, 6)
        joined = self.join(torch.cat([self.landmarks(flat), self.pixels(crop112)], dim=1))
        return F.layer_norm(joined, joined.shape[1:])

    @torch.no_grad()
    def fit_inputs(self, landmarks: Tensor) -> None:
        """Take mean and scale from training landmarks (n, 478, 6)."""
        flat = landmarks.flatten(1).float()
        self.landmark_mean.copy_(flat.mean(0))
        self.landmark_scale.copy_(1 / flat.std(0).clamp_min(1e-4))


class VisibilityContext(nn.Module):
    """An encoder that also tells how much of the face is covered: context (F, C) and occlusion (F, 1) in 0..1."""

    def __init__(self, encoder: OpenContext, occlusion: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.occlusion = encoder, occlusion

    def forward(self, landmarks: Tensor, crop112: Tensor) -> tuple[Tensor, Tensor]:
        context = self.encoder(landmarks, crop112)
        return context, self.occlusion(context).sigmoid()
