"""Memory that a process keeps for long, and that it no longer needs."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def keep_what_is_loaded() -> None:
    """Have Python's garbage collector pass by what is there now, until `give_memory_back`: to look through all that a
    node has loaded takes 30 ms, which a frame would wait for."""
    gc.collect()
    gc.freeze()


def give_memory_back() -> None:
    """Free what nobody holds any more, and return it to the system (glibc; elsewhere only the former).

    A pipeline that goes is part of reference cycles, which Python might leave until several more have gone, and leaves
    holes of tens of MB behind, which the next one does not fit into exactly.
    """
    gc.unfreeze()
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
