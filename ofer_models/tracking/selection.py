"""Which hypothesis is shown, frame after frame, without flicker."""

from __future__ import annotations

import math

import numpy as np

SMOOTHING = 0.25  # s, over which weights are averaged
MARGIN = math.log(1.25)  # another must weigh this much more, as a logarithm


class SteadySelection:
    """The heaviest hypothesis, with hysteresis: another takes over when it has weighed clearly more for a while."""

    def __init__(self) -> None:
        self._average = np.empty(0)
        self._selected = 0
        self._stamp = 0.0

    def __call__(self, log_weights: np.ndarray, stamp: float) -> int:
        """Row that is selected at `stamp` (seconds), from this frame's log_weights (H,) up to a constant.

        Hypotheses may become fewer or more at the end; the first frame takes the heaviest.
        """
        known = min(len(self._average), len(log_weights))
        # Relative to those that were there before, so that one that comes or goes moves none of the others.
        average = log_weights.astype(np.float64) - log_weights[: known or None].mean()
        if known:
            before = self._average[:known] - self._average[:known].mean()
            gain = 1 - math.exp(-max(stamp - self._stamp, 0.0) / SMOOTHING)
            average[:known] = before + gain * (average[:known] - before)
        self._average, self._stamp = average, stamp
        best = int(average.argmax())
        if not known or self._selected >= len(average) or average[best] > average[self._selected] + MARGIN:
            self._selected = best
        return self._selected
