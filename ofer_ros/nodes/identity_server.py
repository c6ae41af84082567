"""identity_server: draws and ranks candidate heads for nodes on other machines.

A lifecycle node with one service, `~/draw`, which is there while the node is active. It has IdGen and IdRank of a
bundle and neither pictures nor landmarks: contexts come in, ranked betas go out. Who asks is an `ofer_node` whose
parameter `identity_server` names this node; it draws itself while this one is gone.
"""

from __future__ import annotations

import sys
import time
import traceback

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from ofer_models.bundle.manifest import Bundle
from ofer_models.runtime.memory import resident_megabytes
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.identity_ranking import CandidateRanker
from ofer_models.tracking.identity_state import POOLED
from ofer_msgs.srv import DrawIdentity
from ofer_ros.base.bundles import bundle_folder
from ofer_ros.base.parameters import declare, read
from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.base.settings import IdentityServerSettings
from ofer_ros.nodes.lifecycle import LoadingNode, guarded, run, start
from ofer_ros.work.diagnostics import ERROR, OK, RECENT, WARN, diagnostics_message
from ofer_ros.work.identity_messages import answer, request_of

NAME = "identity_server"


class IdentityServer(LoadingNode):
    """Draws on the executor's thread, one request after the other; what waits too long, its client no longer wants."""

    def __init__(self, **kwargs) -> None:
        super().__init__(NAME, **kwargs)
        declare(self, NAME, IdentityServerSettings, active=lambda: self.state == "active")
        self.settings = read(self, IdentityServerSettings)
        self._problems = ProblemLog(self.get_logger().warning)
        self._bundle: Bundle | None = None
        self._stages: StageSet | None = None
        self._ranker: CandidateRanker | None = None
        self._loaded: IdentityServerSettings | None = None
        self._load_problem = ""
        self._service = None
        self._draws = self._refused = 0
        self._last_ms = 0.0
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._each_second, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @guarded
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._load("configure")

    @guarded
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._loaded != read(self, IdentityServerSettings):
            answer = self._load("activate")
            if answer != TransitionCallbackReturn.SUCCESS:
                return answer
        self._service = self.create_service(DrawIdentity, "~/draw", self._on_draw)
        self.get_logger().info(
            f"active: {self._service.srv_name}; bundle '{self._bundle.name}' {self._bundle.version} "
            f"({self._bundle.sha256[:12]}) on {self._stages.backend}"
        )
        return TransitionCallbackReturn.SUCCESS

    def _load(self, step: str) -> TransitionCallbackReturn:
        """Open the networks as the parameters say; one line and FAILURE when they cannot be opened."""
        self._release()
        self.settings = read(self, IdentityServerSettings)
        try:
            self._bundle = Bundle.load(bundle_folder(self.settings.bundle))
            self._stages = StageSet(
                self._bundle, self.settings.threads, backend=self.settings.backend, names=("idgen", "idrank")
            )
            self._ranker = CandidateRanker(self._stages)
            if self._stages.runtime.captures:
                self._ranker.warm_up(self._bundle.candidates, POOLED)
        except (ValueError, OSError) as error:
            self._release()
            self._load_problem = f"cannot {step}: {error}"
            self.get_logger().error(self._load_problem)
            return TransitionCallbackReturn.FAILURE
        self._load_problem, self._loaded = "", self.settings
        return TransitionCallbackReturn.SUCCESS

    def _stop(self) -> None:
        service, self._service = self._service, None
        if service is not None:
            self.destroy_service(service)

    def _release(self) -> None:
        stages, self._stages = self._stages, None
        self._bundle = self._ranker = self._loaded = None
        if stages is not None:
            stages.close()

    def _on_draw(self, request: DrawIdentity.Request, response: DrawIdentity.Response) -> DrawIdentity.Response:
        started = time.perf_counter()
        try:
            wish = request_of(request, self._ranker, self._bundle.sha256)
            self._ranker.set_steps(wish.steps)
            answer(response, self._ranker(wish))
        except Exception as error:
            known = isinstance(error, ValueError)
            told = f"{error}" if known else f"{type(error).__name__}: {error}"
            response.success, response.message = False, told
            self._refused += 1
            self._problems.report(f"a request is refused: {told}" + ("" if known else f"\n{traceback.format_exc()}"))
            return response
        self._draws, self._last_ms = self._draws + 1, 1000 * (time.perf_counter() - started)
        return response

    def _each_second(self) -> None:
        bundle, recent = self._bundle, self._problems.latest(within=RECENT)
        if self._load_problem and bundle is None:
            level, text = ERROR, self._load_problem
        elif recent:
            level, text = WARN, recent
        else:
            level, text = OK, f"{self._draws} draws" if self.state == "active" else self.state
        values = {
            "state": self.state, "draws": self._draws, "refused": self._refused, "draw_ms": f"{self._last_ms:.1f}",
            "memory_mb": f"{resident_megabytes():.1f}",
            "gpu_memory_mb": f"{(self._stages.runtime.memory if self._stages else 0) / 2**20:.1f}",
        }  # fmt: skip
        self._diagnostics.publish(
            diagnostics_message(
                f"{self.get_fully_qualified_name().lstrip('/')}: heads",
                f"{bundle.name} {bundle.version}" if bundle else "", level, text, values, self.get_clock().now(),
            )
        )  # fmt: skip


def main(args: list[str] | None = None) -> int:
    return run(IdentityServer, args, started=start)


if __name__ == "__main__":
    sys.exit(main())
