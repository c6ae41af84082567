"""What a node counts and times, for diagnostics and the demo's summary."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_WINDOW = 300  # frames that rates and percentiles look back on


class FrameStatistics:
    """Counters of the stream and a sliding window of times. Written by the worker and by the thread that draws, read by
    the diagnostics timer. Every frame received is processed, dropped, a bad image or a failure in the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.received = 0
        self.lost = 0  # sent by the camera and never received
        self.dropped = 0  # overwritten by newer ones, too old when their turn came, or left when the stream ended
        self.processed = 0
        self.bad_images = 0
        self.failures = 0
        self.faces = 0
        self.undrawn = 0  # frames whose markers and overlay were left out, as the ones before were still being drawn
        self._finished: deque[float] = deque(maxlen=_WINDOW)
        self._latency: deque[float] = deque(maxlen=_WINDOW)
        self._stages: dict[str, deque[float]] = {}

    def frame(self, latency: float, stages: dict[str, float], faces: int) -> None:
        """A frame was published `latency` seconds after it arrived; `stages` are its times in ms by name."""
        with self._lock:
            self.processed += 1
            self.faces = faces
            self._finished.append(time.monotonic())
            self._latency.append(1000 * latency)
        self.stages(stages)

    def drop(self, count: int) -> None:
        """So many frames were given up. From any thread."""
        with self._lock:
            self.dropped += count

    def stages(self, times: dict[str, float]) -> None:
        """Times of stages, ms by name."""
        with self._lock:
            for name, value in times.items():
                self._stages.setdefault(name, deque(maxlen=_WINDOW)).append(value)

    def rate(self) -> float:
        """Frames a second over the last two seconds."""
        now = time.monotonic()
        with self._lock:
            recent = [moment for moment in self._finished if now - moment <= 2.0]
        return len(recent) / 2.0

    def latency_ms(self) -> dict[str, float]:
        """{'p50', 'p95'} of the window from arrival to publishing, ms; empty before the first frame."""
        with self._lock:
            values = list(self._latency)
        return {} if not values else {name: float(np.percentile(values, q)) for name, q in (("p50", 50), ("p95", 95))}

    def stages_ms(self) -> dict[str, float]:
        """Median time of each stage over the window, ms."""
        with self._lock:
            return {name: float(np.median(values)) for name, values in self._stages.items()}


class RateCap:
    """Lets at most `rate` events a second through, without drifting against a stream slightly faster than that."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self, rate: float, now: float | None = None) -> bool:
        """True when an event may happen now (`rate` 0: always)."""
        if rate <= 0:
            return True
        now = time.monotonic() if now is None else now
        # Half a period of slack: a 30 Hz stream jitters around a 30 Hz cap and must pass whole.
        if now < self._next - 0.5 / rate:
            return False
        self._next = max(self._next + 1 / rate, now + 0.5 / rate)
        return True


@contextmanager
def timed(times: dict[str, float], name: str) -> Iterator[None]:
    """Write the time that the block takes into `times[name]`, ms."""
    start = time.perf_counter()
    yield
    times[name] = 1000 * (time.perf_counter() - start)
