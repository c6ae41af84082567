"""ofer_node: images in, tracked faces out. A lifecycle node that only converts, schedules and publishes.

    callbacks (executor thread) ── newest frame ──> Mailbox ──> FrameWorker (its own thread) ──> FaceOutputs

Callbacks only store what arrives, so services and parameters answer while a frame is at work.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import SetBool

from ofer_models.pipeline import FacePipeline
from ofer_ros.bundles import load_bundle
from ofer_ros.calibration import Calibration
from ofer_ros.diagnostics import ERROR, OK, RECENT, WARN, diagnostics_message, frame_values
from ofer_ros.mailbox import Mailbox
from ofer_ros.managed_node import ManagedNode, guarded, run
from ofer_ros.outputs import FaceOutputs
from ofer_ros.parameters import OferSettings, declare, read
from ofer_ros.problems import ProblemLog
from ofer_ros.silence import SilenceWatch
from ofer_ros.statistics import FrameStatistics
from ofer_ros.worker import Frame, FrameWorker, Result

NAME = "ofer_node"
IMAGE_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# While raw images came within this time, compressed ones of the same camera are not looked at (transport: auto).
_RAW_PREFERRED = 1.0


def load_pipeline(settings: OferSettings) -> FacePipeline:
    """The pipeline as the parameters say. Raises BundleError."""
    return FacePipeline(
        load_bundle(settings.bundle),
        hypotheses=settings.hypotheses,
        candidates=settings.candidates or None,
        steps=settings.steps or None,
        seed=settings.seed,
        threads=settings.threads,
        max_faces=settings.max_faces,
        backend=settings.backend,
    )


class OferNode(ManagedNode):
    """Tracks the faces of one camera. `make_pipeline(settings)` gives the `FacePipeline` (or a test's stand-in)."""

    def __init__(self, make_pipeline: Callable[[OferSettings], object] = load_pipeline, **kwargs) -> None:
        super().__init__(NAME, **kwargs)
        declare(self, NAME, OferSettings)
        self._make_pipeline = make_pipeline
        self._settings = read(self, OferSettings)
        self._statistics = FrameStatistics()
        self._problems = ProblemLog(self.get_logger().warning)
        self._silence = SilenceWatch(self)
        self._enabled = True
        self._pipeline = None
        self._outputs: FaceOutputs | None = None
        self._worker: FrameWorker | None = None
        self._mailbox: Mailbox[Frame] = Mailbox()
        self._inputs: list = []
        self._raw_arrived = float("-inf")
        self._configure_problem = ""
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(SetBool, "~/enable", self._on_enable)
        self.create_timer(1.0, self._each_second)

    @property
    def settings(self) -> OferSettings:
        """Parameters as last read (once a second, and at each configure)."""
        return self._settings

    # Transitions

    @guarded
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._settings = read(self, OferSettings)
        try:
            self._pipeline = self._make_pipeline(self._settings)
            self._outputs = FaceOutputs(self, self._pipeline.bundle, self._pipeline.head, lambda: self._settings)
        except Exception as error:
            self._release()
            self._configure_problem = f"cannot configure: {error}"
            # What a user can mend is one line; anything else is a bug and wants its traceback.
            expected = isinstance(error, (ValueError, OSError))
            self.get_logger().error(self._configure_problem + ("" if expected else f"\n{traceback.format_exc()}"))
            return TransitionCallbackReturn.FAILURE
        self._configure_problem = ""
        bundle = self._pipeline.bundle
        self.get_logger().info(
            f"bundle '{bundle.name}' {bundle.version}, {self._settings.hypotheses} hypotheses a face"
        )
        if self._settings.publish_tf and not self._outputs.transforms_available:
            self.get_logger().info("tf2_ros is not installed: faces are published without TF")
        return TransitionCallbackReturn.SUCCESS

    @guarded
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._pipeline.reset()
        self._problems.clear()
        self._outputs.clear()
        self._mailbox = Mailbox()
        calibration = Calibration(self._settings.field_of_view, self._problems)
        self._worker = FrameWorker(
            self._mailbox,
            self._pipeline,
            calibration.intrinsics,
            self._deliver,
            self._statistics,
            self._problems,
            max_age=lambda: self._settings.max_frame_age,
        )
        self._worker.start()
        self._listen(calibration)
        self._silence.start()
        return TransitionCallbackReturn.SUCCESS

    @guarded
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        return TransitionCallbackReturn.SUCCESS

    @guarded
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return TransitionCallbackReturn.SUCCESS

    @guarded
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop the worker and let go of everything; may be called in any state and again."""
        self._stop()
        self._release()

    def _stop(self) -> None:
        for entity in self._inputs:
            self.destroy_subscription(entity)
        self._inputs = []
        if self._worker is not None:
            if not self._worker.stop():
                self.get_logger().error("the frame at work did not finish in 10 s")
            self._worker = None
            self._outputs.clear()

    def _release(self) -> None:
        if self._outputs is not None:
            self._outputs.destroy()
        self._outputs = self._pipeline = None

    def _deliver(self, result: Result) -> dict[str, float]:
        # Paused while this frame was at work: its markers must not come after the DELETEALL.
        return self._outputs.publish(result) if self._enabled else {}

    # Input

    def _listen(self, calibration: Calibration) -> None:
        transport = self._settings.transport
        if transport in ("auto", "raw"):
            self._inputs.append(self.create_subscription(Image, "image_raw", self._on_image, IMAGE_QOS))
        if transport in ("auto", "compressed"):
            self._inputs.append(
                self.create_subscription(CompressedImage, "image_raw/compressed", self._on_compressed, IMAGE_QOS)
            )
        self._inputs.append(
            self.create_subscription(CameraInfo, "camera_info", calibration.update, qos_profile_sensor_data)
        )

    def _on_image(self, message: Image) -> None:
        self._raw_arrived = time.monotonic()
        self._accept(message)

    def _on_compressed(self, message: CompressedImage) -> None:
        if time.monotonic() - self._raw_arrived > _RAW_PREFERRED:
            self._accept(message)

    def _accept(self, message: Image | CompressedImage) -> None:
        self._silence.arrived()
        if self._enabled:
            self._statistics.received += 1
            self._statistics.overwritten += self._mailbox.put(Frame(message))

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = request.data
        if not self._enabled:
            self._mailbox.clear()
            if self._outputs is not None:
                self._outputs.clear()
        response.success = True
        response.message = "working" if self._enabled else "paused: images are ignored until enabled again"
        return response

    # Once a second

    def _each_second(self) -> None:
        self._settings = read(self, OferSettings)
        silent = ""
        if self.state == "active":
            silent = self._silence.check(self._settings.silence_warning, self._settings.transport)
        level, text = self._status(silent)
        bundle = getattr(self._pipeline, "bundle", None)
        values = {"state": self.state, "enabled": self._enabled, **frame_values(self._statistics)}
        self._diagnostics.publish(
            diagnostics_message(
                f"{self.get_fully_qualified_name().lstrip('/')}: faces",
                f"{bundle.name} {bundle.version}" if bundle else "",
                level,
                text,
                values,
                self.get_clock().now(),
            )
        )

    def _status(self, silent: str) -> tuple[bytes, str]:
        """Diagnostics level and reason, the worst first."""
        if self._configure_problem and self._pipeline is None:
            return ERROR, self._configure_problem
        if self.state != "active":
            return OK, self.state
        recent = self._problems.latest(within=RECENT)
        if recent:
            return (WARN if self._statistics.rate() > 0 else ERROR), recent
        if not self._enabled:
            return OK, "paused by ~/enable"
        return (WARN, silent) if silent else (OK, f"{self._statistics.rate():.1f} frames a second")


def _start(node: OferNode) -> None:
    if node.settings.autostart and not node.autostart():
        node.get_logger().error("autostart failed; mend the cause, then: ros2 lifecycle set <node> configure")


def main(args: list[str] | None = None) -> int:
    return run(OferNode, args, started=_start)


if __name__ == "__main__":
    sys.exit(main())
