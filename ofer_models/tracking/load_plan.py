"""What to do with less when time is short: tiers, and the plan that moves between them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tier:
    """Shares 0..1 of the sampling steps and of the hypotheses; alternate: the less visible half of the faces keeps its
    hypotheses for every other frame (poses are found for all)."""

    name: str
    steps: float
    hypotheses: float
    alternate: bool = False

    def count(self, hypotheses: int) -> int:
        """Hypotheses to draw of those that are wanted."""
        return max(1, round(self.hypotheses * hypotheses))


TIERS = (
    Tier("full", 1.0, 1.0),
    Tier("fewer steps", 0.75, 1.0),
    Tier("few steps", 0.5, 1.0),
    Tier("fewer hypotheses", 0.5, 0.6),
    Tier("few hypotheses", 0.5, 0.3),
    Tier("every other frame", 0.5, 0.3, alternate=True),
)

WINDOW = 10  # frames that are judged together
TOO_MANY = 3  # of them beyond the bound: something has to be given up
ROOM = 0.65  # of the bound: below it there is time for the tier above
_PATIENCE = 2.0  # s of room before a tier is taken back; doubled when that was too early, up to
_MOST_PATIENCE = 60.0


class LoadPlan:
    """Chooses a tier from measured latencies, so that they stay below a bound. Time is given to it."""

    def __init__(self, bound_ms: float = 0.0) -> None:
        """bound_ms: wanted latency; 0: never give anything up."""
        self.bound_ms = bound_ms
        self.fixed_steps = False  # whether tiers that take fewer steps give nothing up, and are left out
        self._level = 0
        self._latencies: deque[float] = deque(maxlen=WINDOW)
        self._since = 0.0  # when the room began that lasts until now
        self._raised = -np.inf  # when a tier was last taken back
        self._patience = _PATIENCE

    @property
    def tier(self) -> Tier:
        return TIERS[self._level]

    @property
    def level(self) -> int:
        """0 for everything, one more for each thing given up."""
        return self._level

    def measured(self, latency_ms: float, now: float) -> Tier:
        """After a frame that took `latency_ms` from its arrival to its result, at `now` (seconds): the tier for the
        next."""
        if self.bound_ms <= 0:
            self._level = 0
            return self.tier
        if not self._latencies:
            self._since = now
        self._latencies.append(latency_ms)
        if sum(value > self.bound_ms for value in self._latencies) >= TOO_MANY:
            if now - self._raised < 3 * self._patience:
                self._patience = min(2 * self._patience, _MOST_PATIENCE)
            self._go(self._next(1))
        elif max(self._latencies) > ROOM * self.bound_ms:
            self._since = now
        elif self._level and now - self._since >= self._patience:
            if now - self._raised > 10 * self._patience:
                self._patience = _PATIENCE
            self._raised = now
            self._go(self._next(-1))
        return self.tier

    def _next(self, by: int) -> int:
        """The level beside this one, one more (by = 1) or less (-1) of what can be given up."""
        level = self._level + by
        while self.fixed_steps and 0 < level < len(TIERS) and _but_for_steps(level) == _but_for_steps(level - 1):
            level += by
        return min(level, len(TIERS) - 1)

    def _go(self, level: int) -> None:
        self._level = level
        self._latencies.clear()


def _but_for_steps(level: int) -> tuple[float, bool]:
    return TIERS[level].hypotheses, TIERS[level].alternate
