"""ofer_node: images in, tracked faces out. A lifecycle node that only converts, schedules and publishes.

    CameraInputs (receiver's thread) ── newest frame ──> Mailbox ──> FrameWorker (its own thread) ──> FaceOutputs

The first three are a FaceStream, which lives while the node is active. Callbacks only store what arrives, so services
and parameters answer while a frame is at work. The pipeline belongs to the worker's thread: what services and
parameters ask of it is done there, between two frames.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import ExitStack
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from std_srvs.srv import SetBool, Trigger

from ofer_models.pipeline import FacePipeline
from ofer_msgs.srv import ResetIdentity
from ofer_ros.base.bundles import load_bundle
from ofer_ros.base.heap import give_memory_back, keep_what_is_loaded
from ofer_ros.base.parameters import declare, read
from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.base.settings import OferSettings
from ofer_ros.base.statistics import FrameStatistics
from ofer_ros.input.input_watch import InputWatch
from ofer_ros.input.name_watch import NameWatch
from ofer_ros.nodes.lifecycle import LoadingNode, guarded, run, start
from ofer_ros.output.publishers import FaceOutputs
from ofer_ros.work.active_stream import FaceStream
from ofer_ros.work.camera_loop import CameraLoop
from ofer_ros.work.diagnostics import ERROR, OK, RECENT, WARN, diagnostics_message, frame_values
from ofer_ros.work.identity_client import IdentityClient

NAME = "ofer_node"
# Seconds that a service waits for the frame at work before it answers without knowing the outcome.
_PATIENCE = 3.0
# Seconds that deactivate waits for it, and cleanup for an identity that is being drawn.
_STOP_PATIENCE = 10.0


def load_pipeline(settings: OferSettings, node: str = "") -> FacePipeline:
    """The pipeline of a node (its full name) as the parameters say. Raises BundleError."""
    return FacePipeline(load_bundle(settings.bundle), settings.pipeline(node))


class OferNode(LoadingNode):
    """Tracks the faces of one camera. `make_pipeline(settings)` gives the `FacePipeline` (or a test's stand-in); loop:
    does the work of several cameras' nodes together."""

    def __init__(
        self,
        make_pipeline: Callable[[OferSettings], object] | None = None,
        loop: CameraLoop | None = None,
        **kwargs,
    ) -> None:
        super().__init__(NAME, **kwargs)
        name = self.get_fully_qualified_name()
        declare(self, NAME, OferSettings, active=lambda: self.state == "active")
        self._make_pipeline = make_pipeline or partial(load_pipeline, node=name)
        self._loop = loop
        self._settings = read(self, OferSettings)
        self._statistics = FrameStatistics()
        self._problems = ProblemLog(self.get_logger().warning)
        self._watch = InputWatch(self)
        self._names = NameWatch(self)
        self._enabled = True
        self._pipeline = None
        self._identity_server: IdentityClient | None = None
        self._loaded: tuple = ()
        self._outputs: FaceOutputs | None = None
        self._stream: FaceStream | None = None
        self._unfinished: FaceStream | None = None
        self._outlived: list[FaceOutputs] = []  # released while a frame still used them
        self._expired: Future | None = None
        self._load_problem = ""
        self._lost_before = 0  # images that earlier streams of this node missed
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(SetBool, "~/enable", self._on_enable)
        self.create_service(ResetIdentity, "~/reset_identity", self._on_reset_identity)
        self.create_service(Trigger, "~/forget", self._on_forget)
        # Of the machine's own clock: with use_sim_time the node's stands still while nothing is simulated.
        self.create_timer(1.0, self._each_second, clock=Clock(clock_type=ClockType.STEADY_TIME))
        if hasattr(self, "add_post_set_parameters_callback"):  # not in Humble, where a second may pass
            self.add_post_set_parameters_callback(lambda _: self._take_up_settings())

    @property
    def statistics(self) -> FrameStatistics:
        """Of this camera's frames since the node started."""
        return self._statistics

    @property
    def settings(self) -> OferSettings:
        """Parameters as last read: at each change, once a second, and at each transition forward."""
        return self._settings

    # Transitions

    @guarded
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._load("configure")

    @guarded
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._unfinished is not None and self._unfinished.working:
            self.get_logger().error("cannot activate: the last frame before deactivate is still at work")
            return TransitionCallbackReturn.FAILURE
        self._settings = read(self, OferSettings)
        if self._pipeline is None or self._loaded != self._wanted():
            answer = self._load("activate")
            if answer != TransitionCallbackReturn.SUCCESS:
                return answer
        self._pipeline.reset()
        self._problems.clear()
        self._outputs.clear()
        self._stream = FaceStream(
            self, self._pipeline, self._outputs, lambda: self._settings, self._statistics, self._problems,
            self._loop,
        )
        with ExitStack() as half_way:  # where something raises, nothing goes on running
            half_way.callback(self._stop)
            self._stream.pause(not self._enabled)
            self._lost_before = self._statistics.lost
            self._watch.start()
            bundle, count = self._pipeline.bundle, self._pipeline.hypotheses
            self.get_logger().info(
                f"active: {self._stream.inputs.describe()}; bundle '{bundle.name}' {bundle.version} on "
                f"{self._pipeline.backend}, {count} {'hypotheses' if count > 1 else 'hypothesis'} a face"
            )
            half_way.pop_all()
        return TransitionCallbackReturn.SUCCESS

    def _wanted(self) -> tuple:
        """What is loaded depends on: changed while inactive, it is taken up when the node is activated."""
        now = self._settings
        return (
            now.bundle, now.pipeline(), now.deterministic_ids, now.mesh_region, now.publish_head, now.ros4hri,
            now.tf_prefix, now.identity_server,
        )  # fmt: skip

    def _load(self, step: str) -> TransitionCallbackReturn:
        """Make pipeline and publishers as the parameters say; one line and FAILURE when they cannot be made."""
        self._release()
        self._settings = read(self, OferSettings)
        try:
            self._pipeline = self._make_pipeline(self._settings)
            if self._settings.identity_server and self._settings.method == "ofer":
                if not self._settings.identity_in_background:
                    raise ValueError("identity_server needs identity_in_background: a frame would wait for the network")
                self._identity_server = IdentityClient(self, self._settings.identity_server, self._pipeline.bundle)
                self._pipeline.rank_elsewhere(self._identity_server)
            self._outputs = FaceOutputs(self, self._pipeline.bundle, self._pipeline.head, lambda: self._settings)
            self._pipeline.warm_up(self.get_logger().info)
        except Exception as error:
            self._release()
            self._load_problem = f"cannot {step}: {error}"
            # What a user can mend is one line; anything else is a bug and wants its traceback.
            expected = isinstance(error, (ValueError, OSError))
            self.get_logger().error(self._load_problem + ("" if expected else f"\n{traceback.format_exc()}"))
            return TransitionCallbackReturn.FAILURE
        self._load_problem = ""
        self._loaded = self._wanted()
        if self._settings.publish_tf and not self._outputs.transforms_available:
            self.get_logger().info("tf2_msgs is not installed: faces are published without TF")
        for missing in self._outputs.missing():
            self.get_logger().warning(missing)
        keep_what_is_loaded()
        return TransitionCallbackReturn.SUCCESS

    def _stop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            if not stream.stop(_STOP_PATIENCE):
                self._unfinished = stream
                self.get_logger().error(f"the frame at work did not finish in {_STOP_PATIENCE:g} s")
            self._outputs.clear()

    def _release(self) -> None:
        outputs, self._outputs = self._outputs, None
        pipeline, self._pipeline = self._pipeline, None
        server, self._identity_server = self._identity_server, None
        self._loaded = ()
        if server is not None:
            server.close()  # a draw that waits for it would hold up the pipeline's end
        if pipeline is not None:
            closing = threading.Thread(target=pipeline.close, daemon=True)
            closing.start()
            if self._busy() is None:  # else it is closed once the frame at work is through
                closing.join(_STOP_PATIENCE)
                if closing.is_alive():
                    self.get_logger().error(f"the identity at work did not finish in {_STOP_PATIENCE:g} s")
        if outputs is not None:
            if self._busy() is not None:
                self._outlived.append(outputs)
                return
            outputs.destroy()
            outputs = pipeline = None  # nobody holds them any more
            give_memory_back()

    def _busy(self) -> FaceStream | None:
        """The stream that works: the active one, or one whose last frame does not end."""
        if self._stream is not None:
            return self._stream
        return self._unfinished if self._unfinished is not None and self._unfinished.working else None

    # Services

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = request.data
        if self._stream is not None:
            self._stream.pause(not self._enabled)
        response.success = True
        response.message = "working" if self._enabled else "paused: images are ignored until enabled again"
        return response

    def _on_forget(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        pipeline, outputs = self._pipeline, self._outputs  # those of now, whenever it is done

        def forget() -> str:
            pipeline.forget()
            outputs.forget()
            return ""

        if pipeline is None:
            response.success, response.message = True, f"nothing is known: the node is {self.state}"
            return response
        if self._stream is not None:
            self._stream.drop_waiting()
        problem = self._between_frames(forget, still=True)
        response.success, response.message = not problem, problem or "every person is forgotten"
        return response

    def _on_reset_identity(
        self, request: ResetIdentity.Request, response: ResetIdentity.Response
    ) -> ResetIdentity.Response:
        pipeline, stream = self._pipeline, self._stream

        def reset() -> str:
            if pipeline.reset_identity(request.id or None):
                return ""
            return f"there is no face '{request.id}'; there are: {', '.join(stream.tracks) or 'none'}"

        problem = self._between_frames(reset) if stream else f"the node is {self.state}, not active"
        response.success, response.message = not problem, problem or "the identity is drawn anew"
        return response

    def _between_frames(self, action: Callable[[], str], still: bool = False) -> str:
        """Do it on the worker's thread, or here where there is none; '' or why it was not done. still: while nothing is
        drawn."""
        try:
            busy = self._busy()
            if busy is None:
                return action()
            return (busy.while_still if still else busy.between_frames)(action).result(_PATIENCE)
        except NotYet:
            return "the frame at work takes long; it will be done right after it"
        except Exception as error:
            self.get_logger().error(f"a service failed:\n{traceback.format_exc()}")
            return f"{type(error).__name__}: {error}"

    # Parameters

    def _take_up_settings(self) -> None:
        """Read the parameters; what the pipeline is to do differently, it is told between two frames."""
        before, self._settings = self._settings, read(self, OferSettings)
        now = self._settings
        if self._stream is None or (before.hypotheses, before.steps) == (now.hypotheses, now.steps):
            return

        pipeline = self._pipeline

        def resize() -> None:
            try:
                pipeline.set_hypotheses(now.hypotheses)
                pipeline.set_steps(now.steps or None)
            except ValueError as error:
                self._problems.report(str(error))

        self._stream.between_frames(resize)
        self._loaded = self._wanted()

    # Once a second

    def _each_second(self) -> None:
        self._take_up_settings()
        self._let_go()
        trouble = ""
        if self._stream is not None:
            trouble = self._watch.check(self._stream.inputs, self._settings) or self._pipeline.identity_trouble
            trouble = trouble or self._names.check()
            self._statistics.lost = self._lost_before + self._stream.inputs.lost
            if self._identity_server is not None:
                trouble = trouble or self._identity_server.trouble
        level, text = self._status(trouble)
        bundle = getattr(self._pipeline, "bundle", None)
        values = {"state": self.state, "enabled": self._enabled, **frame_values(self._statistics)}
        if self._pipeline is not None:
            self._expire()
            values |= self._pipeline.status()
        if self._identity_server is not None:
            values |= self._identity_server.status()
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

    def _expire(self) -> None:
        """Forget whom nobody has seen for long, by the thread that owns the pipeline: a frame that hangs delays it."""
        busy = self._busy()
        if busy is None:
            self._pipeline.expire()
        elif self._expired is None or self._expired.done():
            self._expired = busy.between_frames(self._pipeline.expire)

    def _let_go(self) -> None:
        """Destroy what was released while a frame still used it, once that frame has ended."""
        if self._unfinished is None or self._unfinished.working:
            return
        self._unfinished = None  # it holds its pipeline: 60 MB
        while self._outlived:
            self._outlived.pop().destroy()
        give_memory_back()

    def _status(self, trouble: str) -> tuple[bytes, str]:
        """Diagnostics level and reason, the worst first."""
        if self._load_problem and self._pipeline is None:
            return ERROR, self._load_problem
        if self.state != "active":
            return OK, self.state
        recent = self._problems.latest(within=RECENT)
        if recent:
            return (WARN if self._statistics.rate() > 0 else ERROR), recent
        if not self._enabled:
            return OK, "paused by ~/enable"
        return (WARN, trouble) if trouble else (OK, f"{self._statistics.rate():.1f} frames a second")


def main(args: list[str] | None = None) -> int:
    return run(OferNode, args, started=start)


if __name__ == "__main__":
    sys.exit(main())
