"""What the landmark network minimises: distances, differences, deviations as large as they are, and what is seen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Pairs of MediaPipe's points whose difference an expression is read from.
_LIDS = (
    (161, 163), (160, 144), (159, 145), (158, 153), (157, 154), (33, 133),
    (388, 390), (387, 373), (386, 374), (385, 380), (384, 381), (263, 362),
)  # fmt: skip
_BROWS = (
    (70, 33), (63, 160), (105, 159), (66, 158), (107, 133), (300, 263), (293, 387), (334, 386), (296, 385), (336, 362),
    (107, 336),
)  # fmt: skip
_IRISES = ((468, 33), (468, 133), (468, 159), (473, 263), (473, 362), (473, 386))
_WIDTHS = ((61, 291), (78, 308))  # of the mouth
_LIPS = (
    (80, 88), (81, 178), (82, 87), (13, 14), (312, 317), (311, 402), (310, 318),  # the inner edges, from each other
    (39, 181), (37, 84), (0, 17), (267, 314), (269, 405),  # the outer edges
    (61, 0), (291, 0), (61, 17), (291, 17), (61, 2), (291, 2),  # the corners
    (0, 2), (13, 2), (14, 152), (17, 152), (152, 2),  # and how far lips and chin are from the nose
)  # fmt: skip
PAIRS = (*_LIDS, *_WIDTHS, *_BROWS, *_IRISES, *_LIPS)
_LEAST = 0.02  # in the network's unit, 1.3 px: points surer than this do not count more
_LIKELIHOOD, _SEEN = 0.02, 0.02  # weights beside the distances
_DIFFERENCES, _MORE = 50.0, 3.0  # and of the squared differences; lids, which move least, and the mouth's width by more
_HIDDEN_PAIR = 0.2  # what a pair counts of which a point is hidden


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


def difference_loss(points: Tensor, true_points: Tensor, true_visible: Tensor) -> Tensor:
    """Mean squared error of the differences of PAIRS of points (n, 478, 2), weighted to stand beside `landmark_loss`.

    Lids move by a few hundredths of a face: of the distances, where pose and shape make most of the error, that is
    nothing. What an expression is read from is therefore asked for by itself. It is squared, because one closed eye in
    ten is a large error now and then, which a distance, whose best answer is the median, lets pass.
    """
    first, second = torch.tensor(PAIRS, device=points.device).T
    off = points - true_points
    counts = 1 - (1 - _HIDDEN_PAIR) * ~(true_visible[:, first] & true_visible[:, second])
    counts[:, : len(_LIDS) + len(_WIDTHS)] *= _MORE
    apart = (off[:, first] - off[:, second]).square().sum(-1)
    return _DIFFERENCES * (counts * apart).sum() / counts.sum()
