"""The two threads that do the work of a frame: one converts it and looks for faces, the other makes
them and hands over. They know no publishers and no node."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.pipeline_look import Look
from ofer_models.tracking.pose_filter import CameraPose
from ofer_ros.base.frames import Frame, Result
from ofer_ros.base.geometry import seconds
from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.base.statistics import FrameStatistics
from ofer_ros.input.calibration import Calibration
from ofer_ros.input.images import ImageError, to_rgb
from ofer_ros.work.mailbox import Mailbox
from ofer_ros.work.relay import Relay
from ofer_ros.work.threads import ended

_FAILURES_BEFORE_RESET = 3

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Begun:
    """A frame as the pipeline gets it: rgb (H, W, 3) uint8, stamp in s; started and converted: time.perf_counter."""

    frame: Frame
    rgb: np.ndarray
    stamp: float
    intrinsics: Intrinsics
    camera_pose: CameraPose | None
    started: float
    converted: float


@dataclass(frozen=True)
class Seen:
    """A frame and what the first half of its work gave, or raised, at `ended` (time.perf_counter)."""

    begun: Begun
    look: Look | Exception
    ended: float


class FrameWorker:
    """Takes the newest frame from a mailbox until it is closed. Nothing that a frame does ends its threads.

    While one thread is at a frame's `pipeline.faces(look)`, the other is at the next one's `pipeline.look(rgb, stamp,
    intrinsics, camera_pose)`; of the pipeline they also know `timings`, `reset()` and `report_latency(ms)`. calibration
    knows the camera; deliver(result) publishes and returns its own times in ms by name, or None where it did not;
    max_age() is the oldest age in seconds at which a frame is still worth its work; convert takes an image message to
    RGB; camera_pose(header) is where its camera was, None where that is not known.
    """

    def __init__(
        self,
        mailbox: Mailbox[Frame],
        pipeline: Callable,
        calibration: Calibration,
        deliver: Callable[[Result], dict[str, float] | None],
        statistics: FrameStatistics,
        problems: ProblemLog,
        max_age: Callable[[], float],
        convert: Callable[[Image | CompressedImage], np.ndarray] = to_rgb,
        camera_pose: Callable[[Header], CameraPose | None] = lambda header: None,
    ) -> None:
        self.mailbox = mailbox
        self.pipeline = pipeline
        self._calibration = calibration
        self._deliver = deliver
        self._statistics = statistics
        self._problems = problems
        self._max_age = max_age
        self._convert = convert
        self._camera_pose = camera_pose
        self._requests: SimpleQueue[tuple[Callable, Future]] = SimpleQueue()
        self._failures_in_a_row = 0
        self._counting = threading.Lock()
        self._relay: Relay[Seen] = Relay()
        self._looking = threading.Thread(target=self._look_at_frames, name="ofer-perception", daemon=True)
        self._thread = threading.Thread(target=self._show_frames, name="ofer-worker", daemon=True)

    def start(self) -> None:
        self.mailbox.tell(self._relay.stir)
        self._looking.start()
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Close the mailbox and wait for the frames at work; False when they did not finish in time."""
        self._statistics.drop(self.mailbox.close() + self._relay.close())
        return ended(self._thread, timeout)

    @property
    def alive(self) -> bool:
        """Whether a thread still runs, after `stop` because of a frame that takes too long."""
        return self._thread.is_alive()

    def between_frames(self, action: Callable[[], Answer]) -> Future[Answer]:
        """Have `action` done by the worker thread, after its frame at work; the next may be looked at meanwhile."""
        answer: Future[Answer] = Future()
        self._requests.put((action, answer))
        self.wake()
        return answer

    def wake(self) -> None:
        """There is something to `answer`."""
        self._relay.wake()

    def _look_at_frames(self) -> None:
        while self._relay.wait_for_turn():
            # While nothing waits for it, not beside a frame's second half, which would go out the later.
            self._relay.wait_until_free(urgent=lambda: self.mailbox.full or self.mailbox.closed)
            with contextlib.suppress(Exception):  # the next frame meets it again, and tells
                self.pipeline.look_ahead()
            frame = self.mailbox.take()
            if frame is None:
                return
            computed = time.thread_time()
            seen = self.look(frame)
            if seen is not None:
                taken = self._relay.put(seen, seen.ended - seen.begun.started, time.thread_time() - computed)
                self._statistics.drop(not taken)

    def _show_frames(self) -> None:
        while not self._relay.closed:
            seen = self._relay.take()
            self.answer()
            if seen is not None:
                self.show(seen)
        self._looking.join()  # what is asked for while it does not end has an answer too
        self.answer()

    def answer(self) -> None:
        """Do what was asked for between two frames."""
        while not self._requests.empty():
            action, answer = self._requests.get()
            try:
                answer.set_result(action())
            except Exception as error:
                answer.set_exception(error)

    def look(self, frame: Frame) -> Seen | None:
        """The first half of a frame; None as of `begin`. Never raises."""
        begun = self.begin(frame)
        if begun is None:
            return None
        try:
            look = self.pipeline.look(begun.rgb, begun.stamp, begun.intrinsics, begun.camera_pose)
        except Exception as error:  # one frame must never end the stream
            look = error
        return Seen(begun, look, time.perf_counter())

    def show(self, seen: Seen) -> None:
        """The second half, unless the frame has become too old by now; never raises."""
        if self._is_late(seen.begun.frame):
            return
        waited = time.perf_counter() - seen.ended
        try:
            faces = seen.look if isinstance(seen.look, Exception) else self.pipeline.faces(seen.look)
        except Exception as error:
            faces = error
        self.finish(seen.begun, faces, waited)

    def begin(self, frame: Frame) -> Begun | None:
        """What the pipeline is to be given of a frame; None where it is too old or cannot be used, which is counted."""
        if self._is_late(frame):
            return None
        started = time.perf_counter()
        try:
            rgb = self._convert(frame.message)
            height, width = rgb.shape[:2]
            if frame.info is not None:
                self._calibration.update(frame.info)
            intrinsics = self._calibration.intrinsics(width, height)
            stamp = seconds(frame.message.header.stamp)
            place = self._camera_pose(frame.message.header)
        except ImageError as error:
            self._statistics.bad_images += 1
            self._problems.report(f"image not used: {error}")
            return None
        except Exception as error:
            self._failed(error)
            return None
        return Begun(frame, rgb, stamp, intrinsics, place, started, time.perf_counter())

    def _is_late(self, frame: Frame) -> bool:
        late = time.monotonic() - frame.arrived > self._max_age()
        self._statistics.drop(late)
        return late

    def finish(self, begun: Begun, faces: list | Exception, waited: float = 0.0) -> None:
        """Hand over what the pipeline gave for a frame, or tell why it gave nothing; never raises. waited: seconds,
        from one thread to the other."""
        inferred = time.perf_counter()
        try:
            if isinstance(faces, Exception):
                raise faces
            deliveries = self._deliver(Result(begun.frame.message.header, begun.rgb, begun.intrinsics, faces))
        except Exception as error:
            self._failed(error)
            return
        with self._counting:
            self._failures_in_a_row = 0
        if deliveries is None:
            self._statistics.drop(1)
            return
        stages = {
            "convert": 1000 * (begun.converted - begun.started),
            **{f"pipeline/{name}": value for name, value in self.pipeline.timings.items()},
            "pipeline": 1000 * (inferred - begun.converted - waited),
            "handover": 1000 * waited,
            **{f"publish/{name}": value for name, value in deliveries.items()},
            "publish": 1000 * (time.perf_counter() - inferred),
        }
        latency = time.monotonic() - begun.frame.arrived
        self.pipeline.report_latency(1000 * latency)
        self._statistics.frame(latency, stages, len(faces))

    def _failed(self, error: Exception) -> None:
        self._problems.report(f"frame failed: {type(error).__name__}: {error}")
        with self._counting:
            self._statistics.failures += 1
            self._failures_in_a_row = (self._failures_in_a_row + 1) % _FAILURES_BEFORE_RESET
            too_many = self._failures_in_a_row == 0
        if too_many:
            self._reset()

    def _reset(self) -> None:
        """Start the tracks anew: what fails again and again may be their state."""
        try:
            self.pipeline.reset()
        except Exception as error:
            self._problems.report(f"reset failed: {type(error).__name__}: {error}")
