"""One thread for the frames of several cameras: what waits is done in one round, all cameras in one batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ofer_models.camera_batch import CameraFrame, process_together
from ofer_ros.work.worker import Begun, FrameWorker


class CameraLoop:
    """Each round takes the newest frame of every camera that has one, oldest first, so that none gets a second turn
    before all that wait had theirs. A frame waits `collect` seconds at most for those of other cameras.
    """

    def __init__(self, collect: float, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        """threads: on which faces are looked for, a camera each."""
        self._collect, self._clock = collect, clock
        self._pool = ThreadPoolExecutor(threads, "ofer-perception") if threads > 1 else None
        self._workers: list[LoopWorker] = []
        self._news = threading.Event()
        self._turn = threading.Lock()  # held while a round is at work
        self._ended = False
        self.rounds = self.frames = 0  # frames / rounds is the mean batch
        self._thread = threading.Thread(target=self._run, name="ofer-cameras", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Something is there to be done. From any thread."""
        self._news.set()

    def join(self, worker: LoopWorker) -> None:
        """Serve one more camera from the next round on."""
        self._workers = [*self._workers, worker]
        self.look()

    def leave(self, worker: LoopWorker, timeout: float) -> bool:
        """Serve it no longer; False when the round at work did not end in time."""
        self._workers = [one for one in self._workers if one is not worker]
        if not self._turn.acquire(timeout=timeout):
            return False
        self._turn.release()
        return True

    @property
    def working(self) -> bool:
        """Whether a round is at work."""
        return self._turn.locked()

    def close(self) -> None:
        """End the thread; a round at work is not waited for."""
        self._ended = True
        self.look()

    def _run(self) -> None:
        while not self._ended:
            self._news.wait()
            self._gather()
            self._news.clear()
            with self._turn:
                self.round()
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def _gather(self) -> None:
        """Wait a little for the cameras that have no frame yet."""
        until = self._clock() + self._collect
        while any(one.mailbox.full for one in self._workers) and not all(one.mailbox.full for one in self._workers):
            left = until - self._clock()
            if left <= 0 or self._ended:
                return
            self._news.clear()
            self._news.wait(left)

    def round(self) -> None:
        """What waits in all mailboxes; never raises."""
        workers = self._workers
        for worker in workers:
            worker.answer()
        waiting = [(worker, frame) for worker in workers if (frame := worker.mailbox.poll()) is not None]
        begun: list[tuple[LoopWorker, Begun]] = []
        for worker, frame in sorted(waiting, key=lambda one: one[1].arrived):
            ready = worker.begin(frame)
            if ready is not None:
                begun.append((worker, ready))
        if not begun:
            return
        self.rounds, self.frames = self.rounds + 1, self.frames + len(begun)
        frames = [
            CameraFrame(worker.pipeline, one.rgb, one.stamp, one.intrinsics, one.camera_pose) for worker, one in begun
        ]
        for (worker, one), faces in zip(begun, process_together(frames, self._pool), strict=True):
            worker.finish(one, faces)
            worker.answer()


class LoopWorker(FrameWorker):
    """A camera's worker on a `CameraLoop` in place of a thread of its own."""

    def __init__(self, loop: CameraLoop, *arguments, **named) -> None:
        super().__init__(*arguments, **named)
        self._loop = loop
        self._stopped = False

    def start(self) -> None:
        self.mailbox.tell(self._loop.look)
        self._loop.join(self)

    def wake(self) -> None:
        self._loop.look()

    def stop(self, timeout: float) -> bool:
        self._statistics.drop(self.mailbox.close())
        self._stopped = self._loop.leave(self, timeout)
        if self._stopped:
            self.answer()
        return self._stopped

    @property
    def alive(self) -> bool:
        if not self.mailbox.closed:
            return True
        self._stopped = self._stopped or not self._loop.working
        return not self._stopped
