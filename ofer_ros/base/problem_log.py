"""Telling about trouble once: a log line the first time and then rarely, and the latest for diagnostics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

REPEAT_AFTER = 5.0  # seconds between equal log lines
_TEXTS_KEPT = 50


class ProblemLog:
    """Thread-safe. A camera that sends 30 broken frames a second must not write 30 lines a second."""

    def __init__(self, log: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        """log(line) writes a line; clock(): seconds."""
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._last_logged: dict[str, tuple[float, int]] = {}  # text -> (when, suppressed since)
        self._latest: tuple[float, str] | None = None

    def report(self, text: str) -> None:
        """Note a problem; `text` is one line that says what is wrong."""
        now = self._clock()
        with self._lock:
            self._latest = (now, text)
            logged, suppressed = self._last_logged.get(text, (-REPEAT_AFTER, 0))
            if now - logged < REPEAT_AFTER:
                self._last_logged[text] = (logged, suppressed + 1)
                return
            if len(self._last_logged) >= _TEXTS_KEPT:
                self._last_logged.clear()
            self._last_logged[text] = (now, 0)
        self._log(text if not suppressed else f"{text} ({suppressed} more times)")

    def note(self, text: str) -> None:
        """Make it the newest problem without a line in the log."""
        with self._lock:
            self._latest = (self._clock(), text)

    def latest(self, within: float = float("inf")) -> str:
        """The newest problem of the last `within` seconds, or ''."""
        with self._lock:
            recent = self._latest is not None and self._clock() - self._latest[0] <= within
            return self._latest[1] if recent else ""

    def clear(self) -> None:
        """Forget the newest problem: what it was about is over."""
        with self._lock:
            self._latest = None
