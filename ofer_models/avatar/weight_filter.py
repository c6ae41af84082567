"""A filter for avatar weights: a face at rest is still, and a blink is not smoothed away.

A low-pass whose gain grows with how far the new weight lies from the filtered one: changes as small as noise are
averaged, large ones are taken over at once,

    y <- y + g (x - y),    g = 1 - (1 - g0) exp(-((x - y) / SMALL)^4),    g0 = t / (t + 1 / (2 pi REST))

with t the seconds since the last sample. Delay: none for a change of 1.5 SMALL or more, 1 / (2 pi REST) = 0.13 s
for one much below it. Unlike a filter on the speed it needs no second sample to notice a quick movement.
"""

from __future__ import annotations

import math

import numpy as np

REST = 1.2  # Hz, cutoff for changes much smaller than SMALL
SMALL = 0.2  # a weight's change, five times the noise of a face at rest
_GAP = 0.5  # s without a sample, after which the filter begins anew


class WeightFilter:
    """filter(weights (D,), stamp in seconds) -> filtered weights (D,). The first sample, one after a gap, and one whose
    stamp is not later than the last come out as they are."""

    def __init__(self) -> None:
        self._value: np.ndarray | None = None
        self._stamp = -math.inf

    def __call__(self, weights: np.ndarray, stamp: float) -> np.ndarray:
        passed = stamp - self._stamp
        if self._value is None or not 0 < passed <= _GAP:
            self._value = np.asarray(weights, np.float64)
        else:
            away = weights - self._value
            rest = passed / (passed + 1 / (2 * math.pi * REST))
            self._value = self._value + (1 - (1 - rest) * np.exp(-((away / SMALL) ** 4))) * away
        self._stamp = stamp
        return self._value
