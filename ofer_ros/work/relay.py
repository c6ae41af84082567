"""From one thread to the next, just in time: what is handed over never waits behind anything later, nor grows old."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Relay(Generic[Item]):
    """One slot between a thread that prepares items and one that works on them.

    An item prepared as early as possible would wait for its turn and be the older for it. So the first thread begins
    when the second is about to be free, by what an item took each of them the last time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock(): seconds."""
        self._clock = clock
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._preparing = self._working = 0.0  # what the last item took each thread, s
        self._taken: float | None = None  # since when the second thread is at work
        self._woken = self._closed = False

    def wait_for_turn(self) -> bool:
        """The first thread waits until another item is to be prepared; False when closed."""
        with self._changed:
            while not self._closed and (seconds := self.early()) > 0:
                self._changed.wait(None if math.isinf(seconds) else seconds)
            return not self._closed

    def early(self) -> float:
        """Seconds by which an item that was begun now would be ready too early; infinite while one waits."""
        if self._item is not None:
            return math.inf
        if self._taken is None:
            return 0.0
        return max(self._taken + self._working - self._preparing - self._clock(), 0.0)

    def put(self, item: Item, took: float) -> None:
        """Hand over an item whose preparation took so many seconds; after `close` it is ignored."""
        with self._changed:
            self._preparing = took
            if not self._closed:
                self._item = item
                self._changed.notify_all()

    def take(self) -> Item | None:
        """The second thread has done the item before: wait for the next. None when woken or when closed."""
        with self._changed:
            if self._taken is not None:
                self._working, self._taken = self._clock() - self._taken, None
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._item is not None or self._closed or self._woken)
            self._woken = False
            item, self._item = self._item, None
            if item is not None:
                self._taken = self._clock()
                self._changed.notify_all()
            return item

    def wake(self) -> None:
        """Let a waiting `take`, or the next one, return at once."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        """Wake both threads; what waits is dropped."""
        with self._changed:
            self._closed, self._item = True, None
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed
