"""IdRank: scores the candidate head shapes of one face against its image context.

Structure and formulas: OFER (Selvaraju et al., CVPR 2025) and its published release.
Shapes: F faces, N candidates of a face, V frontal vertices, S shape coefficients, C context, I inputs of the scorer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofer_models.workshop.networks.official_weights import OfficialNetwork, Slots, linear_slots, norm_slots

WIDTHS = (4096, 1024, 256, 64, 1)
MILLIMETRES = 1000.0


class MeanResidual(nn.Linear):
    """Linear map of [mean | residual], multiplied half by half so that the mean's half runs once a face."""

    def __init__(self, n_inputs: int, n_out: int) -> None:
        super().__init__(2 * n_inputs, n_out)

    def forward(self, mean: Tensor, residual: Tensor) -> Tensor:
        """mean (F, 1 or N, I), residual (F, N, I) -> (F, N, n_out)."""
        for_mean, for_residual = self.weight.chunk(2, dim=1)
        return F.linear(residual, for_residual) + F.linear(mean, for_mean, self.bias)


class Conditioning(nn.Module):
    """What follows a linear map: GroupNorm(SELU(y)), except after the last, then y * sigmoid(gate(c)) + shift(c)."""

    def __init__(self, width: int, context: int, groups: int | None) -> None:
        super().__init__()
        self.gate = nn.Linear(context, width)
        self.shift = nn.Linear(context, width, bias=False)
        self.norm = nn.GroupNorm(groups, width) if groups else None

    def forward(self, y: Tensor, context: Tensor, skip_norm: bool = False) -> Tensor:
        """y (F, N, width), context (F, C) -> (F, N, width)."""
        if self.norm is not None:
            y = F.selu(y)
            if not skip_norm:
                y = self.norm(y.flatten(0, 1)).view_as(y)
        return y * self.gate(context).sigmoid()[:, None] + self.shift(context)[:, None]


class CandidateScorer(nn.Module):
    """The layers that IdRank and its folded form share, on any I inputs per candidate."""

    def __init__(self, n_inputs: int, context: int, widths: Sequence[int], groups: int, single_row_quirk: bool) -> None:
        super().__init__()
        self.single_row_quirk = single_row_quirk
        linears = [MeanResidual(n_inputs, widths[0]), *(nn.Linear(a, b) for a, b in pairwise(widths))]
        self.linears = nn.ModuleList(linears)
        self.conditionings = nn.ModuleList(Conditioning(width, context, groups) for width in widths[:-1])
        self.conditionings.append(Conditioning(widths[-1], context, None))

    def score(self, mean: Tensor, residual: Tensor, context: Tensor) -> Tensor:
        """Scores (F, N) of residual (F, N, I) around mean (F, 1 or N, I) under context (F, C)."""
        skip_norm = self.single_row_quirk and residual.shape[:2] == (1, 1)
        y = self.linears[0](mean, residual)
        for conditioning, linear in zip(self.conditionings[:-1], self.linears[1:], strict=True):
            y = linear(conditioning(y, context, skip_norm))
        return self.conditionings[-1](y, context)[..., 0]

    def score_set(self, inputs: Tensor, context: Tensor) -> Tensor:
        """Scores (F, N) of inputs (F, N, I), split into their mean over the N candidates and what is left."""
        mean = inputs.mean(1, keepdim=True)
        return self.score(mean, inputs - mean, context)


class RankNetwork(CandidateScorer, OfficialNetwork):
    """IdRank as released, on meshes. A higher score is better; softmax over N gives the release's probabilities.

    n_vertices: V, 1785 in the release. context: C, 1024 (FaRL then normalised ArcFace) in the release.
    single_row_quirk: skip GroupNorm for one face with one candidate, as the release does.
    """

    def __init__(
        self,
        n_vertices: int = 1785,
        context: int = 1024,
        widths: Sequence[int] = WIDTHS,
        groups: int = 8,
        single_row_quirk: bool = False,
    ) -> None:
        super().__init__(3 * n_vertices, context, widths, groups, single_row_quirk)

    def forward(self, vertices: Tensor, context: Tensor) -> Tensor:
        """Scores (F, N) of frontal vertices (F, N, V, 3) in millimetres under context (F, C)."""
        return self.score_set(vertices.flatten(-2), context)

    @torch.no_grad()
    def fold(self, template: Tensor, shapedirs: Tensor) -> FoldedRank:
        """The same scores straight from shape coefficients.

        template (V, 3), shapedirs (V, 3, S): the frontal part of the head model, in metres. In the neutral pose the
        vertices are affine in the coefficients; the first layer is linear, so it absorbs the shape directions, and its
        bias the template, which only the mean contains.
        """
        first = self.linears[0]
        n_inputs, n_shape = first.in_features // 2, shapedirs.shape[-1]
        if template.numel() != n_inputs or shapedirs.shape[:-1].numel() != n_inputs:
            raise ValueError(
                f"the frontal head model has {tuple(template.shape)} vertices and {tuple(shapedirs.shape)} directions, "
                f"the rank network was built for {n_inputs // 3} vertices"
            )
        directions = MILLIMETRES * shapedirs.reshape(n_inputs, n_shape).to(first.weight)
        for_mean, for_residual = first.weight.chunk(2, dim=1)
        widths = [linear.out_features for linear in self.linears]
        groups = self.conditionings[0].norm.num_groups
        folded = FoldedRank(n_shape, self.conditionings[0].gate.in_features, widths, groups, self.single_row_quirk)
        folded.to(first.weight)
        folded.linears[0].weight.copy_(torch.cat([for_mean @ directions, for_residual @ directions], dim=1))
        folded.linears[0].bias.copy_(first.bias + for_mean @ (MILLIMETRES * template.reshape(-1).to(first.weight)))
        folded.linears[1:].load_state_dict(self.linears[1:].state_dict())
        folded.conditionings.load_state_dict(self.conditionings.state_dict())
        return folded

    def official_slots(self) -> Slots:
        slots: Slots = {}
        for i, (linear, conditioning) in enumerate(zip(self.linears, self.conditionings, strict=True)):
            slots.update(linear_slots(f"ranklayers.{i}.mlp", linear))
            slots.update(linear_slots(f"ranklayers.{i}.scale", conditioning.gate))
            slots.update(linear_slots(f"ranklayers.{i}.shift", conditioning.shift))
            if conditioning.norm is not None:
                slots.update(norm_slots(f"ranklayers.{i}.gn", conditioning.norm))
        return slots


class FoldedRank(CandidateScorer):
    """IdRank on shape coefficients, without a mesh: made by `RankNetwork.fold`, or trained directly.

    n_shape: S. Other arguments as for RankNetwork.
    """

    def __init__(
        self,
        n_shape: int,
        context: int = 1024,
        widths: Sequence[int] = WIDTHS,
        groups: int = 8,
        single_row_quirk: bool = False,
    ) -> None:
        super().__init__(n_shape, context, widths, groups, single_row_quirk)

    def forward(self, betas: Tensor, context: Tensor) -> Tensor:
        """Scores (F, N) of shape coefficients betas (F, N, S) under context (F, C)."""
        return self.score_set(betas, context)


class PosteriorRank(nn.Module):
    """Scores candidates by where the context expects the head: an alternative to IdRank that knows no other candidates.

    The context gives a place, and how far from it the truth may be; a candidate's score is the logarithm of a round
    Gaussian there, up to what is common to all candidates. So a score does not depend on which or how many other
    candidates there are, and scores of one candidate under several frames' contexts add up to that of all frames.

    It takes the axes of that space for independent witnesses, which they are not, so the odds between two candidates
    are larger than the true ones; their order is not touched by that.

    Places are linear in the coefficients, betas @ basis with basis (S, D), so that their distances are root mean square
    vertex distances in mm.
    """

    def __init__(self, basis: Tensor, context: int = 1024, width: int = 256, dropout: float = 0.2) -> None:
        super().__init__()
        self.register_buffer("basis", basis.clone())
        self.hidden = nn.Linear(context, width)
        self.place = nn.Linear(width, basis.shape[1])
        self.log_deviation = nn.Linear(width, 1)
        self.dropout = dropout

    def forward(self, betas: Tensor, context: Tensor) -> Tensor:
        """Scores (F, N) of shape coefficients betas (F, N, S) under context (F, C)."""
        place, log_deviation = self.expect(context)
        square = (betas @ self.basis - place[:, None]).square().sum(-1)
        return -0.5 * square * torch.exp(-2 * log_deviation)[:, None]

    def expect(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The place (F, D) in mm and the logarithm (F,) of the deviation along each of its axes."""
        hidden = F.dropout(F.silu(self.hidden(context)), self.dropout, self.training)
        return self.place(hidden), self.log_deviation(hidden)[:, 0]


def listnet_loss(scores: Tensor, errors_mm: Tensor) -> Tensor:
    """Soft-target cross-entropy of scores (F, N) against softmax(-errors_mm), averaged over the faces.

    errors_mm (F, N): mean absolute vertex-coordinate error of each candidate in millimetres (OFER's temperature: 1 mm).
    """
    return F.cross_entropy(scores, (-errors_mm).softmax(-1))


def listmle_loss(scores: Tensor, errors_mm: Tensor) -> Tensor:
    """Negative log-likelihood of the true order under the Plackett-Luce model of scores (F, N), by candidate.

    Xia et al., "Listwise approach to learning to rank" (2008).
    """
    ordered = scores.gather(1, errors_mm.argsort(1))
    return (ordered.flip(1).logcumsumexp(1).flip(1) - ordered).mean()


def pairwise_loss(scores: Tensor, errors_mm: Tensor) -> Tensor:
    """Logistic loss of every pair of candidates, each weighed by how much their errors (F, N) differ.

    After Burges et al., "Learning to rank using gradient descent" (2005).
    """
    worse = (errors_mm[:, :, None] - errors_mm[:, None]).clamp_min(0)  # of i, against j
    wrong = F.softplus(scores[:, :, None] - scores[:, None])
    return (worse * wrong).sum() / worse.sum().clamp_min(1e-6)


def error_loss(scores: Tensor, errors_mm: Tensor) -> Tensor:
    """Squared error of -scores (F, N) as predictions of the errors themselves."""
    return (scores + errors_mm).square().mean()
