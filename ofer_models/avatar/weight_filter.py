"""A filter for avatar weights: a face at rest is still, and a blink is not smoothed away.

A low-pass whose gain grows with how far the new weight x lies from the filtered one y, in this sample and on the
average of the last ones: changes as small as noise are averaged, what is larger, or lasts, is taken over,

    y <- y + g (x - y),    g = 1 - (1 - g0) exp(-((x - y) / (k SMALL))^4 - (m / (s LASTING))^4),
    g0 = t / (t + k^2 REST)

with t the seconds since the last sample and m the mean of x - y over the last ones. k and s, 1 or more, are the
deviation of the weight's own noise in units of what is usual of such weights, and of SURE: what is hidden, or an eye
that looks past the camera, trembles ten times as much as what is plainly seen. It is measured by what noise does and
movement does not: one change takes the last one back, so that the mean of -(x - x') (x' - x'') is the noise's variance
(of a white one), and negative for a movement slower than a quarter of the rate of the samples. Lids, lips and jaw are
back within a tenth of a second, so that theirs are samples that follow each other; brows and gaze are not, and what of
theirs is taken back within RETURN counts as well. Frames further apart tell nothing.

Delay: none for a change of 1.5 k SMALL or more, k^2 REST for one that is small and does not last. Unlike a filter on
the speed it needs no second sample to notice a quick movement.
"""

from __future__ import annotations

import math

import numpy as np

REST = 0.13  # s over which changes much smaller than SMALL are averaged, without more noise than is usual
SMALL = 0.2  # a weight's change, several times the noise of a face at rest
LASTING, SURE = 0.1, 0.03  # a mean change that is none of noise, where that has this deviation or less
USUAL, USUAL_OF_SLOW = 0.021, 0.0106  # deviation of a weight's noise where it is plainly seen
OFTEN, RETURN = 0.045, 0.17  # s between samples of which the last takes back the one before: of weights, of slow ones
_LAGS = (1, 3, 5)  # samples between those that are compared
_RISES, _FALLS, _FALLS_OF_SLOW = 1.0, 2.0, 6.0  # s in which the measure of noise follows
_MEAN = 0.15  # s that m looks back
_GAP = 0.5  # s without a sample, after which the filter begins anew


class WeightFilter:
    """filter(weights (D,), stamp in seconds) -> filtered weights (D,). The first sample, one after a gap, and one whose
    stamp is not later than the last come out as they are."""

    def __init__(self, slow: np.ndarray | None = None) -> None:
        """slow (D,): the weights that no movement brings back within RETURN; None: not known of any."""
        self._slow = slow
        self._stamp = -math.inf

    def __call__(self, weights: np.ndarray, stamp: float) -> np.ndarray:
        weights, passed = np.asarray(weights, np.float64), stamp - self._stamp
        self._stamp = stamp
        if not 0 < passed <= _GAP:
            self._begin(weights)
            return weights
        noise = self._measure(weights, passed)
        self._averaged += 1  # the first samples count alike
        away, wider = weights - self._value, np.maximum(noise / self._usual**2, 1)
        self._mean = self._mean - math.expm1(-passed / _MEAN) * (away - self._mean)
        within = (away / SMALL) ** 4 / wider**2 + (self._mean / LASTING) ** 4 / np.maximum(noise / SURE**2, 1) ** 2
        rest = np.maximum(passed / (passed + wider * REST), 1 / self._averaged)
        gain = 1 - (1 - rest) * np.exp(-within)
        self._value, self._mean = self._value + gain * away, (1 - gain) * self._mean
        return self._value

    def _begin(self, weights: np.ndarray) -> None:
        slow = np.zeros(len(weights), bool) if self._slow is None else self._slow
        self._usual, self._falls = np.where(slow, USUAL_OF_SLOW, USUAL), np.where(slow, _FALLS_OF_SLOW, _FALLS)
        self._lags = [np.full(len(weights), True) if lag == 1 else slow for lag in _LAGS]  # whose noise each tells
        self._limit = np.where(slow, RETURN, OFTEN)
        self._value, self._mean, self._averaged = weights, np.zeros(len(weights)), 1
        self._last = [weights]
        self._variances, self._measured = np.zeros((2, len(_LAGS), len(weights)))

    def _measure(self, weights: np.ndarray, passed: float) -> np.ndarray:
        """Variance (D,) of the noise, the largest of those that the lags tell."""
        self._last = [*self._last, weights][-2 * _LAGS[-1] - 1 :]
        for row, (lag, told) in enumerate(zip(_LAGS, self._lags, strict=True)):
            if len(self._last) <= 2 * lag:
                break
            told = told & (lag * passed <= self._limit)
            before, middle = self._last[-2 * lag - 1], self._last[-lag - 1]
            off = (middle - weights) * (middle - before) - self._variances[row]
            self._measured[row] += told
            alike = 1 / np.maximum(self._measured[row], 1)  # the first count alike
            rate = np.maximum(-np.expm1(-passed / np.where(off > 0, _RISES, self._falls)), alike)
            self._variances[row] += told * rate * off
        return self._variances.max(0)
