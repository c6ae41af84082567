"""The one-euro filter: smooth at rest, quick in motion.

Casiez, Roussel, Vogel: "1 euro filter: a simple speed-based low-pass filter for noisy input in interactive systems",
CHI 2012. A first-order low-pass whose cutoff grows with the speed: cutoff = slowest + response * |speed|.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

_SPEED_CUTOFF = 1.0  # Hz, of the low-pass on the speed
_GAP = 0.5  # s without a sample, after which a filter begins anew


def _gain(cutoff: np.ndarray | float, passed: float) -> np.ndarray | float:
    """Weight of a new sample in a low-pass with this cutoff (Hz) after `passed` seconds."""
    time_constant = 1 / (2 * math.pi * cutoff)
    return passed / (passed + time_constant)


class OneEuroFilter:
    """For vectors (D,). slowest: cutoff at rest, Hz.  response: Hz per unit of speed.

    joint: one cutoff for all elements, by the length of the speed, as for places; else each element has its own.
    """

    def __init__(self, slowest: float, response: float, joint: bool = False) -> None:
        self.slowest, self.response, self._joint = slowest, response, joint
        self._value: np.ndarray | None = None
        self._speed = np.zeros(0)
        self._stamp = 0.0

    def __call__(self, value: np.ndarray, stamp: float) -> np.ndarray:
        """The filtered vector at `stamp` (seconds). The first sample, and one after a gap, come out as they are; so
        does one whose stamp is no later than the last."""
        passed = stamp - self._stamp
        if self._value is None or not 0 < passed <= _GAP:
            self._value, self._speed = value.astype(np.float64), np.zeros(value.shape)
        else:
            # Against the last filtered value: a filter that lags behind hurries the more.
            self._speed = self._speed + _gain(_SPEED_CUTOFF, passed) * ((value - self._value) / passed - self._speed)
            speed = np.linalg.norm(self._speed) if self._joint else np.abs(self._speed)
            self._value = self._value + _gain(self.slowest + self.response * speed, passed) * (value - self._value)
        self._stamp = stamp
        return self._value


class RotationFilter:
    """The same for rotation matrices (3, 3): the filtered rotation goes part of the way to the new one, about the axis
    between them. response: Hz per rad/s."""

    def __init__(self, slowest: float, response: float) -> None:
        self._slowest, self._response = slowest, response
        self._value: np.ndarray | None = None
        self._speed = np.zeros(3)
        self._stamp = 0.0

    def __call__(self, rotation: np.ndarray, stamp: float) -> np.ndarray:
        """The filtered rotation at `stamp` (seconds); exceptions as in `OneEuroFilter`."""
        passed = stamp - self._stamp
        if self._value is None or not 0 < passed <= _GAP:
            self._value, self._speed = rotation, np.zeros(3)
        else:
            between = cv2.Rodrigues(rotation @ self._value.T)[0][:, 0]
            self._speed = self._speed + _gain(_SPEED_CUTOFF, passed) * (between / passed - self._speed)
            cutoff = self._slowest + self._response * float(np.linalg.norm(self._speed))
            self._value = cv2.Rodrigues(_gain(cutoff, passed) * between)[0] @ self._value
        self._stamp = stamp
        return self._value
