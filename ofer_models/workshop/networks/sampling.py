"""Sampling on the torch networks themselves: the reference for exported graphs and for recorded results."""

from __future__ import annotations

import torch
from torch import Tensor

from ofer_models.runtime.solvers import SolverTable
from ofer_models.workshop.networks.denoiser import Denoiser


@torch.no_grad()
def sample(net: Denoiser, context: Tensor, noise: Tensor, table: SolverTable, added: Tensor | None = None) -> Tensor:
    """Samples (F, N, D) float64 from contexts (F, C) and starting noise (F, N, D); the network itself runs in float32.

    added: standard normal noise (>= steps that add any, F, N, D) in the order in which a stochastic solver draws it;
    the last step draws none. The state is float64, as in the release. Raises ValueError when noise is missing.
    """
    noisy = int((table.noise_std > 0).sum())
    if noisy > (0 if added is None else len(added)):
        raise ValueError(f"this solver adds noise at {noisy} steps: pass as many draws as `added`")
    x, before = noise.double(), torch.zeros_like(noise, dtype=torch.float64)
    for k, (row, std) in enumerate(zip(table.coefficients.tolist(), table.noise_std.tolist(), strict=True)):
        modulation = net.modulation(context.float(), torch.tensor([float(table.timesteps[k])]))[:, 0]
        eps = net.denoise(x.float(), modulation).double()
        x0 = row[0] * x - row[1] * eps
        x, before = row[2] * x + row[3] * x0 + row[4] * before, x0
        if std > 0:
            x = x + std * added[k].double()
    return x
