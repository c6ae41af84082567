"""The terms of CFR-GAN's two stages, with the weights of its public code.

Ju et al., "Complete face recovery GAN" (WACV 2022). Where the code and its intent differ: its landmark weights begin
one point late for eyes and nose bridge, as here; its reflectance term takes a sum over the batch and the colours for a
mean and has the wrong sign, here it is the variance of each colour over each picture's skin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STAGE1 = {"coefficients": 1e-4, "photometric": 0.01, "reflectance": 1e-5, "landmarks": 0.007, "light": 10.0,
          "identity": 0.2}  # fmt: skip
STAGE2 = {"features": 1.0, "coefficients": 0.1, "landmarks": 0.01}
_SIZES = {"shape": 1.0, "expression": 0.1, "albedo": 1.7e-3}  # how much the norm of a group counts
_MAPS = (1 / 8, 1 / 4, 1 / 2, 1.0)  # feature maps, from early to late
# Groups whose errors are averaged together.
_TOGETHER = (("shape", "expression", "jaw"), ("albedo",), ("rotation", "light", "translation", "camera"))
_BRIDGE, _EYES, _INNER_MOUTH = slice(28, 31), slice(37, 49), slice(60, 68)


def landmark_weights(heavy: float, eyes: float) -> Tensor:
    """(68,): heavy for nose bridge and inner mouth."""
    weights = torch.ones(68)
    weights[_BRIDGE] = weights[_INNER_MOUTH] = heavy
    weights[_EYES] = eyes
    return weights


def sizes(told: Mapping[str, Tensor]) -> Tensor:
    """Norms of the groups over the batch, as the public code has them: large coefficients are rarely right."""
    return sum(weight * told[name].norm() for name, weight in _SIZES.items() if name in told)


def squared_landmarks(found: Tensor, true: Tensor) -> Tensor:
    """Weighted squared distances px^2 of landmarks (B, 68, 2), a mean over them and the batch."""
    weights = landmark_weights(20.0, 5.0).to(found)
    return ((found - true).square().sum(2) * weights).sum(1).mean() / 68


def photometric(picture: Tensor, drawn: Tensor, skin: Tensor) -> Tensor:
    """Sum over the colours of |difference| of pictures (B, 3, S, S), a mean over the skin (B, S, S)."""
    return ((picture - drawn).abs().sum(1) * skin).sum() / skin.sum().clamp_min(1)


def reflectance(colours: Tensor, skin: Tensor) -> Tensor:
    """Variance of colours (B, V, 3) over the vertices of the skin (V,) bool: no light should be painted on it."""
    return colours[:, skin].var(1, unbiased=False).sum(1).mean()


def greyness(light: Tensor) -> Tensor:
    """Mean squared distance of light (B, 27) from its mean over the three colours."""
    parts = light.reshape(-1, 3, 9)
    return (parts - parts.mean(1, keepdim=True)).square().mean()


def unlikeness(drawn: Tensor, true: Tensor) -> Tensor:
    """1 - cosine of recognition features (B, C)."""
    return (1 - F.cosine_similarity(drawn, true)).mean()


def distillation(
    maps: Sequence[Tensor], teachers: Sequence[Tensor], told: Mapping[str, Tensor], taught: Mapping[str, Tensor],
    landmarks: Tensor, true_landmarks: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """The terms of stage 2 by name: a student's feature maps, groups and landmarks (B, 68, 2) against its teacher's."""
    features = sum(
        weight * F.mse_loss(own, other.detach()) for weight, own, other in zip(_MAPS, maps, teachers, strict=True)
    )
    parts = [[name for name in names if name in told] for names in _TOGETHER]
    coefficients = sum(
        F.mse_loss(*(torch.cat([groups[name] for name in names], 1) for groups in (told, taught)))
        for names in parts if names
    )  # fmt: skip
    weights = landmark_weights(5.0, 3.0).to(landmarks)
    distance = (landmarks - true_landmarks.detach()).abs().sum(2)
    return {"features": features, "coefficients": coefficients, "landmarks": (distance * weights).mean()}


def weighed(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The sum of terms by their weights."""
    return sum(weights[name] * term for name, term in terms.items())
