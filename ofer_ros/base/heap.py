"""What glibc does with memory that is free; elsewhere nothing of this has an effect but the collection."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_ARENA_MAX = -8  # M_ARENA_MAX of mallopt(3)
_ARENAS = 2


def few_arenas() -> None:
    """For a process that runs for weeks: let all threads allocate from two heaps.

    By default there may be eight a processor. A thread that finds its heap locked takes another, so that on a busy
    machine every one of them comes to hold what the largest frame once needed.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_ARENA_MAX, _ARENAS)


def give_memory_back() -> None:
    """Free what nobody holds any more, and return it to the system (glibc; elsewhere only the former).

    A pipeline that goes is part of reference cycles, which Python might leave until several more have gone, and leaves
    holes of tens of MB behind, which the next one does not fit into exactly.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
