"""The time of a stream of frames, which goes forward also where their stamps do not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class StreamClock:
    """Turns stamps into seconds that grow with every frame: those of the stamps wherever these advance.

    A camera may send zero, the same stamp again, or one slightly older; then as much time has passed as between the
    frames' arrivals.
    """

    def __init__(self, back: float, arrival: Callable[[], float] = time.monotonic) -> None:
        """back: seconds by which an older stamp is still of the same stream. arrival(): the machine's own time."""
        self._back = back
        self._arrival = arrival
        self.reset()

    def reset(self) -> None:
        """The next frame is the first of a stream."""
        self._stamp = -math.inf
        self._now = -math.inf
        self._behind = 0.0  # what stamps lack to this clock's time
        self._arrived = 0.0

    def starts_anew(self, stamp: float) -> bool:
        """Whether a stamp is of another stream: a bag played again, a clock set back."""
        return stamp < self._stamp - self._back

    def __call__(self, stamp: float) -> float:
        """Seconds, later than those of the frame before, of a frame with this stamp that has arrived now.

        Raises ValueError if the stamp is not finite.
        """
        if not math.isfinite(stamp):
            raise ValueError(f"a frame needs a finite stamp in seconds, got {stamp}")
        arrived = self._arrival()
        passed, self._arrived = arrived - self._arrived, arrived
        advances, self._stamp = stamp > self._stamp, stamp
        if advances and stamp + self._behind > self._now:
            self._now = stamp + self._behind
        else:
            # At least the next number, for two frames that arrive together.
            self._now = max(self._now + max(passed, 0.0), math.nextafter(self._now, math.inf))
            if advances:
                self._behind = self._now - stamp
        return self._now
