"""Where draws are done: at once, or one after the other on a thread beside the stream."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple
from weakref import WeakSet

from ofer_models.tracking.identity_state import Draw, Drawn, IdentityMachine

_NICENESS = 10  # of the drawing thread: where cores are short, the stream goes first
_AT_EXIT = 10.0  # s that the end of the process waits for draws at work: a thread that it cuts off in C++ ends it badly
_threads: WeakSet[threading.Thread] = WeakSet()
_ending = threading.Event()  # the process: nothing more is begun


class Job(NamedTuple):
    """A draw, the machine that asked for it, and its result or what it raised."""

    machine: IdentityMachine
    draw: Draw
    future: Future[Drawn]


class DrawRunner:
    """Runs `draw(request)` for machines; `finished` hands results to the thread that submitted them."""

    def __init__(
        self, draw: Callable[[Draw], Drawn], background: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """background: on a thread of its own while there is something to draw, which does not keep the process from
        ending for long; or within `submit`, so that everything depends on the input alone. clock(): seconds."""
        self._draw = draw
        self._background = background
        self._clock = clock
        self._jobs: list[Job] = []
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._thread: threading.Thread | None = None
        self._begun: float | None = None  # when the draw at work did
        self._closed = False

    def submit(self, machine: IdentityMachine, draw: Draw) -> None:
        """Have it drawn; after `close` it is ignored."""
        if self._closed:
            return
        job = Job(machine, draw, Future())
        self._jobs.append(job)
        if not self._background:
            self._do(job)
            return
        with self._lock:
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="ofer-identity", daemon=True)
                _threads.add(self._thread)
                self._thread.start()

    def finished(self) -> list[Job]:
        """Draws done since the last call, each with its result or exception in the future."""
        ended = [job.future.done() for job in self._jobs]  # asked once: one may end while this goes on
        finished = [job for job, over in zip(self._jobs, ended, strict=True) if over]
        self._jobs = [job for job, over in zip(self._jobs, ended, strict=True) if not over]
        return finished

    def withdraw(self, unwanted: Callable[[Job], bool]) -> None:
        """Forget draws that nobody waits for any more, so that they hold up no other. One that is at work comes to its
        end, and nobody looks at it."""
        kept = []
        for job in self._jobs:
            if unwanted(job):
                job.future.cancel()
            else:
                kept.append(job)
        self._jobs = kept

    def clear(self) -> None:
        """Forget all draws."""
        self.withdraw(lambda job: True)
        with self._lock:
            self._waiting.clear()

    @property
    def busy_for(self) -> float:
        """Seconds that the draw at work has taken so far; 0 without one."""
        begun = self._begun
        return 0.0 if begun is None else self._clock() - begun

    def close(self) -> None:
        """No more draws; returns when the one at work has come to its end."""
        self._closed = True
        self.clear()
        thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        _be_nice()
        while self._do_next():
            pass

    def _do_next(self) -> bool:
        """The longest waiting draw; False, and the thread is to end, when there is none. By itself: nothing of a job
        outlives it."""
        with self._lock:
            if not self._waiting or _ending.is_set():
                self._thread = None
                return False
            job = self._waiting.popleft()
        self._do(job)
        return True

    def _do(self, job: Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        self._begun = self._clock()
        try:
            drawn = self._draw(job.draw)
        except Exception as error:  # told by `finished`
            job.future.set_exception(error)
        else:
            job.future.set_result(drawn)
        finally:
            self._begun = None


@atexit.register
def _wait_for_draws() -> None:
    _ending.set()
    until = time.monotonic() + _AT_EXIT
    for thread in list(_threads):
        thread.join(max(until - time.monotonic(), 0.0))


def _be_nice() -> None:
    with contextlib.suppress(AttributeError, OSError):  # threads have a niceness of their own on Linux only
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
