"""What the landmark network minimises: distances, deviations as large as they are, and whether points are seen."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_LEAST = 0.02  # in the network's unit, 1.3 px: points surer than this do not count more
_LIKELIHOOD, _SEEN = 0.02, 0.02  # weights beside the distances


def landmark_loss(
    points: Tensor, log_deviation: Tensor, visible: Tensor, true_points: Tensor, true_visible: Tensor
) -> Tensor:
    """Mean loss of points (n, P, 2) with log deviations (n, P) and visibility logits (n, P) against the truth.

    Points move as under a Laplace likelihood: by distance over deviation, with the deviations held constant and the
    weights' mean one, so that a hidden point counts less than one that is seen. Deviations learn the Gaussian
    likelihood of the distances that there are, held constant in turn. Plain likelihood of both at once starts badly: a
    network first learns to be unsure (Seitzer et al., "On the pitfalls of heteroscedastic uncertainty estimation",
    ICLR 2022); here points learn from the first step as without any deviations.
    """
    squared = (points - true_points).square().sum(-1)
    weight = 1 / (log_deviation.detach().exp() + _LEAST)
    distance = (weight / weight.mean() * (squared + 1e-6).sqrt()).mean()
    likelihood = (0.5 * squared.detach() * (-2 * log_deviation).exp() + 2 * log_deviation).mean()
    seen = F.binary_cross_entropy_with_logits(visible, true_visible.float())
    return distance + _LIKELIHOOD * likelihood + _SEEN * seen
