"""OFER's diffusion training on contexts that are computed once: predict the noise in coefficients at a random step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.runtime.solvers import SolverTable
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.train.accelerator import Accelerator
from ofer_models.workshop.train.diffusion_loss import ForwardProcess
from ofer_models.workshop.train.loop import History, Keeper, Schedule, train

Objective = Literal["weighted", "mse", "l1"]

# OFER's own widths (300, 50, 10) and (53, 25, 10) starve ExpGen: with a first level no wider than the coefficients its
# samples were 1.6 times as wrong as the neutral face, at these widths 1.06 times. Attention heads and time features
# are half and a quarter of OFER's, which costs nothing measurable and keeps the bundle small.
_WIDTHS, _HEAD_DIM, _TIME = (144, 72, 16), 16, 128
_MOST_WEIGHT = 20.0
CONTEXT_NOISE = 0.1  # added to contexts: few thousand faces would otherwise be learned by heart


def make_denoiser(n_coefficients: int, n_context: int) -> Denoiser:
    """A denoiser of OFER's structure for D coefficients, at the open bundle's widths."""
    return Denoiser(n_coefficients, _WIDTHS, n_context, head_dim=_HEAD_DIM, time=_TIME)


def train_denoiser(
    contexts: np.ndarray,
    coefficients: np.ndarray,
    held_out_contexts: np.ndarray,
    held_out: np.ndarray,
    schedule: Schedule,
    *,
    name: str,
    seed: int,
    objective: Objective = "weighted",
    log: Callable[[str], None] = print,
    accelerator: Accelerator | None = None,
    keeper: Keeper | None = None,
) -> tuple[Denoiser, History]:
    """Train on contexts (n, C) and normalised coefficients (n, D); the figures are mean squared errors of the noise.

    Steps count by 1 / SNR within 1..20 (Salimans and Ho 2022's truncated weight, cut), the training figure too: errors
    of the noise weigh most where they say most about the coefficients, so samples centre on what the context knows.

    objective: `weighted` as said; `mse` or `l1` count all steps alike, in the square or, as OFER does, absolutely.
    """
    torch.manual_seed(seed)
    device = (accelerator or Accelerator()).device
    network, process = make_denoiser(coefficients.shape[1], contexts.shape[1]), ForwardProcess()
    context, truth = torch.from_numpy(contexts), torch.from_numpy(coefficients)
    fixed = torch.Generator().manual_seed(seed + 1)
    test_context, test_truth = torch.from_numpy(held_out_contexts), torch.from_numpy(held_out)
    test_noise = torch.randn(test_truth.shape, generator=fixed)
    test_steps = process.random_steps(len(test_truth), fixed)

    weights = ((process.sigma / process.alpha) ** 2).clamp(1, _MOST_WEIGHT)
    weights = weights / weights.mean() if objective == "weighted" else torch.ones_like(weights)

    def noise_error(
        net: nn.Module, x0: Tensor, condition: Tensor, noise: Tensor, t: Tensor, absolute: bool = False
    ) -> Tensor:
        """Mean error (B,) over coefficients; the noising runs on the CPU, the network on its accelerator."""
        noisy = process.add_noise(x0, noise, t)
        error = net(noisy.to(device), t.to(device), condition.to(device)) - noise.to(device)
        return error.abs().mean(1) if absolute else (error**2).mean(1)

    def loss(net: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        x0, condition = truth[index], context[index]
        condition = condition + CONTEXT_NOISE * torch.randn(condition.shape, generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        t = process.random_steps(len(x0), generator)
        return (weights[t].to(device) * noise_error(net, x0, condition, noise, t, objective == "l1")).mean()

    def validate(average: nn.Module) -> float:
        return float(noise_error(average, test_truth, test_context, test_noise, test_steps).mean())

    return train(
        network, loss, len(contexts), schedule, validate=validate, name=name, seed=seed, log=log,
        accelerator=accelerator, keeper=keeper,
    )  # fmt: skip


@torch.no_grad()
def draw(
    network: Denoiser,
    contexts: Tensor,
    count: int,
    table: SolverTable,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> Tensor:
    """`count` samples (F, count, D) for contexts (F, C), by the same table of coefficients that the runtime uses.

    temperature scales the starting noise.
    """
    network.eval()
    device = next(network.parameters()).device
    steps = torch.from_numpy(table.timesteps.astype(np.float32)).to(device)
    modulation = network.modulation(contexts.to(device), steps)
    rows = table.coefficients.astype(np.float32).tolist()
    # All randomness is drawn on the CPU, so that it does not depend on the accelerator.
    x = temperature * torch.randn((len(contexts), count, network.n_coefficients), generator=generator).to(device)
    previous = torch.zeros_like(x)
    for k, (of_x, of_noise, keep, to_clean, to_previous) in enumerate(rows):
        clean = of_x * x - of_noise * network.denoise(x, modulation[:, k])
        x = keep * x + to_clean * clean + to_previous * previous
        if table.noise_std[k] > 0:
            x += float(table.noise_std[k]) * torch.randn(x.shape, generator=generator).to(device)
        previous = clean
    return x.cpu()
