"""Memory that a process no longer needs."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def give_memory_back() -> None:
    """Free what nobody holds any more, and return it to the system (glibc; elsewhere only the former).

    A pipeline that goes is part of reference cycles, which Python might leave until several more have gone, and leaves
    holes of tens of MB behind, which the next one does not fit into exactly.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
