"""An active ofer_node's stream: the camera's topics, a mailbox, and the worker that makes faces of the newest frame."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from rclpy.node import Node

from ofer_ros.base.frames import Frame, Result
from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.base.settings import OferSettings
from ofer_ros.base.statistics import FrameStatistics
from ofer_ros.input.calibration import Calibration, is_rectified
from ofer_ros.input.cv_bridge_converter import image_converter
from ofer_ros.input.subscriptions import CameraInputs
from ofer_ros.output.publishers import FaceOutputs
from ofer_ros.work.camera_loop import CameraLoop, LoopWorker
from ofer_ros.work.drawer import Drawer
from ofer_ros.work.mailbox import Mailbox
from ofer_ros.work.worker import Answer, FrameWorker

_LARGE = 1920  # px, longer side from which on people may be small in a picture that shows them well


class FaceStream:
    """Runs from its construction to `stop`. Meant for the executor's thread; images arrive on the receiver's, the
    pipeline and the outputs' `publish` belong to the worker's, and `between_frames` is how others reach them.
    """

    def __init__(
        self,
        node: Node,
        pipeline,
        outputs: FaceOutputs,
        settings: Callable[[], OferSettings],
        statistics: FrameStatistics,
        problems: ProblemLog,
        loop: CameraLoop | None = None,
    ) -> None:
        """settings(): the parameters as they are now; those that are not live are read once, here. loop: does the work
        of this camera's frames together with other cameras'; without it they have a thread of their own."""
        begun = settings()
        self._outputs = outputs
        self._drawer = Drawer(outputs.drawings, statistics, problems)
        self._statistics = statistics
        self._mailbox: Mailbox[Frame] = Mailbox()
        self._paused = False
        self._log = node.get_logger().info
        self._may_miss_small_faces = not begun.small_faces
        self.tracks: list[str] = []  # ids of the last frame
        raw, compressed = (node.resolve_topic_name(name) for name in ("image_raw", "image_raw/compressed"))
        named_so = is_rectified(raw) or is_rectified(compressed.rpartition("/")[0])
        by_name = begun.image_is_rectified == "auto" and named_so
        calibration = Calibration(begun.field_of_view, problems, by_name or begun.image_is_rectified == "true")
        self._worker = (partial(LoopWorker, loop) if loop else FrameWorker)(
            self._mailbox,
            pipeline,
            calibration,
            self._deliver,
            statistics,
            problems,
            max_age=lambda: settings().max_frame_age,
            convert=image_converter(begun.conversion, node.get_logger().warning, begun.max_image_pixels),
            camera_pose=lambda header: self.inputs.camera_pose(header),
        )
        self.inputs = CameraInputs(node, begun, calibration, problems, self._accept)
        try:
            self._drawer.start()
            self._worker.start()
        except Exception:  # a machine that has no more threads
            self.stop(0.0)
            raise

    @property
    def working(self) -> bool:
        """Whether a thread still runs; after `stop` only for a frame that does not end."""
        return self._worker.alive or self._drawer.alive

    def pause(self, paused: bool) -> None:
        """Ignore images from now on, or no longer."""
        self._paused = paused
        if paused:
            self.drop_waiting()
            # After the frame at work, whose markers would come back otherwise.
            self.while_still(self._outputs.clear)

    def drop_waiting(self) -> None:
        """Forget the frame that waits for its turn."""
        self._statistics.drop(self._mailbox.clear())

    def between_frames(self, action: Callable[[], Answer]) -> Future[Answer]:
        """Have `action` done by the worker's thread, after the frame at work."""
        return self._worker.between_frames(action)

    def while_still(self, action: Callable[[], Answer]) -> Future[Answer]:
        """The same while nothing is drawn either; what waited to be drawn is dropped."""

        def still() -> Answer:
            with self._drawer.still():
                return action()

        return self.between_frames(still)

    def stop(self, patience: float) -> bool:
        """Stop listening and wait for the frames at work; False when they did not end within `patience` seconds."""
        until = time.monotonic() + patience
        self.inputs.destroy()  # first: an image that came after the mailbox closed would be counted and never dropped
        self._statistics.drop(self._mailbox.close())
        ended = [one.stop(max(0.0, until - time.monotonic())) for one in (self._worker, self._drawer)]
        return all(ended)

    def _accept(self, frame: Frame) -> None:
        if not self._paused:
            self._statistics.received += 1
            self._statistics.drop(self._mailbox.put(frame))

    def _deliver(self, result: Result) -> dict[str, float] | None:
        height, width = result.rgb.shape[:2]
        if self._may_miss_small_faces and max(height, width) > _LARGE:
            self._may_miss_small_faces = False  # said once
            self._log(
                f"images are {width} x {height}: faces of less than about {max(height, width) // 20} px are not found; "
                "the parameter small_faces finds them, and says what that costs"
            )
        self.tracks = [face.id for face in result.faces]
        # A frame that ends after `stop` gave up on it must not bring the markers back.
        if self._paused or self._mailbox.closed:
            return None
        drawing, times = self._outputs.publish(result)
        self._drawer.put(drawing)
        return times
