"""A mailbox that holds the newest item only: how frames reach the worker without ever queueing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """One slot between a callback and a worker thread. `put` never blocks; an item not yet taken is overwritten."""

    def __init__(self) -> None:
        self._listener: Callable[[], object] = lambda: None
        self._ready = threading.Condition()
        self._item: Item | None = None
        self._closed = False

    def tell(self, listener: Callable[[], object]) -> None:
        """Call listener(), on the thread of whoever puts, when there is something to `take`, and at the end."""
        self._listener = listener

    def put(self, item: Item) -> bool:
        """Store `item`; True when it replaced one that nobody took. After `close`, items are ignored."""
        with self._ready:
            if self._closed:
                return False
            replaced = self._item is not None
            self._item = item
            self._ready.notify()
        self._listener()
        return replaced

    def take(self) -> Item | None:
        """Wait for an item; the newest one, None when closed."""
        return self.poll() if self.wait() else None

    def wait(self) -> bool:
        """Wait for an item and leave it there; False when closed."""
        with self._ready:
            self._ready.wait_for(lambda: self._item is not None or self._closed)
            return not self._closed

    def poll(self) -> Item | None:
        """The newest item, None where there is none, at once."""
        with self._ready:
            item, self._item = self._item, None
            return item

    @property
    def full(self) -> bool:
        """Whether an item waits."""
        return self._item is not None

    def clear(self) -> bool:
        """Forget the item that waits; whether there was one."""
        return self.poll() is not None

    def close(self) -> bool:
        """Wake every waiter; from now on `take` returns None and `put` ignores its item. Whether one waited, which is
        forgotten."""
        with self._ready:
            self._closed = True
            waited, self._item = self._item is not None, None
            self._ready.notify_all()
        self._listener()
        return waited

    @property
    def closed(self) -> bool:
        return self._closed
