"""Samplers as tables: every step of every sampler here is one line of numbers. numpy only.

With eps the network's output at (x, timesteps[k]), step k of a table with row c = coefficients[k] is

    x0 = c[0] x - c[1] eps          x <- c[2] x + c[3] x0 + c[4] x0_prev + noise_std[k] z,   z ~ N(0, I)

where x0_prev is the previous step's x0 (zero before the first). The last step returns x0 itself (except released_ddim).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ofer_models.bundle.manifest import StageSpec
from ofer_models.runtime.schedule import NoiseSchedule, Spacing

Solver = Literal["ddim", "dpmpp_2m", "ddpm", "released_ddim"]
RELEASED_STRIDE = 4


@dataclass(frozen=True)
class SolverTable:
    """timesteps (K,) int64 given to the network, coefficients (K, 5) and noise_std (K,) float64."""

    timesteps: np.ndarray
    coefficients: np.ndarray
    noise_std: np.ndarray

    @property
    def needs_noise(self) -> bool:
        """Whether the sampler adds noise on the way."""
        return bool(self.noise_std.any())


def solver_table(
    solver: Solver, steps: int | None = None, spacing: Spacing = "uniform", schedule: NoiseSchedule | None = None
) -> SolverTable:
    """The table of one sampler with `steps` evaluations (3..1000) at the spacing's timesteps.

    ddim: Song et al. 2021, eta = 0.   dpmpp_2m: DPM-Solver++(2M), Lu et al. 2022, data prediction, midpoint form.
    ddpm: ancestral sampling with the small variance, Ho et al. 2020, generalised to skipped steps.
    released_ddim: what OFER's release calls ddim, its index slip included (see `_released_ddim`); fixed steps, so
    `steps` may be left out. What a distilled network draws with is a `distilled_table`.
    Raises ValueError for an unknown solver or spacing and for a step count out of range.
    """
    schedule = schedule or NoiseSchedule()
    if solver == "released_ddim":
        return _released_ddim(steps, schedule)
    if solver not in get_args(Solver):
        raise ValueError(f"unknown solver {solver!r}, use one of {', '.join(get_args(Solver))}")
    if steps is None:
        raise ValueError(f"the solver {solver!r} needs a number of steps")
    return _table(solver, schedule.timesteps(steps, spacing), schedule)


def distilled_table(timesteps: Sequence[int], schedule: NoiseSchedule | None = None) -> SolverTable:
    """Plain DDIM over the falling steps that a distilled network was made for."""
    return _table("ddim", np.asarray(timesteps, np.int64), schedule or NoiseSchedule())


def stage_table(stage: StageSpec, steps: int | None = None) -> SolverTable:
    """The table that a bundle's stage of kind `sampler` draws with, at its own number of steps or another.

    Raises ValueError as `solver_table`, and for another number of steps than a distilled variant's.
    """
    if not stage.timesteps:
        return solver_table(stage.solver, stage.steps if steps is None else steps, stage.spacing)
    if steps not in (None, stage.steps):
        raise ValueError(f"the distilled networks of {stage.name} take {stage.steps} steps, got {steps}")
    return distilled_table(stage.timesteps)


def _table(solver: Solver, t: np.ndarray, schedule: NoiseSchedule) -> SolverTable:
    """A solver over falling steps t."""
    steps, alpha, sigma = len(t), schedule.alpha[t], schedule.sigma[t]
    alpha_next, sigma_next = np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0)
    noise_std = np.zeros(steps)
    if solver == "ddpm":
        kept = (alpha / alpha_next) ** 2  # share of the variance that the forward process keeps between the two steps
        of_x = np.sqrt(kept) * sigma_next**2 / sigma**2
        of_x0 = alpha_next * (1 - kept) / sigma**2
        of_previous = np.zeros(steps)
        noise_std = np.sqrt((1 - kept) * sigma_next**2 / sigma**2)
    else:
        of_x = sigma_next / sigma
        of_x0 = alpha_next - alpha * of_x
        of_previous = np.zeros(steps)
        if solver == "dpmpp_2m":
            # x0 is extrapolated by half the ratio of the last two log-SNR steps; not at the ends, where one is unknown.
            log_snr_step = np.diff(schedule.log_snr[t])
            of_previous[1:-1] = -of_x0[1:-1] * log_snr_step[1:] / (2 * log_snr_step[:-1])
            of_x0 = of_x0 - of_previous
    coefficients = np.stack([1 / alpha, sigma / alpha, of_x, of_x0, of_previous], axis=1)
    return SolverTable(t, coefficients, noise_std)


def _released_ddim(steps: int | None, schedule: NoiseSchedule) -> SolverTable:
    """The release's "ddim": labels 999, 995, ..., 3, -1, each update denoising by a single step instead of four.

    At -1 the release reads its tables' last entries. The result is biased towards zero and too noisy; only for
    reproducing the release's output.
    """
    if schedule.steps % RELEASED_STRIDE:
        raise ValueError(f"released_ddim needs a multiple of {RELEASED_STRIDE} training steps, not {schedule.steps}")
    t = np.arange(schedule.steps - 1, -2, -RELEASED_STRIDE)
    if steps not in (None, len(t)):
        raise ValueError(f"released_ddim always takes {len(t)} steps, got {steps}")
    alpha, sigma = schedule.alpha[t], schedule.sigma[t]  # index -1 is meant
    before = np.append(1.0, schedule.alpha_bar[:-1])[t]
    of_x = np.sqrt(1 - before) / sigma
    of_x0 = np.sqrt(before) - alpha * of_x
    coefficients = np.stack([1 / alpha, sigma / alpha, of_x, of_x0, np.zeros(len(t))], axis=1)
    return SolverTable(t, coefficients, np.zeros(len(t)))
