"""The thread that draws: after a frame's faces have gone out, beside the frames that follow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.base.statistics import FrameStatistics
from ofer_ros.output.drawings import Drawing, FaceDrawings
from ofer_ros.work.mailbox import Mailbox
from ofer_ros.work.threads import ended


class Drawer:
    """Draws the newest frame that waits; one that comes while another waits takes its place. Nothing that a drawing
    does ends the thread."""

    def __init__(self, drawings: FaceDrawings, statistics: FrameStatistics, problems: ProblemLog) -> None:
        self._drawings = drawings
        self._statistics = statistics
        self._problems = problems
        self._mailbox: Mailbox[Drawing] = Mailbox()
        self._turn = threading.Lock()  # held while a drawing is at work
        self._thread = threading.Thread(target=self._run, name="ofer-drawer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, drawing: Drawing) -> None:
        """Have a frame drawn, if anybody looks; at once, on this thread, where no frame may be left out."""
        if self._drawings.one_a_frame:
            with self._turn:
                self._draw(drawing)
        elif self._drawings.wanted:
            self._statistics.undrawn += self._mailbox.put(drawing)

    @contextmanager
    def still(self) -> Iterator[None]:
        """While nothing is drawn; what waited is dropped. For the thread that calls `put`."""
        self._mailbox.clear()  # first: who waits for a turn does not get the next one for sure
        with self._turn:
            yield

    def stop(self, timeout: float) -> bool:
        """Drop what waits, and wait for the drawing at work; False when it did not end in time."""
        self._mailbox.close()
        return ended(self._thread, timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while self._mailbox.wait():
            with self._turn:
                drawing = self._mailbox.poll()
                if drawing is not None:
                    self._draw(drawing)

    def _draw(self, drawing: Drawing) -> None:
        try:
            times = self._drawings.publish(drawing)
        except Exception as error:  # its faces are published; no drawing is worth more than those to come
            self._problems.report(f"drawing failed: {type(error).__name__}: {error}")
            return
        self._statistics.stages({f"draw/{name}": value for name, value in times.items()})
