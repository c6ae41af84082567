"""What cameras and landmarkers add to a picture that renderings lack."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_input(crops: Tensor) -> Tensor:
    """uint8 (n, 112, 112, 3) to float (n, 3, 112, 112) in -1..1."""
    return (crops.permute(0, 3, 1, 2).float() - 127.5) / 127.5


def augment(landmarks: Tensor, crop: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise on landmarks; per picture brightness, contrast, colour, sometimes grey, as cameras differ.

    Some lose their fine detail, and of one in twenty nothing is left: renderings look alike in ways
    that faces do not, and the landmarks must be able to carry the picture alone.
    """
    n = len(crop)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def some(share: float) -> Tensor:
        return torch.rand(n, generator=generator) < share

    landmarks = landmarks + 0.006 * normal(*landmarks.shape)
    coarse, grey, nothing = some(0.25), some(0.15), some(0.05)
    gain, offset = 1 + 0.25 * normal(n, 1, 1, 1) + 0.08 * normal(n, 3, 1, 1), 0.15 * normal(n, 1, 1, 1)
    gain[nothing], offset[nothing] = 0, 0
    crop = crop * gain + offset
    if coarse.any():
        crop[coarse] = F.interpolate(F.avg_pool2d(crop[coarse], 2), scale_factor=2, mode="bilinear")
    crop[grey] = crop[grey].mean(1, keepdim=True)
    return landmarks, crop.clamp_(-1.2, 1.2)
