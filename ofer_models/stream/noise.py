"""A track's own starting noise: hypothesis k of this frame continues hypothesis k of the last."""

from __future__ import annotations

import math

import numpy as np


class DriftingNoise:
    """Noise (H, D) that wanders: z' = rho z + sqrt(1 - rho^2) xi, standard normal at every moment.

    rho = exp(-rate * seconds passed), so that the speed does not depend on how often it is looked at: after 1 / rate
    seconds the correlation with what it was has fallen to 1 / e. A deterministic sampler turns this into hypotheses
    that change as slowly. rate 0: frozen.
    """

    def __init__(self, hypotheses: int, coefficients: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._values = rng.standard_normal((hypotheses, coefficients), dtype=np.float32)
        self._stamp: float | None = None

    def resize(self, hypotheses: int) -> None:
        """From now on so many; those that stay are not touched."""
        kept = self._values[:hypotheses]
        more = self._rng.standard_normal((hypotheses - len(kept), kept.shape[1]), dtype=np.float32)
        self._values = np.concatenate([kept, more])

    def at(self, stamp: float, rate: float) -> np.ndarray:
        """Noise (H, D) float32 at `stamp` (seconds), with the drift's rate in 1/s; unchanged if stamp is no later."""
        passed = 0.0 if self._stamp is None else stamp - self._stamp
        if self._stamp is None or passed > 0:
            self._stamp = stamp
        if passed > 0 and rate > 0:
            kept = math.exp(-rate * passed)
            fresh = self._rng.standard_normal(self._values.shape, dtype=np.float32)
            self._values = np.float32(kept) * self._values + np.float32(math.sqrt(1 - kept * kept)) * fresh
        return self._values
