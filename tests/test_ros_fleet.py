"""fleet_node: several cameras in one process."""

from __future__ import annotations

import pytest

from ofer_ros.base.qos import FACES

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import os
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise

import cv2
from dataset_support import face_picture
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from ros_support import RosSession, image_message
from sensor_msgs.msg import Image

from ofer_models.perception.tracker import KEEP_LOST
from ofer_msgs.msg import FaceArray
from ofer_ros.nodes.fleet_node import camera_namespaces
from ofer_ros.work.diagnostics import values_of

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("cameras", ["", " , ", "a b", "1st", "a,/a", "a,a", "a//b", "a/"])
def test_cameras_that_cannot_be_are_refused(cameras):
    with pytest.raises(ValueError, match="^cameras: "):
        camera_namespaces(cameras)


def test_namespaces_are_separated_by_commas():
    assert camera_namespaces("front, robot1/rear,/top") == ["front", "robot1/rear", "/top"]


class Fleet(RosSession):
    """`python -m ofer_ros.nodes.fleet_node` and cameras that come and go."""

    def __init__(self, log, *names: str) -> None:
        super().__init__()
        self.faces: dict[str, list[FaceArray]] = defaultdict(list)
        self.statuses: list[DiagnosticArray] = []
        for name in names:
            self.client.create_subscription(FaceArray, f"/{name}/ofer_node/faces", self.faces[name].append, FACES)
        self.client.create_subscription(DiagnosticArray, "/diagnostics", self.statuses.append, 10)
        self.cameras = {}
        self.picture = cv2.cvtColor(face_picture(), cv2.COLOR_BGR2RGB)
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ofer_ros.nodes.fleet_node", "--ros-args", "-p", f"cameras:={','.join(names)}",
                 "-p", "max_frame_age:=3600.0", "-p", "latency_bound:=0.0"],  # late on a busy machine, and yet a frame
                env={**os.environ, "ROS_DOMAIN_ID": str(self.domain)}, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.stamp = 100.0

    def see(self, *names: str) -> None:
        """Send frames of these cameras until each has had faces of one more."""
        for name in names:
            if name not in self.cameras:
                self.cameras[name] = self.client.create_publisher(Image, f"/{name}/image_raw", 5)
        before = {name: len(self.faces[name]) for name in names}

        def seen() -> bool:
            self.stamp += 0.01  # as long as it takes: time goes on as on the clock
            for name in names:
                self.cameras[name].publish(image_message(self.picture, stamp=self.stamp, frame_id=name))
            return all(any(m.faces for m in self.faces[name][before[name] :]) for name in names)

        self.wait_for(seen)

    def last_seen(self, name: str) -> FaceArray:
        """The last message of a camera that has a face."""
        return next(message for message in reversed(self.faces[name]) if message.faces)

    def kill(self, name: str) -> None:
        self.client.destroy_publisher(self.cameras.pop(name))


def test_cameras_come_and_go_and_the_others_do_not_notice(tmp_path):
    with Fleet(tmp_path / "log", "left", "right") as fleet:
        try:
            fleet.see("left")  # the other one was never there
            fleet.see("left", "right")
            first = {name: fleet.last_seen(name) for name in ("left", "right")}
            assert {message.header.frame_id for message in first.values()} == {"left", "right"}
            ids = {name: message.faces[0].id for name, message in first.items()}
            assert ids["left"] != ids["right"]
            fleet.kill("right")
            fleet.see("left")
            fleet.see("left")
            assert fleet.last_seen("left").faces[0].id == ids["left"]
            fleet.see("left", "right")
            names = ["fleet_node: cameras", "left/ofer_node: faces", "right/ofer_node: faces"]
            fleet.wait_for(lambda: all(any(values_of(m, name) for m in fleet.statuses) for name in names))
            values = next(v for m in reversed(fleet.statuses) if (v := values_of(m, names[0])))
            assert (values["cameras"], values["active"]) == ("2", "2")
        finally:
            fleet.process.terminate()
            assert fleet.process.wait(60) == 0, (tmp_path / "log").read_text()


def test_transitions_are_made_by_one_camera_or_by_all(tmp_path):
    with Fleet(tmp_path / "log", "left", "right") as fleet:

        def change(node: str, label: str) -> bool:
            request = ChangeState.Request()
            request.transition.label = label
            return fleet.call(ChangeState, f"/{node}/change_state", request).success

        def told(**expected: str) -> None:
            """Wait for the fleet's next status with these values."""
            fleet.statuses.clear()
            found = lambda message: values_of(message, "fleet_node: cameras") or {}  # noqa: E731
            fleet.wait_for(lambda: any(expected.items() <= found(m).items() for m in list(fleet.statuses)))

        def answered(name: str, *others: str) -> bool:
            """Whether a camera is answered while those others are."""
            before = len(fleet.faces[name])
            for _ in range(3):
                fleet.cameras[name].publish(image_message(fleet.picture, stamp=fleet.stamp))
                fleet.see(*others)
            return len(fleet.faces[name]) > before

        try:
            fleet.see("left", "right")
            assert change("left/ofer_node", "deactivate")
            assert not answered("left", "right")
            told(state="active", cameras="2", active="1")
            assert not change("left/ofer_node", "deactivate")  # it cannot twice
            assert change("fleet_node", "deactivate")
            told(state="inactive", active="0")
            assert change("fleet_node", "cleanup") and change("fleet_node", "configure")
            assert change("fleet_node", "activate")
            fleet.see("left", "right")
            told(state="active", active="2")
        finally:
            fleet.process.terminate()
            assert fleet.process.wait(60) == 0, (tmp_path / "log").read_text()


def test_camera_processes_are_killed_and_restarted(tmp_path):
    picture, log = tmp_path / "face.png", tmp_path / "log"
    cv2.imwrite(str(picture), face_picture())
    with Fleet(log, "left", "right") as fleet:

        def camera(name: str) -> subprocess.Popen:
            arguments = ["-r", f"__ns:=/{name}", "-p", f"source:={picture}", "-p", "rate:=10.0", "-p", "loop:=true"]
            return subprocess.Popen(
                [sys.executable, "-m", "ofer_ros.nodes.camera_node", "--ros-args", *arguments],
                env={**os.environ, "ROS_DOMAIN_ID": str(fleet.domain)},
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

        def seconds(message: FaceArray) -> float:
            return message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec

        def more(name: str, count: int) -> None:
            """Wait for further messages with a face."""
            before = len(fleet.faces[name])
            fleet.wait_for(lambda: sum(bool(m.faces) for m in fleet.faces[name][before:]) >= count)

        cameras = {name: camera(name) for name in ("left", "right")}
        try:
            for name in cameras:
                more(name, 2)
            for _ in range(2):
                cameras["right"].kill()
                cameras["right"].wait(60)
                more("left", 5)  # by then, nothing of the other one is under way
                silent = len(fleet.faces["right"])
                more("left", 5)
                assert len(fleet.faces["right"]) == silent
                cameras["right"] = camera("right")
                more("right", 2)
            for before, after in pairwise(m for m in fleet.faces["left"] if m.faces):
                if seconds(after) - seconds(before) < KEEP_LOST:  # else, on a machine that is busy, it is somebody new
                    assert before.faces[0].id == after.faces[0].id
        finally:
            for process in cameras.values():
                process.kill()
                process.wait(60)
            fleet.process.terminate()
            assert fleet.process.wait(60) == 0, log.read_text()
