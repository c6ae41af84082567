"""OFER's noise schedule and the choice of the steps that a sampler visits. numpy only.

Forward process (Ho et al. 2020): x_t = alpha_t x_0 + sigma_t eps, alpha_t^2 = alpha_bar_t, sigma_t^2 = 1 - alpha_bar_t,
with betas linear from 1e-4 to 1e-2 over 1000 steps (OFER). alpha_bar at the last step is 0.0063, not zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

Spacing = Literal["uniform", "log_snr"]


@dataclass(frozen=True)
class NoiseSchedule:
    """Tables over the steps t = 0..steps-1. Betas and alpha_bar are rounded to float32, as training libraries do."""

    steps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 1e-2

    @cached_property
    def betas(self) -> np.ndarray:
        """(T,) float64."""
        return np.linspace(self.beta_first, self.beta_last, self.steps).astype(np.float32).astype(np.float64)

    @cached_property
    def alpha_bar(self) -> np.ndarray:
        """(T,) float64, the share of signal variance left at t."""
        return np.cumprod(np.float32(1) - self.betas.astype(np.float32), dtype=np.float32).astype(np.float64)

    @cached_property
    def alpha(self) -> np.ndarray:
        """(T,) float64, factor of the clean sample in x_t."""
        return np.sqrt(self.alpha_bar)

    @cached_property
    def sigma(self) -> np.ndarray:
        """(T,) float64, factor of the noise in x_t."""
        return np.sqrt(1 - self.alpha_bar)

    @cached_property
    def log_snr(self) -> np.ndarray:
        """(T,) float64, log(alpha / sigma): half the logarithm of the signal-to-noise ratio, falling with t."""
        return np.log(self.alpha / self.sigma)

    def timesteps(self, count: int, spacing: Spacing = "uniform") -> np.ndarray:
        """The `count` distinct steps to visit (count,) int64, falling from T-1.

        uniform: equal distances in t, the last one down to the clean sample ("trailing", Lin et al. 2024).
        log_snr: equal distances in log(alpha / sigma) down to t = 0 (Lu et al. 2022), moved apart where rounding would
        repeat a step. With count = T both visit every step.
        Raises ValueError for a count outside 3..T or an unknown spacing.
        """
        if not 3 <= count <= self.steps:
            raise ValueError(f"a sampler takes 3 to {self.steps} steps, got {count}")
        if spacing == "uniform":
            rising = np.arange(1, count + 1) * self.steps / count - 1
        elif spacing == "log_snr":
            wanted = np.linspace(self.log_snr[0], self.log_snr[-1], count)
            rising = np.interp(-wanted, -self.log_snr, np.arange(self.steps))
        else:
            raise ValueError(f"unknown step spacing {spacing!r}, use 'uniform' or 'log_snr'")
        index = np.arange(count)
        apart = np.maximum.accumulate(np.rint(rising).astype(np.int64) - index) + index
        return np.minimum(apart, self.steps - count + index)[::-1]
