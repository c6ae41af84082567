"""The soak itself: two nodes as processes, a rough camera, a restless operator, and a count of what went wrong."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from ofer_models.runtime.memory import resident_megabytes
from ofer_msgs.msg import FaceArray
from ofer_msgs.srv import ResetIdentity
from ofer_ros.base.qos import FACES, NEWEST
from ofer_ros.demo.processes import Processes, own_domain
from ofer_ros.work.diagnostics import values_of
from tools.soak.camera import RoughCamera
from tools.soak.checks import AT_WORK, Memory, Scene3D, marker_heads, unaccounted

NODE = "/ofer_node"
SECOND = "/second/ofer_node"  # on the same camera, left alone
MOST_GROWTH = 20.0  # MB
_ANSWER = 60.0  # s that anything may take on a busy machine
_START = 90.0  # s until the node is there
# Live parameters and values the operator tries. The last ones are refused at work.
_LIVE = {
    "hypotheses": [1, 4, 8, 15], "steps": [0, 3, 5], "marker_rate": [5.0, 15.0, 30.0], "overlay_rate": [0.0, 5.0],
    "show_hypotheses": [True, False], "show_identity": [True, False], "show_uncertainty": [True, False],
    "show_landmarks": [True, False], "show_text": [True, False], "show_mesh": [True, True, False],
    "hypotheses_side_by_side": [True, False], "publish_tf": [True, False], "max_frame_age": [0.3, 1.0],
}  # fmt: skip
_NODE_VALUES = (
    "frames_in", "frames_lost", "frames_processed", "frames_dropped", "bad_images", "failures", "tier",
)  # fmt: skip
_REFUSED = {
    "hypotheses": [0, 65],
    "steps": [2],
    "marker_rate": [-1.0],
    "bundle": ["other"],
    "sync": ["exact"],
    "max_faces": [2],
}


@dataclass(frozen=True)
class SoakPlan:
    """seconds: length. stops, cycles, resolutions, calibrations, transports, clocks, turns: how often, evenly over it.
    rate: Hz of the camera.
    """

    seconds: float = 600.0
    stops: int = 5
    cycles: int = 20
    resolutions: int = 20
    calibrations: int = 20
    transports: int = 6
    clocks: int = 7
    turns: int = 12
    rate: float = 15.0
    broken_share: float = 0.01

    @property
    def settled(self) -> float:
        """Seconds after which memory must not grow any more: a minute, or half of a short run."""
        return min(60.0, self.seconds / 2)

    @property
    def judges_memory(self) -> bool:
        """Whether the run is long enough for everything to have been used once before."""
        return self.seconds >= 60


class Soak(Node):
    """The operator: drives node and camera by a timetable and notes in `problems` whatever is not as it should be."""

    def __init__(self, plan: SoakPlan, pids: Mapping[str, int], say: Callable[[str], object]) -> None:
        """pids: of the nodes, by full name; say: tells how far it is."""
        super().__init__("soak")
        self._plan = plan
        self._pids = pids
        self._say = say
        self._rng = np.random.default_rng(1)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.scene = Scene3D()
        self.memory = {node: Memory(plan.settled) for node in pids}
        self.empty = Memory(0.0)  # of the node with nothing loaded
        self.levels: Counter[str] = Counter()
        self._values: dict[str, dict[str, str]] = {node: {} for node in pids}
        self._received = 0
        self._begun = time.monotonic()
        self._active = False
        self.create_subscription(FaceArray, f"{NODE}/faces", self._on_faces, FACES)
        self.ids: dict[str, set[str]] = {NODE: set(), SECOND: set()}
        self.create_subscription(FaceArray, f"{SECOND}/faces", self._on_second, FACES)
        self.create_subscription(MarkerArray, f"{NODE}/markers", self._on_markers, NEWEST, raw=True)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, QoSProfile(depth=10))
        self._change = self.create_client(ChangeState, f"{NODE}/change_state")
        self._get = self.create_client(GetState, f"{NODE}/get_state")
        self._set = self.create_client(SetParameters, f"{NODE}/set_parameters")
        self._forget = self.create_client(Trigger, f"{NODE}/forget")
        self._reset = self.create_client(ResetIdentity, f"{NODE}/reset_identity")

    # What arrives

    def _on_faces(self, message: FaceArray) -> None:
        self._received += 1
        self.counts["answers"] += 1
        self.counts["faces"] += len(message.faces)
        self.ids[NODE] |= {face.id for face in message.faces}

    def _on_second(self, message: FaceArray) -> None:
        self.counts["second_answers"] += 1
        self.ids[SECOND] |= {face.id for face in message.faces}

    def _on_markers(self, data: bytes) -> None:
        self.scene.message(marker_heads(data), time.monotonic())

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for node, pid in self._pids.items():
            values = values_of(message, f"{node[1:]}: faces")
            if values is None:
                continue
            self._values[node] = values
            self.memory[node].add(time.monotonic() - self._begun, round(resident_megabytes(pid), 1))
            if not 0 <= unaccounted(values) <= (AT_WORK if values["state"] == "active" else 0):
                self.problems.append(f"{node}, {values['state']}: {unaccounted(values)} frames are not accounted for")
            if node == NODE:
                self.levels[{b"\0": "ok", b"\1": "warn", b"\2": "error"}[bytes(message.status[0].level)]] += 1

    # What it does

    def spin(self, seconds: float, until: Callable[[], object] = lambda: False) -> bool:
        """Listen for so long, or until the condition holds; whether it did."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if until():
                return True
            self._executor.spin_once(timeout_sec=0.05)
        return bool(until())

    def _call(self, client, request):
        if not self.spin(_ANSWER, client.service_is_ready):
            self.problems.append(f"{client.srv_name} is gone")
            return None
        future = client.call_async(request)
        if not self.spin(_ANSWER, future.done):
            self.problems.append(f"{client.srv_name} did not answer within {_ANSWER:g} s")
            return None
        return future.result()

    def _transition(self, label: str, expected: str, possible: bool = True) -> None:
        request = ChangeState.Request()
        request.transition.label = label
        answer = self._call(self._change, request)
        state = self._call(self._get, GetState.Request())
        self.counts["transitions"] += 1
        if answer is None or state is None:
            return
        if answer.success is not possible or state.current_state.label != expected:
            self.problems.append(
                f"{label}: success {answer.success}, state {state.current_state.label}; expected {possible}, {expected}"
            )

    def begin(self) -> None:
        """Bring the node up."""
        if not self.spin(_START, self._change.service_is_ready):
            self.problems.append(f"the node did not appear within {_START:g} s")
        self._transition("configure", "inactive")
        self._transition("activate", "active")
        self.spin(_START, lambda: self.ids[SECOND])
        self._active = True
        self._begun = time.monotonic()

    def cycle(self, camera: RoughCamera) -> None:
        """Down and up again through every state, with a request that makes no sense on the way."""
        self._active = False
        self._transition("deactivate", "inactive")
        if not self.spin(_ANSWER, lambda: self.scene.cleared):
            self.problems.append(f"markers stayed after deactivate: {sorted(self.scene.shown)[:5]}")
        self._transition("deactivate", "inactive", possible=False)
        self._transition("cleanup", "unconfigured")
        self.empty.add(time.monotonic() - self._begun, round(resident_megabytes(self._pids[NODE]), 1))
        self._transition("activate", "unconfigured", possible=False)
        self._transition("configure", "inactive")
        self._transition("activate", "active")
        self.scene.pause()
        self._active = True
        self.counts["cycles"] += 1
        self._expect_frames("after a cycle")

    def stop_camera(self, camera: RoughCamera, seconds: float) -> None:
        """The camera goes and comes back."""
        camera.stop()
        self.spin(seconds)
        self.scene.pause()
        camera.start()
        self._expect_frames("after the camera came back")

    def _expect_frames(self, when: str) -> None:
        before = self._received
        if not self.spin(_ANSWER, lambda: self._received > before):
            self.problems.append(f"no frame {when} within {_ANSWER:g} s; diagnostics: {self._values[NODE]}")

    def set_parameter(self) -> None:
        """One live parameter to a value that must be taken, or now and then one that must be refused."""
        refused = self._rng.random() < 0.2
        table = _REFUSED if refused else _LIVE
        name = str(self._rng.choice(sorted(table)))
        value = table[name][int(self._rng.integers(len(table[name])))]
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        answer = self._call(self._set, request)
        self.counts["parameters_refused" if refused else "parameters"] += 1
        if answer is not None and answer.results[0].successful is refused:
            self.problems.append(f"{name} := {value}: {answer.results[0]}")
        if answer is not None and refused and not answer.results[0].reason:
            self.problems.append(f"{name} := {value} was refused without a reason")

    def ask_a_service(self) -> None:
        """Forget everybody, or draw every identity anew."""
        if self._rng.random() < 0.5:
            answer = self._call(self._forget, Trigger.Request())
        else:
            answer = self._call(self._reset, ResetIdentity.Request())
        self.counts["services"] += 1
        if answer is not None and not answer.success:
            self.problems.append(f"a service failed: {answer.message}")

    def run(self, camera: RoughCamera) -> None:
        """The timetable: each kind of event evenly over the run, parameters each second, services every five."""
        plan, pause = self._plan, min(5.0, 0.03 * self._plan.seconds)
        kinds: list[tuple[int, Callable[[], None]]] = [
            (plan.stops, lambda: self.stop_camera(camera, pause)),
            (plan.cycles, lambda: self.cycle(camera)),
            (plan.resolutions, camera.change_resolution),
            (plan.calibrations, camera.change_calibration),
            (plan.transports, camera.change_transport),
            (plan.clocks, camera.change_stamps),
            (plan.turns, camera.turn),
            (int(plan.seconds), self.set_parameter),
            (int(plan.seconds / 5), self.ask_a_service),
        ]
        events = [(plan.seconds * (n + 0.5) / count, act) for count, act in kinds for n in range(count)]
        told = 0.0
        for at, act in sorted(events, key=lambda event: event[0]):
            self.spin(self._begun + at - time.monotonic())
            act()
            if at - told >= 30:
                told = at
                self._say(f"{at:.0f} s: {dict(self.counts)}, {self.memory[NODE].summary()['last_mb']:.0f} MB")
        self.spin(self._begun + plan.seconds - time.monotonic())

    def end(self) -> None:
        """Take the node down, in order."""
        self._transition("deactivate", "inactive")
        self._transition("cleanup", "unconfigured")
        self._transition("shutdown", "finalized")
        if not self.spin(_ANSWER, lambda: self.scene.cleared):
            self.problems.append("markers stayed at the end")

    def judge(self, log: str) -> None:
        """What only shows at the end. log: of both nodes."""
        for mark in ("Traceback", "[ERROR]", "[FATAL]", "frame failed", "reset failed"):
            lines = [line for line in log.splitlines() if mark in line]
            if lines:
                self.problems.append(f"{len(lines)} log line(s) with {mark}: {lines[0]}")
        if self.scene.stale:
            self.problems.append(f"stale markers: {dict(self.scene.stale.most_common(5))}")
        # What the first node holds at work depends on what it is asked for just then.
        for node, memory in ((SECOND, self.memory[SECOND]), (f"{NODE} with nothing loaded", self.empty)):
            if self._plan.judges_memory and memory.growth > MOST_GROWTH:
                self.problems.append(f"memory of {node} grew by {memory.growth:.1f} MB")
        if not self.counts["faces"]:
            self.problems.append("no face was ever found")
        if not self.ids[SECOND]:
            self.problems.append("the second node never found a face")
        shared = self.ids[NODE] & self.ids[SECOND]
        if shared:
            self.problems.append(f"two nodes share ids of faces: {sorted(shared)[:5]}")

    def summary(self, camera: RoughCamera) -> dict:
        known = sum(int(self._values[SECOND].get(name, 0)) for name in ("frames_in", "frames_lost"))
        return {
            "plan": asdict(self._plan),
            "seconds": round(time.monotonic() - self._begun, 1),
            "camera": dict(camera.counts),
            "counts": dict(self.counts),
            "memory": self.memory[NODE].summary(),
            "second_memory": self.memory[SECOND].summary(),
            "empty_memory": {"growth_mb": round(self.empty.growth, 1), "mb": [size for _, size in self.empty.samples]},
            "diagnostics": dict(self.levels),
            "node": {name: self._values[NODE].get(name) for name in _NODE_VALUES},
            "second": {name: self._values[SECOND].get(name) for name in _NODE_VALUES},
            # Of the camera's frames, those that the second node neither took nor knows to be lost.
            "second_missed": camera.counts["frames"] - known,
            "problems": self.problems,
        }


def run_soak(plan: SoakPlan, out: Path, say: Callable[[str], object] = print) -> dict:
    """Run it; returns the summary, which soak.json in `out` holds as well. `problems` is empty when all was well."""
    out.mkdir(parents=True, exist_ok=True)
    with own_domain() as domain, Processes(out / "logs", domain) as processes:
        os.environ.update(domain)
        rclpy.init()
        processes.start("ofer_node", "ofer_ros.nodes.ofer_node", {"hypotheses": 15})
        same = ("__ns:=/second", "image_raw:=/image_raw", "camera_info:=/camera_info")
        processes.start("second", "ofer_ros.nodes.ofer_node", {"hypotheses": 4, "autostart": True}, same)
        soak = Soak(plan, {NODE: processes.pid("ofer_node"), SECOND: processes.pid("second")}, say)
        camera = RoughCamera(soak, plan.rate, plan.broken_share)
        try:
            soak.begin()
            soak.run(camera)
            soak.end()
        finally:
            camera.close()
        names = ("ofer_node", "second")
        soak.problems += [
            f"{name} ended by itself: status {processes.status(name)}"
            for name in names
            if processes.status(name) is not None
        ]
        processes.stop(*names)
        soak.problems += [
            f"{name} ended with status {processes.status(name)}" for name in names if processes.status(name) != 0
        ]
        soak.judge("".join(processes.log_file(name).read_text(errors="replace") for name in names))
        summary = soak.summary(camera)
    soak.destroy_node()
    rclpy.try_shutdown()
    (out / "soak.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary
