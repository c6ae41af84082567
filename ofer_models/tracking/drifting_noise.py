"""A track's own starting noise: hypothesis k of this frame continues hypothesis k of the last."""

from __future__ import annotations

import math

import numpy as np


def in_pairs(half: np.ndarray, hypotheses: int) -> np.ndarray:
    """Noise (..., H, D) for hypotheses in opposite pairs: 2 k starts from row k of half (..., ceil(H / 2), D), 2 k + 1
    from minus that.

    Each is as likely as ever, but what one is too much the other is too little, so their mean says what is expected
    with hardly any noise of its own (antithetic variates, Hammersley and Morton 1956).
    """
    both = np.stack([half, -half], axis=-2)
    return both.reshape(*half.shape[:-2], -1, half.shape[-1])[..., :hypotheses, :]


def hypothesis_noise(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Standard normal noise (F, H, D) float32 in opposite pairs, for faces that are seen once."""
    faces, hypotheses, coefficients = shape
    return in_pairs(rng.standard_normal((faces, _pairs(hypotheses), coefficients), dtype=np.float32), hypotheses)


class DriftingNoise:
    """Noise (H, D) in opposite pairs that wander: z' = rho z + sqrt(1 - rho^2) xi, standard normal at every moment.

    rho = exp(-rate * seconds passed), so that the speed does not depend on how often it is looked at: after 1 / rate
    seconds the correlation with what it was has fallen to 1 / e. A deterministic sampler turns this into hypotheses
    that change as slowly. rate 0: frozen.
    """

    def __init__(self, hypotheses: int, coefficients: int, rng: np.random.Generator) -> None:
        self._rng, self._hypotheses = rng, hypotheses
        self._half = rng.standard_normal((_pairs(hypotheses), coefficients), dtype=np.float32)
        self._stamp: float | None = None

    def resize(self, hypotheses: int) -> None:
        """From now on so many; those that stay are not touched."""
        kept = self._half[: _pairs(hypotheses)]
        more = self._rng.standard_normal((_pairs(hypotheses) - len(kept), kept.shape[1]), dtype=np.float32)
        self._half, self._hypotheses = np.concatenate([kept, more]), hypotheses

    def at(self, stamp: float, rate: float) -> np.ndarray:
        """Noise (H, D) float32 at `stamp` (seconds), with the drift's rate in 1/s; unchanged if stamp is no later."""
        passed = 0.0 if self._stamp is None else stamp - self._stamp
        if self._stamp is None or passed > 0:
            self._stamp = stamp
        if passed > 0 and rate > 0:
            kept = math.exp(-rate * passed)
            fresh = self._rng.standard_normal(self._half.shape, dtype=np.float32)
            self._half = np.float32(kept) * self._half + np.float32(math.sqrt(1 - kept * kept)) * fresh
        return in_pairs(self._half, self._hypotheses)


def _pairs(hypotheses: int) -> int:
    return -(-hypotheses // 2)
