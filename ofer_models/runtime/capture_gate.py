"""Who may speak to the GPU while another thread captures a graph: nobody.

A launch, an allocation or a wait by another thread in the middle of a capture ends up in the wrong graph or spoils the
capture (CUDA's error 900). So ordinary work shares the gate and a capture has it to itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CaptureGate:
    """Shared by any number of threads that use the GPU, or held by one that captures. Not reentrant."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._capturing = False
        self._waiting = 0

    @contextmanager
    def using(self) -> Iterator[None]:
        """Ordinary work; waits for a capture that is on or wanted. Keep it short: captures wait for its end."""
        with self._changed:
            self._changed.wait_for(lambda: not self._capturing and not self._waiting)
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Alone, once everybody who uses the GPU is through."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._capturing and not self._users)
            finally:
                self._waiting -= 1
            self._capturing = True
        try:
            yield
        finally:
            with self._changed:
                self._capturing = False
                self._changed.notify_all()
