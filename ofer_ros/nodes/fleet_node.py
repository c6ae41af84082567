"""fleet_node: the faces of several cameras in one process, on one set of networks.

Each camera has a lifecycle node `ofer_node` of its own in its namespace, with all topics, services, parameters and
diagnostics of that node. They share networks and the thread that does the work (`CameraLoop`), where the frames of all
cameras go through the networks in one batch. Transitions of fleet_node are made by all cameras.
"""

from __future__ import annotations

import os
import re
import sys
import threading

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from ofer_models.camera_batch import SharedStages
from ofer_models.pipeline import FacePipeline
from ofer_models.runtime.memory import resident_megabytes
from ofer_ros.base.bundles import load_bundle
from ofer_ros.base.parameters import declare, read
from ofer_ros.base.settings import FleetSettings, OferSettings
from ofer_ros.nodes.lifecycle import ManagedNode, guarded, run, start
from ofer_ros.nodes.ofer_node import OferNode
from ofer_ros.work.camera_loop import CameraLoop
from ofer_ros.work.diagnostics import OK, WARN, diagnostics_message

NAME = "fleet_node"
_STOP_PATIENCE = 10.0  # seconds that cleanup waits for frames and draws at work
_NAMESPACE = re.compile(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*")


def camera_namespaces(cameras: str) -> list[str]:
    """The namespaces that the parameter names. Raises ValueError."""
    names = [name.strip() for name in cameras.split(",") if name.strip()]
    wrong = [name for name in names if not _NAMESPACE.fullmatch(name)]
    if not names or wrong:
        told = f"{wrong[0]!r} is no namespace" if wrong else "it is empty"
        raise ValueError(f"cameras: {told}; give the cameras' namespaces, such as cameras:=front,rear")
    if len({name.lstrip("/") for name in names}) < len(names):
        raise ValueError(f"cameras: one of {cameras} is named twice")
    return names


class FleetNode(ManagedNode):
    """All cameras of a fleet. Raises ValueError for cameras that cannot be."""

    def __init__(self, **kwargs) -> None:
        super().__init__(NAME, **kwargs)
        declare(self, NAME, FleetSettings, active=lambda: self.state == "active")
        self.settings = read(self, FleetSettings)
        names = camera_namespaces(self.settings.cameras)
        threads = self.settings.perception_threads or len(os.sched_getaffinity(0))
        self._stages = SharedStages()
        self._loop = CameraLoop(self.settings.collect / 1000, min(threads, len(names)))
        self.cameras = {name: self._camera(name) for name in names}
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._each_second, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def spun(self) -> list[ManagedNode]:
        """Itself and the cameras' nodes."""
        return [*self.cameras.values(), self]

    def _camera(self, name: str) -> OferNode:
        def make(settings: OferSettings) -> FacePipeline:
            return self._stages.pipeline(load_bundle(settings.bundle), settings.pipeline(f"/{name}/ofer_node"))

        return OferNode(make, self._loop, namespace=name)

    @guarded
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._all("unconfigured", "trigger_configure")

    @guarded
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._all("inactive", "trigger_activate")

    @guarded
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._all("active", "trigger_deactivate")

    @guarded
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        answer = self._all("inactive", "trigger_cleanup")
        self._let_go()
        return answer

    @guarded
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def _all(self, state: str, transition: str) -> TransitionCallbackReturn:
        """Have every camera in `state` make the transition; FAILURE where there are some and none could."""
        asked = [camera for camera in self.cameras.values() if camera.state == state]
        made = [getattr(camera, transition)() == TransitionCallbackReturn.SUCCESS for camera in asked]
        return TransitionCallbackReturn.SUCCESS if any(made) or not asked else TransitionCallbackReturn.FAILURE

    def close(self) -> None:
        """Stop all cameras and let go of everything."""
        for camera in self.cameras.values():
            camera.close()
        self._loop.close()
        self._let_go()

    def _let_go(self) -> None:
        """Close the networks, those that a frame or a draw does not leave in time once it has ended."""
        stages, self._stages = self._stages, SharedStages()
        closing = threading.Thread(target=stages.close, daemon=True)
        closing.start()
        closing.join(_STOP_PATIENCE)

    def _each_second(self) -> None:
        rates = {name: camera.statistics.rate() for name, camera in self.cameras.items()}
        active = [name for name, camera in self.cameras.items() if camera.state == "active"]
        silent = [name for name in active if not rates[name]]
        values = {
            "state": self.state, "cameras": len(self.cameras), "active": len(active),
            "fps": f"{sum(rates.values()):.1f}", "rounds": self._loop.rounds, "frames_processed": self._loop.frames,
            "frames_a_round": f"{self._loop.frames / max(self._loop.rounds, 1):.2f}",
            "memory_mb": f"{resident_megabytes():.1f}",
            **{f"fps/{name}": f"{rate:.1f}" for name, rate in rates.items()},
        }  # fmt: skip
        text = f"no frames of {', '.join(silent)}" if silent else f"{sum(rates.values()):.1f} frames a second"
        name = f"{self.get_fully_qualified_name().lstrip('/')}: cameras"
        level = WARN if silent else OK
        self._diagnostics.publish(diagnostics_message(name, "", level, text, values, self.get_clock().now()))


def main(args: list[str] | None = None) -> int:
    return run(FleetNode, args, started=start)


if __name__ == "__main__":
    sys.exit(main())
