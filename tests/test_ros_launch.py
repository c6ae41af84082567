"""The launch files under the real launch and launch_ros, which are not on the Python registry: else skipped."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")
pytest.importorskip("launch_ros", reason="ros-<distribution>-launch-ros")

import importlib.util
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from launch import LaunchContext
from launch.actions import DeclareLaunchArgument
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from ros_support import LIMIT, RosSession
from visualization_msgs.msg import MarkerArray

from ofer_msgs.msg import FaceArray
from ofer_ros.base.settings import CameraSettings, OferSettings

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[1]
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

source = PythonLaunchDescriptionSource(sys.argv[1])
service = LaunchService()
service.include_launch_description(LaunchDescription([
    IncludeLaunchDescription(source, launch_arguments=[argument.split(":=", 1) for argument in sys.argv[2:]])]))
sys.exit(service.run())
"""


OFER_ARGUMENTS = " ".join(
    [
        "autostart bundle camera camera_info cameras fixed_frame image log_level name namespace params_file rviz",
        "source use_sim_time hypotheses show_text rate loop",  # and every other parameter
        *sorted({item.name for kind in (OferSettings, CameraSettings) for item in fields(kind)}),
    ]
)


def description(name: str):
    spec = importlib.util.spec_from_file_location("launch_file", ROOT / "launch" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ofer.launch.py", OFER_ARGUMENTS),
        ("mesh.launch.py", "bundle hypotheses namespace node params_file"),
    ],
)
def test_arguments_are_described(name, expected):
    arguments = {argument.name: argument for argument in description(name).get_launch_arguments()}
    assert set(arguments) == set(expected.split())
    assert all(isinstance(argument, DeclareLaunchArgument) for argument in arguments.values())
    assert all(argument.description and "no description" not in argument.description for argument in arguments.values())


def test_the_description_visits_without_complaint():
    """Substitutions of defaults need an installed package; what needs none must not raise."""
    context = LaunchContext()
    for name in ("ofer.launch.py", "mesh.launch.py"):
        assert description(name).visit(context)


@pytest.fixture
def installed(tmp_path) -> Path:
    """What an installation of ofer_ros looks like to ament: a marker, share/ and starters in lib/."""
    prefix = tmp_path / "prefix"
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "ofer_ros").touch()
    share, programs = prefix / "share" / "ofer_ros", prefix / "lib" / "ofer_ros"
    share.mkdir()
    programs.mkdir(parents=True)
    for folder in ("config", "launch", "engines"):
        (share / folder).symlink_to(ROOT / folder)
    for name in ("ofer_node", "camera_node", "identity_server", "mesh_node", "rviz"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ofer_ros.nodes.{name} "$@"\n')
        program.chmod(0o755)
    return prefix


@contextmanager
def launched(session: RosSession, prefix: Path, log: Path, name: str, *arguments: str):
    """`ros2 launch ofer_ros NAME ARGUMENTS`, interrupted at the end as Ctrl-C does."""
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(session.domain),
        "AMENT_PREFIX_PATH": f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}",
        "ROS_LOG_DIR": str(log.parent),
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(prefix / "share" / "ofer_ros" / "launch" / name), *arguments],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(90)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_camera_node_and_link_run_under_launch(open_bundle, installed, tmp_path):
    with RosSession() as session:
        faces, markers = [], []
        client = session.client
        client.create_subscription(FaceArray, "/robot/ofer_node/faces", lambda m: m.faces and faces.append(m), 10)
        client.create_subscription(MarkerArray, "/far/mesh_node/markers", markers.append, 10)
        near, far = tmp_path / "near.log", tmp_path / "far.log"
        with (
            launched(session, installed, near, "ofer.launch.py", "namespace:=robot", "camera:=true") as one,
            launched(session, installed, far, "mesh.launch.py", "namespace:=far", "node:=/robot/ofer_node") as other,
        ):
            session.wait_for(lambda: faces and any(m.markers and m.markers[0].points for m in markers), 2 * LIMIT)
            state = session.call(GetState, "/robot/ofer_node/get_state", GetState.Request()).current_state.label
            assert state == "active", "autostart"
            names = (
                set(client.get_fully_qualified_node_names())
                if hasattr(client, "get_fully_qualified_node_names")
                else {f"{space.rstrip('/')}/{name}" for name, space in client.get_node_names_and_namespaces()}
            )
            assert {"/robot/ofer_node", "/robot/camera_node", "/far/mesh_node"} <= names
            assert one.poll() is None and other.poll() is None
            assert "faces_selected" in " ".join(name for name, _ in client.get_topic_names_and_types())
            assert client.count_subscribers("/robot/ofer_node/faces_selected") == 1
        logs = near.read_text() + far.read_text()
        assert "Traceback" not in logs
        assert logs.count("process has finished cleanly") == 3
        assert one.returncode == other.returncode == 0


def test_parameters_name_time_and_rviz_by_argument(open_bundle, installed, tmp_path):
    """RViz itself is not among the wheels: a program of its name tells what it was given."""
    (tmp_path / "bin").mkdir()
    rviz = tmp_path / "bin" / "rviz2"
    rviz.write_text(f"#!/bin/sh\nprintf '%s ' \"$@\" > {tmp_path}/rviz_arguments.part\n"
                    f"mv {tmp_path}/rviz_arguments.part {tmp_path}/rviz_arguments\nexec sleep 60\n")  # fmt: skip
    rviz.chmod(0o755)
    given = ["name:=left", "camera:=true", "hypotheses:=4", "frame_id:=left_eye", "show_text:=true", "rviz:=true"]
    with RosSession() as session:
        path = os.environ["PATH"]
        os.environ["PATH"] = f"{tmp_path}/bin:{path}"
        try:
            with launched(session, installed, tmp_path / "log", "ofer.launch.py", *given) as process:
                session.wait_for((tmp_path / "rviz_arguments").exists, 2 * LIMIT)
                answer = session.call(GetParameters, "/left/get_parameters", GetParameters.Request(
                    names=["hypotheses", "show_text", "use_sim_time", "bundle"]))  # fmt: skip
                values = answer.values
                assert (values[0].integer_value, values[1].bool_value, values[2].bool_value) == (4, True, False)
                assert values[3].string_value == "open", "what is not given stays as the file says"
        finally:
            os.environ["PATH"] = path
    arguments = (tmp_path / "rviz_arguments").read_text()
    assert arguments.startswith("-f left_eye -d ") and "ofer_node/markers:=left/markers" in arguments
    assert process.returncode == 0


def test_without_autostart_the_node_waits_for_a_manager(open_bundle, installed, tmp_path):
    with RosSession() as session:
        log = tmp_path / "log"
        with launched(session, installed, log, "ofer.launch.py", "autostart:=false", "bundle:=open"):
            answer = session.call(GetState, "/ofer_node/get_state", GetState.Request())
            time.sleep(0.5)
            assert answer.current_state.label == "unconfigured"
        assert "process has finished cleanly" in log.read_text()
