"""A bounded number of things that are costly to make and hold memory elsewhere."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedCache(Generic[T]):
    """Things by key; when there are too many, the one that was used longest ago is closed. Not for several threads."""

    def __init__(self, most: int, close: Callable[[T], None]) -> None:
        self._most, self._close = most, close
        self._kept: OrderedDict[Hashable, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing of a key, made where there is none. Room is made before, so there are never more than `most`."""
        if key not in self._kept:
            self._drop(len(self._kept) - self._most + 1)
            self._kept[key] = make()
        self._kept.move_to_end(key)
        return self._kept[key]

    def clear(self) -> None:
        """Close everything."""
        self._drop(len(self._kept))

    def _drop(self, count: int) -> None:
        for _ in range(max(count, 0)):
            self._close(self._kept.popitem(last=False)[1])
