"""Where draws are done: at once, or one after the other on a thread beside the stream."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ofer_models.tracking.identity_state import Draw, Drawn, IdentityMachine

_NICENESS = 10  # of the drawing thread: where cores are short, the stream goes first


class DrawRunner:
    """Runs `draw(request)` for machines; `finished` hands results to the thread that submitted them."""

    def __init__(self, draw: Callable[[Draw], Drawn], background: bool) -> None:
        """background: on one thread of its own, or within `submit`, so that everything depends on the input alone."""
        self._draw = draw
        self._thread = ThreadPoolExecutor(1, "ofer-identity", _be_nice) if background else None
        self._jobs: list[tuple[IdentityMachine, Draw, Future[Drawn]]] = []

    def submit(self, machine: IdentityMachine, draw: Draw) -> None:
        if self._thread is not None:
            future = self._thread.submit(self._draw, draw)
        else:
            future = Future()
            try:
                future.set_result(self._draw(draw))
            except Exception as error:  # told by `finished`, as in the background
                future.set_exception(error)
        self._jobs.append((machine, draw, future))

    def finished(self) -> list[tuple[IdentityMachine, Draw, Future[Drawn]]]:
        """Draws done since the last call, each with its result or exception in the future."""
        ended = [job[2].done() for job in self._jobs]  # asked once: one may end while this goes on
        finished = [job for job, over in zip(self._jobs, ended, strict=True) if over]
        self._jobs = [job for job, over in zip(self._jobs, ended, strict=True) if not over]
        return finished

    def clear(self) -> None:
        """Forget all draws. One that is at work comes to its end, and nobody looks at it."""
        for _, _, future in self._jobs:
            future.cancel()
        self._jobs = []

    def close(self) -> None:
        """No more draws; returns when the one at work has come to its end."""
        self.clear()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)


def _be_nice() -> None:
    with contextlib.suppress(AttributeError, OSError):  # threads have a niceness of their own on Linux only
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
