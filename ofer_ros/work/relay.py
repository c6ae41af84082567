"""From one thread to the next, just in time: what is handed over never waits behind anything later, nor grows old."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

_APART = 5.0  # s for which the threads take turns after each was in the other's way
_ENOUGH = 0.65  # of the time that the first thread needs it, for which it has to have a processor
_ITEMS, _FADING = 3, 0.7  # how many are judged together at least, and what older ones count with each new one


class _Share:
    """Of the time that items took, how much a processor was there for them."""

    def __init__(self) -> None:
        self._count, self._took, self._computed = 0, 0.0, 0.0

    def is_little(self, took: float, computed: float) -> bool:
        """With one more item, of so many seconds."""
        self._count += 1
        self._took = _FADING * self._took + took
        self._computed = _FADING * self._computed + computed
        return self._count >= _ITEMS and self._computed < _ENOUGH * self._took


class Relay(Generic[Item]):
    """One slot between a thread that prepares items and one that works on them.

    An item prepared as early as possible would wait for its turn and be the older for it. So the first thread begins
    when the second is about to be free, by what an item took each of them the last time. And where two threads at once
    only take the processor from each other, which makes both halves longer and nothing more of them, the first waits
    until the second is free, and tries again after a while.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock(): seconds."""
        self._clock = clock
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._preparing = self._working = 0.0  # what the last item took each thread, s
        self._taken: float | None = None  # since when the second thread is at work
        self._beside = _Share()
        self._apart_until = -math.inf
        self._woken = self._closed = False

    def wait_for_turn(self) -> bool:
        """The first thread waits until another item is to be prepared; False when closed."""
        with self._changed:
            while not self._closed and (seconds := self.early()) > 0:
                self._changed.wait(None if math.isinf(seconds) else seconds)
            return not self._closed

    def wait_until_free(self, urgent: Callable[[], bool]) -> None:
        """The first thread waits until the second has nothing to do, or until `urgent()`, which is asked again at each
        `stir`; not once closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or (self._taken is None and self._item is None) or urgent()
            )

    def stir(self) -> None:
        """What `wait_until_free` asks may have another answer now. From any thread."""
        with self._changed:
            self._changed.notify_all()

    def early(self) -> float:
        """Seconds by which an item that was begun now would be ready too early; infinite while one waits."""
        if self._item is not None:
            return math.inf
        if self._taken is None:
            return 0.0
        if self._clock() < self._apart_until:
            return math.inf
        return max(self._taken + self._working - self._preparing - self._clock(), 0.0)

    def put(self, item: Item, took: float, computed: float) -> bool:
        """Hand over an item whose preparation took so many seconds, and of the processor so many; False when it is
        ignored, after `close`."""
        with self._changed:
            self._preparing = took
            if self._taken is not None and self._beside.is_little(took, computed):
                self._apart_until, self._beside = self._clock() + _APART, _Share()
            if not self._closed:
                self._item = item
                self._changed.notify_all()
            return not self._closed

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

    def close(self) -> bool:
        """Wake both threads; what waits is dropped. Whether anything was."""
        with self._changed:
            waited = self._item is not None
            self._closed, self._item = True, None
            self._changed.notify_all()
            return waited

    @property
    def closed(self) -> bool:
        return self._closed
