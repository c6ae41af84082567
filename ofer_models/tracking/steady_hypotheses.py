"""Hypotheses of a face that holds still, without the trembling of its landmarks.

A landmark network places points anew in every frame, with errors that the next frame knows nothing of, and what is
fitted to the points trembles with them. Each coefficient goes through a Kalman filter (1960) of its own, the same for
all hypotheses, so that their mean is filtered as they are and their spread stays. How far a coefficient trembles is
measured: a movement is smooth from frame to frame, so that second differences show the noise alone, and of these a low
quantile, which says little of the moments in which the face does move. What is further off than the noise explains is a
movement and is followed at once: its distance counts as process noise.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

# In deviations of a coefficient in the population:
_WANDER = 0.02  # of a face at rest, in a second
_FIRST, _LEAST, _MOST = 0.06, 0.0005, 0.2  # of the noise: before it is measured, and its range
_SURPRISE = 16.0  # squared deviations from what was expected, from which on it is a movement
_QUANTILE = 0.3  # of the squared second differences
_RATE = 0.25  # by which the logarithm of the noise's variance learns, a frame
_OF_SECOND = 6.0  # variance of a second difference of white noise of variance 1
_GAP = 0.5  # s without a sample, after which everything begins anew
_SMALL = NormalDist().inv_cdf((1 + _QUANTILE) / 2) ** 2  # that quantile of the square of a normal number


class SteadyHypotheses:
    """The filter of one track's hypotheses."""

    def __init__(self) -> None:
        self._stamp = 0.0
        self._before: list[np.ndarray] = []  # the last two, as they came
        self._value = np.zeros((0, 0))
        self._unsure = self._noise = np.zeros(0)  # variances (D,), in squared deviations

    def __call__(self, hypotheses: np.ndarray, deviation: np.ndarray, stamp: float) -> np.ndarray:
        """Hypotheses (H, D) float32 at `stamp` (seconds), filtered; deviation (D,) of each coefficient in the
        population. The first come out as they are, as do those after a gap, and rows that were not there before."""
        seen, passed = hypotheses / deviation, stamp - self._stamp
        self._stamp = stamp
        if not self._before or not 0 < passed <= _GAP:
            self._value, self._before = seen, [seen]
            self._noise = np.full(len(deviation), _FIRST**2)
            self._unsure = self._noise
            return hypotheses
        known = min(len(seen), len(self._value))
        self._measure([*self._before, seen])
        self._before = [*self._before, seen][-2:]
        off = seen[:known] - self._value[:known]
        unsure = self._unsure + _WANDER**2 * passed
        unsure = unsure + np.maximum(np.square(off).mean(0) - _SURPRISE * (unsure + self._noise), 0)
        gain = unsure / (unsure + self._noise)
        self._unsure = (1 - gain) * unsure
        self._value = np.concatenate([self._value[:known] + gain * off, seen[known:]])
        return (self._value * deviation).astype(np.float32)

    def _measure(self, last: list[np.ndarray]) -> None:
        """The noise, by the last three as they came, if they are so many and alike: its logarithm takes steps whose
        balance is where the quantile of the differences is that of normal numbers (Robbins and Monro 1951)."""
        if len({rows.shape for rows in last}) > 1 or len(last) < 3:
            return
        square = np.square(last[0] - 2 * last[1] + last[2]).mean(0) / _OF_SECOND
        up = square > _SMALL * self._noise
        learnt = self._noise * np.exp(_RATE * np.where(up, _QUANTILE, _QUANTILE - 1))
        self._noise = np.clip(learnt, _LEAST**2, _MOST**2)
