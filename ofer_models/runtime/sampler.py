"""The sampler's loop over two stages: scales and shifts of all steps once, then one call a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ofer_models.bundle.tensors import StageError
from ofer_models.runtime.solvers import SolverTable


class Stage(Protocol):
    """Any runtime's callable on named float32 arrays."""

    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]: ...


class Sampler:
    """Draws coefficients for faces from contexts: `cond` and `step` are what `workshop.networks.export` writes."""

    def __init__(self, cond: Stage, step: Stage) -> None:
        """Raises StageError when the two do not belong together."""
        made, taken = cond.outputs["modulation"][-1], step.inputs["modulation"][-1]
        if made != taken:
            raise StageError(
                f"cond makes a 'modulation' of {made} numbers a step, step takes {taken}: they are not of one network"
            )
        self._cond, self._step = cond, step

    @property
    def n_coefficients(self) -> int:
        """D, coefficients of one sample."""
        return int(self._step.inputs["x"][-1])

    def sample(
        self, context: np.ndarray, noise: np.ndarray, table: SolverTable, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """Samples (F, N, D) float32 from contexts (F, C) and starting noise (F, N, D), both float32.

        `rng` draws what a stochastic solver (ddpm) adds on the way; without one such a table is refused (ValueError).
        The result depends on the noise alone otherwise.
        """
        if table.needs_noise and rng is None:
            raise ValueError("this solver adds noise at every step: pass rng")
        modulation = self._cond(context=context, timesteps=table.timesteps.astype(np.float32))["modulation"]
        coefficients = table.coefficients.astype(np.float32)
        x, x0 = noise, np.zeros_like(noise)
        for k, std in enumerate(table.noise_std):
            result = self._step(x=x, x0_prev=x0, modulation=modulation[k], coefficients=coefficients[k])
            x, x0 = result["x_next"], result["x0"]
            if std > 0:
                x += np.float32(std) * rng.standard_normal(x.shape, dtype=np.float32)
        return x
