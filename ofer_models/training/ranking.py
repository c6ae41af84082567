"""OFER's IdRank training: candidates from the frozen IdGen, cross-entropy of their scores against softmax(-error).

The network is trained in its folded form, on shape coefficients: with a neutral pose the vertices are affine in them
and the first layer is linear, so both forms describe the same functions, and this one needs no meshes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.diffusion.solvers import solver_table
from ofer_models.head.model import HeadModel
from ofer_models.networks.denoiser import Denoiser
from ofer_models.networks.rank import FoldedRank, listnet_loss
from ofer_models.training.diffusion import draw
from ofer_models.training.loop import History, Keeper, Schedule, train
from ofer_models.training.machine import Machine

WIDTHS = (384, 256, 128, 64, 1)
MILLIMETRES = 1000.0


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
    seed: int,
    log: Callable[[str], None] = print,
    machine: Machine | None = None,
    keeper: Keeper | None = None,
) -> tuple[FoldedRank, History]:
    """Train on candidates of `faces` training pictures; the validation figure is the mean error (mm) of those chosen.

    temperature scales IdGen's starting noise. sharpness in mm divides the errors in OFER's target softmax(-error);
    its own is 1 mm, wide for errors that differ by tenths.
    """
    torch.manual_seed(seed)
    basis = frontal_basis(head)
    context, truth = torch.from_numpy(contexts[:faces]), torch.from_numpy(betas[:faces])
    drawn = _candidates(idgen, context, candidates, temperature, seed)
    errors = _errors(drawn, truth, basis)
    test_context, test_truth = torch.from_numpy(held_out_contexts), torch.from_numpy(held_out)
    test_drawn = _candidates(idgen, test_context, candidates, temperature, seed + 1)
    test_errors = _errors(test_drawn, test_truth, basis)
    log(f"idrank: candidates average {test_errors.mean():.3f} mm, best {test_errors.min(1).values.mean():.3f} mm")
    network = FoldedRank(betas.shape[1], contexts.shape[1], WIDTHS)
    device = (machine or Machine()).device

    def loss(net: nn.Module, index: Tensor, noise: torch.Generator) -> Tensor:
        some = torch.randint(candidates // 2, candidates + 1, (1,), generator=noise).item()
        subset = torch.randperm(candidates, generator=noise)[:some]
        scores = net(drawn[index][:, subset].to(device), context[index].to(device))
        return listnet_loss(scores, errors[index][:, subset].to(device) / sharpness)

    def validate(average: nn.Module) -> float:
        best = average(test_drawn.to(device), test_context.to(device)).argmax(1).cpu()
        return float(test_errors.gather(1, best[:, None]).mean())

    return train(
        network, loss, len(context), schedule, validate=validate, name="idrank", seed=seed, log=log, machine=machine,
        keeper=keeper,
    )  # fmt: skip


def frontal_basis(head: HeadModel) -> Tensor:
    """(S, 3 V') frontal shape directions in mm, each without its mean displacement (errors are mean-aligned)."""
    directions = head.shapedirs[head.masks["frontal"], :, : head.n_shape]
    centred = directions - directions.mean(0, keepdims=True)
    return torch.from_numpy(MILLIMETRES * centred.reshape(-1, head.n_shape).T.copy())


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
