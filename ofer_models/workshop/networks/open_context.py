"""The open bundle's encoder: a face's landmarks and aligned crop to a context vector.

Landmarks are what carries over from renderings to real faces, so they get most of the capacity; a small convolutional
branch adds what the landmark network does not see (lids, lips, what is covered). Both encoders of a bundle look at the
picture through the same convolutions and differ in what they make of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofer_models.workshop.networks.visibility import Visibility

CONTEXT = 256
_LANDMARKS, _PIXELS = 256, 192  # features
GIST = _LANDMARKS + _PIXELS  # in this order: what a context is made of
_CHANNELS = (24, 48, 80, 112, 144)
CONVOLVED = _CHANNELS[-1] * 16


class Pixels(nn.Sequential):
    """crop112 (F, 3, 112, 112) in -1..1 RGB to features (F, 192)."""

    def __init__(self, dropout: float = 0.2) -> None:
        layers: list[nn.Module] = []
        for n_in, n_out in zip((3, *_CHANNELS[:-1]), _CHANNELS, strict=True):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(_CHANNELS[-1] * 16, _PIXELS), nn.GELU(), nn.Dropout(dropout))

    def convolved(self, crop112: Tensor) -> Tensor:
        """What the convolutions see, (F, CONVOLVED), before the features are made of it."""
        for layer in list(self)[:-3]:
            crop112 = layer(crop112)
        return crop112

    def features(self, convolved: Tensor) -> Tensor:
        """The features (F, 192) of what the convolutions saw."""
        for layer in list(self)[-3:]:
            convolved = layer(convolved)
        return convolved


class Branch(nn.Module):
    """What one encoder makes of landmarks (F, 478, 6) and pixel features (F, 192).

    The input statistics are buffers, set once from training data by `fit_inputs`.
    """

    def __init__(self, context: int = CONTEXT, n_landmarks: int = 478, dropout: float = 0.2) -> None:
        super().__init__()
        features = 6 * n_landmarks
        self.register_buffer("landmark_mean", torch.zeros(features))
        self.register_buffer("landmark_scale", torch.ones(features))
        self.landmarks = nn.Sequential(
            nn.Linear(features, _LANDMARKS),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(_LANDMARKS, _LANDMARKS),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        self.join = nn.Sequential(nn.Linear(GIST, 256), nn.GELU(), nn.Linear(256, context))

    def gist(self, landmarks: Tensor, pixels: Tensor) -> Tensor:
        """Features (F, GIST) of both."""
        flat = ((landmarks.flatten(1) - self.landmark_mean) * self.landmark_scale).clamp(-6, 6)
        return torch.cat([self.landmarks(flat), pixels], dim=1)

    def context(self, gist: Tensor) -> Tensor:
        """Context (F, C) of layer-normalised features, so that every entry is of order one."""
        joined = self.join(gist)
        return F.layer_norm(joined, joined.shape[1:])

    @torch.no_grad()
    def fit_inputs(self, landmarks: Tensor) -> None:
        """Take mean and scale from training landmarks (n, 478, 6)."""
        flat = landmarks.flatten(1).float()
        self.landmark_mean.copy_(flat.mean(0))
        self.landmark_scale.copy_(1 / flat.std(0).clamp_min(1e-4))


class OpenContext(nn.Module):
    """An encoder as a bundle holds it: landmarks (F, 478, 6) float32 and crop112 (F, 3, 112, 112) to context (F, C).

    `perception.encoder_inputs` makes the inputs. visibility: layers on the convolutions; with them the encoder
    also returns occlusion (F, 1), the part of the landmarks that is covered, and visible (F, 468), the chance that
    nothing covers each. occlusion: where nothing is known of single landmarks, a layer on the context whose sigmoid is
    returned as occlusion.
    """

    def __init__(
        self,
        pixels: Pixels,
        branch: Branch,
        occlusion: nn.Linear | None = None,
        visibility: Visibility | None = None,
    ) -> None:
        super().__init__()
        self.pixels, self.branch, self.occlusion, self.visibility = pixels, branch, occlusion, visibility

    def forward(self, landmarks: Tensor, crop112: Tensor) -> Tensor | tuple[Tensor, ...]:
        convolved = self.pixels.convolved(crop112)
        context = self.branch.context(self.branch.gist(landmarks, self.pixels.features(convolved)))
        if self.visibility is not None:
            visible = self.visibility(convolved).sigmoid()
            return context, 1 - visible.mean(1, keepdim=True), visible
        return context if self.occlusion is None else (context, self.occlusion(context).sigmoid())
