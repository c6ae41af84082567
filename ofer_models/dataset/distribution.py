"""Parts spread over Ray workers: one part at a time for each, and what dies is done again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from ofer_models.dataset.parts import Part
from ofer_models.dataset.store import DatasetError, DatasetStore
from ofer_models.dataset.work import Job, PartWorker
from ofer_models.files.refusal import one_line

_DEATHS = 3  # of workers over one source, after which it is left
_LOOK = 0.5  # s between looks at how far workers are


@dataclass(frozen=True)
class Progress:
    """Sources that are done and in all, and the same in bytes; frames and faces, also of parts at work; failures."""

    sources: int
    of_sources: int
    size: int
    of_size: int
    frames: int
    faces: int
    failures: int


class Distribution:
    """Parts that wait, the workers that do them, and what has become of both."""

    def __init__(
        self, waiting: deque[Part], store: DatasetStore, job: Job, options: dict[str, Any],
        tell: Callable[[Progress], None],
    ) -> None:  # fmt: skip
        self._waiting, self._store, self._job, self._tell = waiting, store, job, tell
        self._actor = ray.remote(PartWorker).options(**options)
        self._deaths: dict[str, int] = {}
        self._at_work: dict[Any, tuple[Any, Part]] = {}  # result to come -> worker, part
        self._looks: dict[Any, Any] = {}  # look to come -> worker
        self._seen: dict[Any, tuple[int, int]] = {}  # worker -> frames and faces that it has told of
        self._done = self._size = self._failures = self._frames = self._faces = 0
        self._of = sum(len(part.sources) for part in waiting), sum(part.size for part in waiting)
        self._finished: dict[Any, tuple[int, int]] = {}  # worker -> frames and faces of its parts that are done

    def work(self, workers: int) -> None:
        """Do all parts with so many workers at most, and commit each as it is done. Raises OSError and DatasetError."""
        for _ in range(min(workers, len(self._waiting))):
            self._give(self._new())
        while self._at_work:
            for result in ray.wait(list(self._at_work), num_returns=1, timeout=_LOOK)[0]:
                self._ended(result)
            self._look()
            self._tell(self._progress())

    def _new(self) -> Any:
        worker = self._actor.remote(self._job)
        self._finished[worker] = self._seen[worker] = (0, 0)
        return worker

    def _give(self, worker: Any) -> None:
        if not self._waiting:
            self._forget(worker)
            return
        part = self._waiting.popleft()
        self._at_work[worker.do.remote(part, str(self._store.tmp))] = (worker, part)

    def _ended(self, result: Any) -> None:
        worker, part = self._at_work.pop(result)
        try:
            done = ray.get(result)
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, (OSError, ValueError)) else error from None
        except RayActorError as error:
            self._died(worker, part, error)
            return
        self._store.commit(part, done)
        self._done, self._size = self._done + len(part.sources), self._size + part.size
        self._failures += done.failures
        self._frames, self._faces = self._frames + done.frames, self._faces + done.faces
        frames, faces = self._finished[worker]
        self._finished[worker] = frames + done.frames, faces + done.faces
        self._give(worker)

    def _died(self, worker: Any, part: Part, error: RayActorError) -> None:
        self._forget(worker)
        if "creation task" in str(error):  # the worker could not even be made
            raise DatasetError(f"no worker could start: {_reason(error)}")
        again = part.halves()
        if len(again) == 1:
            deaths = self._deaths[part.key] = self._deaths.get(part.key, 0) + 1
            if deaths >= _DEATHS:
                problem = f"its reader died {deaths} times (out of memory, or a fault in a decoder)"
                again = (Part(tuple(replace(source, problem=problem) for source in part.sources)),)
        self._waiting.extendleft(reversed(again))
        self._give(self._new())

    def _forget(self, worker: Any) -> None:
        self._finished.pop(worker, None)
        self._seen.pop(worker, None)
        self._looks = {look: one for look, one in self._looks.items() if one is not worker}
        ray.kill(worker)

    def _look(self) -> None:
        """Take the answers of workers that tell how far they are, and ask them again."""
        ready = ray.wait(list(self._looks), num_returns=len(self._looks), timeout=0)[0] if self._looks else []
        for look in ready:
            worker = self._looks.pop(look)
            with suppress(RayActorError):  # the result of its part tells the same
                self._seen[worker] = ray.get(look)
        asked = list(self._looks.values())
        for worker, _ in self._at_work.values():
            if worker not in asked:
                self._looks[worker.progress.remote()] = worker

    def _progress(self) -> Progress:
        under_way = [
            (seen[0] - self._finished[worker][0], seen[1] - self._finished[worker][1])
            for worker, seen in self._seen.items()
        ]
        frames, faces = (sum(max(0, one[i]) for one in under_way) for i in range(2))
        return Progress(
            self._done, self._of[0], self._size, self._of[1], self._frames + frames, self._faces + faces,
            self._failures,
        )  # fmt: skip


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1] if lines else error)
