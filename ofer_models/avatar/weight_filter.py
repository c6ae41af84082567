"""A filter for avatar weights: a face at rest is still, and a blink is not smoothed away.

A low-pass whose gain grows with how far the new weight lies from the filtered one: changes as small as noise are
averaged, large ones are taken over at once,

    y <- y + g (x - y),    g = 1 - (1 - g0) exp(-((x - y) / (k SMALL))^4),    g0 = t / (t + k^2 REST)

with t the seconds since the last sample. k, 1 or more, is the weight's own noise in units of NOISE: what is hidden, or
an eye that looks past the camera, trembles ten times as much as what is plainly seen. It is measured by what noise does
and movement does not: one change takes the last one back, so that the mean of -(x - x') (x' - x'') is the noise's
variance (of a white one), and negative for a movement slower than a quarter of the frame rate. Frames further apart
than OFTEN tell nothing: there speech changes as quickly.

Delay: none for a change of 1.5 k SMALL or more, k^2 REST for one much below it. Unlike a filter on the speed it needs
no second sample to notice a quick movement.
"""

from __future__ import annotations

import math

import numpy as np

REST = 0.13  # s over which changes much smaller than SMALL are averaged, without more noise than NOISE
SMALL = 0.2  # a weight's change, several times the noise of a face at rest
NOISE = 0.03  # deviation of a weight that is plainly seen
OFTEN = 0.045  # s between frames
_RISES, _FALLS = 1.0, 2.0  # s in which the measure of noise follows
_GAP = 0.5  # s without a sample, after which the filter begins anew


class WeightFilter:
    """filter(weights (D,), stamp in seconds) -> filtered weights (D,). The first sample, one after a gap, and one whose
    stamp is not later than the last come out as they are."""

    def __init__(self) -> None:
        self._value: np.ndarray | None = None
        self._stamp = -math.inf

    def __call__(self, weights: np.ndarray, stamp: float) -> np.ndarray:
        weights, passed = np.asarray(weights, np.float64), stamp - self._stamp
        if not 0 < passed <= _GAP:
            self._value, self._last = None, weights
            self._change = self._variance = np.zeros_like(weights)
        else:
            self._measure(weights, passed)
        if self._value is None:
            self._value, self._averaged = weights, 1
        else:
            self._averaged += 1  # the first samples count alike
            away, wider = weights - self._value, np.maximum(self._variance / NOISE**2, 1)
            rest = np.maximum(passed / (passed + wider * REST), 1 / self._averaged)
            self._value = self._value + (1 - (1 - rest) * np.exp(-((away / SMALL) ** 4) / wider**2)) * away
        self._stamp = stamp
        return self._value

    def begin(self) -> None:
        """Let the next sample come out as it is. What is known of the noise stays."""
        self._value = None

    def _measure(self, weights: np.ndarray, passed: float) -> None:
        change = weights - self._last
        if passed <= OFTEN:
            taken_back = -change * self._change
            within = np.where(taken_back > self._variance, _RISES, _FALLS)
            self._variance = self._variance - np.expm1(-passed / within) * (taken_back - self._variance)
        self._last, self._change = weights, change
