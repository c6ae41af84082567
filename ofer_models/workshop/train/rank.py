"""IdRank's training: OFER's own way, with other losses to compare, and a posterior that needs no candidates to learn.

OFER's networks see candidates that the frozen IdGen drew and learn by the cross-entropy of their scores against
softmax(-error). They are trained in folded form, on shape coefficients: with a neutral pose the vertices are affine in
them and the first layer is linear, so both forms describe the same functions, and this one needs no meshes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.head.model import HeadModel
from ofer_models.runtime.solvers import solver_table
from ofer_models.workshop.head.frontal import frontal_basis
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.rank import (
    FoldedRank,
    PosteriorRank,
    error_loss,
    listmle_loss,
    listnet_loss,
    pairwise_loss,
)
from ofer_models.workshop.train.accelerator import Accelerator
from ofer_models.workshop.train.loop import History, Keeper, Schedule, train
from ofer_models.workshop.train.samplers import CONTEXT_NOISE, draw

WIDTHS = (384, 256, 128, 64, 1)
POSTERIOR = "posterior"
_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "listnet": listnet_loss, "listmle": listmle_loss, "pairwise": pairwise_loss, "error": error_loss,
}  # fmt: skip
METHODS = (POSTERIOR, *_LOSSES)
_AXES = 80  # of the space that the posterior lives in: 99.7 % of the open heads' squared distances
_LEAST, _MOST = -3.0, 2.0  # bounds of the deviation's logarithm (mm)


def make_rank(head: HeadModel, n_context: int, method: str) -> FoldedRank | PosteriorRank:
    """An untrained rank network for one of METHODS."""
    if method == POSTERIOR:
        return PosteriorRank(posterior_basis(head), n_context)
    return FoldedRank(head.n_shape, n_context, WIDTHS)


def posterior_basis(head: HeadModel) -> Tensor:
    """(S, D) map of betas to the main axes of frontal shape, in mm root mean square over the frontal vertices."""
    basis = torch.from_numpy(frontal_basis(head)).double()
    gram = basis @ basis.T / (basis.shape[1] // 3)
    values, vectors = torch.linalg.eigh(gram)
    axes = (vectors * values.clamp_min(0).sqrt()).flip(1)[:, :_AXES]
    return axes.float()


def train_rank(
    head: HeadModel,
    idgen: Denoiser,
    contexts: np.ndarray,
    betas: np.ndarray,
    held_out_contexts: np.ndarray,
    held_out: np.ndarray,
    schedule: Schedule,
    *,
    candidates: int = 40,
    faces: int = 2500,
    temperature: float = 1.0,
    sharpness: float = 0.25,
    method: str = "listnet",
    seed: int,
    log: Callable[[str], None] = print,
    accelerator: Accelerator | None = None,
    keeper: Keeper | None = None,
) -> tuple[FoldedRank | PosteriorRank, History]:
    """Train one of METHODS; the validation figure is the mean error (mm) of the candidates it chooses.

    `posterior` learns from all contexts and true betas, the others from candidates of the first `faces` of them.

    temperature scales IdGen's starting noise. sharpness in mm divides the errors in OFER's target softmax(-error)
    (`listnet` alone); its own is 1 mm, wide for errors that differ by tenths.
    """
    torch.manual_seed(seed)
    basis = torch.from_numpy(frontal_basis(head))
    if method == POSTERIOR:
        faces = len(contexts)
    context, truth = torch.from_numpy(contexts[:faces]), torch.from_numpy(betas[:faces])
    if method != POSTERIOR:
        drawn = _candidates(idgen, context, candidates, temperature, seed)
        errors = _errors(drawn, truth, basis)
        if method == "listnet":
            errors = errors / sharpness
    test_context, test_truth = torch.from_numpy(held_out_contexts), torch.from_numpy(held_out)
    test_drawn = _candidates(idgen, test_context, candidates, temperature, seed + 1)
    test_errors = _errors(test_drawn, test_truth, basis)
    log(f"idrank: candidates average {test_errors.mean():.3f} mm, best {test_errors.min(1).values.mean():.3f} mm")
    network = make_rank(head, contexts.shape[1], method)
    device = (accelerator or Accelerator()).device

    def loss(net: nn.Module, index: Tensor, noise: torch.Generator) -> Tensor:
        some = torch.randint(candidates // 2, candidates + 1, (1,), generator=noise).item()
        subset = torch.randperm(candidates, generator=noise)[:some]
        scores = net(drawn[index][:, subset].to(device), context[index].to(device))
        return _LOSSES[method](scores, errors[index][:, subset].to(device))

    def likelihood(net: nn.Module, index: Tensor, noise: torch.Generator) -> Tensor:
        given = context[index] + CONTEXT_NOISE * torch.randn(context[index].shape, generator=noise)
        return net(truth[index].to(device), given.to(device)).mean()

    def validate(average: nn.Module) -> float:
        rank = average.rank if method == POSTERIOR else average
        best = rank(test_drawn.to(device), test_context.to(device)).argmax(1).cpu()
        return float(test_errors.gather(1, best[:, None]).mean())

    trained, history = train(
        _Likelihood(network) if method == POSTERIOR else network, likelihood if method == POSTERIOR else loss,
        len(context), schedule, validate=validate, name="idrank", seed=seed, log=log,
        accelerator=accelerator, keeper=keeper,
    )  # fmt: skip
    return trained.rank if method == POSTERIOR else trained, history


class _Likelihood(nn.Module):
    """A posterior network's training: the negative log-likelihood (B,) of true betas (B, S) under contexts (B, C), with
    their squared distance, so that the place is learned first.
    """

    def __init__(self, rank: PosteriorRank) -> None:
        super().__init__()
        self.rank = rank

    def forward(self, truth: Tensor, context: Tensor) -> Tensor:
        place, log_deviation = self.rank.expect(context)
        log_deviation = log_deviation.clamp(_LEAST, _MOST)
        square = (truth @ self.rank.basis - place).square().sum(-1)
        axes = self.rank.basis.shape[1]
        return (square * torch.exp(-2 * log_deviation) / axes + 2 * log_deviation) / 2 + 0.05 * square


def _candidates(
    idgen: Denoiser, contexts: Tensor, count: int, temperature: float, seed: int, batch: int = 100
) -> Tensor:
    generator, table = torch.Generator().manual_seed(seed), solver_table("ddim", 10, "log_snr")
    return torch.cat([draw(idgen, part, count, table, generator, temperature) for part in contexts.split(batch)])


def _errors(candidates: Tensor, truth: Tensor, basis: Tensor, batch: int = 100) -> Tensor:
    """Mean vertex distance (F, N) in mm of candidates (F, N, S) from truth (F, S) over frontal vertices."""
    parts = []
    for some, true in zip(candidates.split(batch), truth.split(batch), strict=True):
        offset = ((some - true[:, None]) @ basis).unflatten(-1, (-1, 3))
        parts.append(offset.norm(dim=-1).mean(-1))
    return torch.cat(parts)
