"""ofer_node as users start it: a process of its own with the shipped bundle, seen over DDS and in its log alone."""

from __future__ import annotations

import pytest

from ofer_ros.base.qos import FACES, NEWEST

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from ros_support import LIMIT, RosSession, documented, documented_values, image_message, said_at_most, wait_for
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from skimage.data import astronaut
from visualization_msgs.msg import MarkerArray

from ofer_models.bundle import default_bundle
from ofer_msgs.msg import FaceArray
from ofer_ros.base.geometry import stamp_key
from ofer_ros.nodes.camera_node import camera_info

pytestmark = pytest.mark.ros
ALARMS = (DiagnosticStatus.WARN, DiagnosticStatus.ERROR)


class NodeProcess(RosSession):
    """`python -m ofer_ros.nodes.ofer_node` with parameters, and a client that sends it images and reads its answers."""

    def __init__(self, log: Path, **parameters: object) -> None:
        super().__init__()
        self._log = log
        self.faces: dict[int, FaceArray] = {}
        self.statuses: list = []
        subscribe = self.client.create_subscription
        subscribe(FaceArray, "/ofer_node/faces", lambda m: self.faces.update({stamp_key(m.header.stamp): m}), FACES)
        subscribe(DiagnosticArray, "/diagnostics", lambda message: self.statuses.extend(message.status), 10)
        self.images = self.client.create_publisher(Image, "/image_raw", 5)
        self.compressed = self.client.create_publisher(CompressedImage, "/image_raw/compressed", 5)
        self.infos = self.client.create_publisher(CameraInfo, "/camera_info", qos_profile_sensor_data)
        arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ofer_ros.nodes.ofer_node", "--ros-args", *arguments],
                env={**os.environ, "ROS_DOMAIN_ID": str(self.domain)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._time = 100.0

    def active(self) -> NodeProcess:
        """Wait until it listens to images and its faces reach us."""
        self.wait_for(lambda: self.infos.get_subscription_count() == 1)
        self.wait_for(lambda: self.client.count_publishers("/ofer_node/faces") == 1)
        self.wait_for(lambda: self.images.get_subscription_count() == 1)
        return self

    def next_stamp(self) -> float:
        self._time += 0.1
        return self._time

    def answer(self, pixels: np.ndarray, encoding: str = "rgb8") -> FaceArray:
        """The FaceArray of an image: sent again while it is overwritten by others or lost, as a camera would."""
        sent: set[int] = set()

        def arrived() -> FaceArray | None:
            message = image_message(pixels, encoding, self.next_stamp())
            sent.add(stamp_key(message.header.stamp))
            self.images.publish(message)
            time.sleep(0.2)
            return next((self.faces[key] for key in sent & self.faces.keys()), None)

        return self.wait_for(arrived)

    def status(
        self, condition: Callable[[DiagnosticStatus], bool], cause: Callable[[], object] = lambda: None
    ) -> DiagnosticStatus:
        """The next of the node's own diagnostics that meets the condition. cause: what leads to it, done again and
        again: the first may be lost, and the status tells of the last few seconds alone."""
        self.statuses.clear()

        def found() -> DiagnosticStatus | None:
            cause()
            time.sleep(0.2)
            return next((s for s in list(self.statuses) if s.name == "ofer_node: faces" and condition(s)), None)

        return self.wait_for(found)

    def log_lines(self, text: str) -> list[str]:
        return [line for line in self._log.read_text().splitlines() if text in line]

    def state(self) -> str:
        return self.call(GetState, "/ofer_node/get_state", GetState.Request()).current_state.label

    def change(self, label: str) -> bool:
        request = ChangeState.Request()
        request.transition.label = label
        return self.call(ChangeState, "/ofer_node/change_state", request).success

    def set(self, **values: object) -> list[bool]:
        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        return [result.successful for result in self.call(SetParameters, "/ofer_node/set_parameters", request).results]

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(LIMIT)

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        super().__exit__(*error)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """(480, 640, 3) RGB with one face."""
    return np.ascontiguousarray(cv2.resize(astronaut(), (640, 640))[:480])


@pytest.fixture(scope="module")
def running(open_bundle, tmp_path_factory) -> Iterator[NodeProcess]:
    log = tmp_path_factory.mktemp("ofer_node") / "log"
    # A frame that waits for a busy machine is still worth its work here, and all of it.
    with NodeProcess(log, autostart="true", max_frame_age=3600.0, latency_bound=0.0) as node:
        node.active()
        yield node
        assert node.process.poll() is None, "the node ended: " + log.read_text()
        assert not node.log_lines("Traceback")


def damaged(pixels: np.ndarray, encoding: str = "rgb8", **fields: object) -> Image:
    message = image_message(pixels, encoding)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


SMALL = np.full((48, 64, 3), 100, np.uint8)
BAD = {
    "truncated": (damaged(SMALL, data=SMALL.tobytes()[:-1]), "data is truncated: 9215 bytes"),
    "no-data": (damaged(SMALL, data=b""), "data is truncated: 0 bytes"),
    "unknown-encoding": (damaged(SMALL, encoding="32FC1"), "encoding '32FC1' is not supported"),
    "no-encoding": (damaged(SMALL, encoding=""), "encoding '' is not supported"),
    "other-encoding": (damaged(SMALL, encoding="rgba8"), "step 192 disagrees with the width: a row of 64 px in rgba8"),
    "zero-sized": (damaged(SMALL, width=0, height=0, step=0, data=b""), "the image is empty: 0 x 0"),
    "zero-width": (damaged(SMALL, width=0), "the image is empty: 0 x 48"),
    # As many rows as the shared memory of config/fastdds_local.xml passes on to a best-effort reader;
    # test_ros_node.py has the square one, within one process.
    "8000-pixel-wide": (damaged(np.zeros((2200, 8000), np.uint8), "mono8"), "8000 x 2200 are 17.6 million"),
    "8000-pixel-high": (damaged(np.zeros((8000, 2200), np.uint8), "mono8"), "2200 x 8000 are 17.6 million"),
    "8000-pixel-header": (damaged(SMALL, width=8000, height=8000), "8000 x 8000 are 64.0 million"),
    "step-too-small": (damaged(SMALL, step=191), "step 191 disagrees with the width"),
    "step-too-large": (damaged(SMALL, step=200), "data is truncated: 9216 bytes, but 48 rows of step 200"),
    "step-zero": (damaged(SMALL, step=0), "step 0 disagrees with the width"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_is_told_in_one_line_and_the_next_good_one_gives_a_face(running, photo, case):
    message, text = BAD[case]
    begun = time.monotonic()
    status = running.status(lambda status: text in status.message, lambda: running.images.publish(message))
    assert status.level in ALARMS
    assert "\n" not in status.message
    assert len(running.answer(photo).faces) == 1
    lines = running.log_lines(text)
    assert 1 <= len(lines) <= said_at_most(begun)
    assert all("[WARN]" in line for line in lines)
    assert running.state() == "active"


@pytest.mark.parametrize(
    ("encoding", "convert"),
    [
        ("mono8", lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)),
        ("mono16", lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257),
        ("rgb16", lambda rgb: rgb.astype(np.uint16) * 257),
        ("bgra8", lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA)),
    ],
)
def test_a_face_is_found_in_grey_and_16_bit_pictures(running, photo, encoding, convert):
    assert len(running.answer(convert(photo), encoding).faces) == 1


@pytest.mark.parametrize(("value", "text"), [(0.0, "not calibrated"), (float("nan"), "K is not finite")])
def test_a_camera_info_without_a_focal_length_is_told_and_faces_go_on_not_metric(running, photo, value, text):
    header = image_message().header
    running.infos.publish(camera_info(header, 640, 480, 60.0))
    running.wait_for(lambda: running.answer(photo).faces[0].metric)
    bad = CameraInfo(header=header, width=640, height=480, k=9 * [value])
    status = running.status(lambda status: text in status.message, lambda: running.infos.publish(bad))
    assert status.level in ALARMS
    assert "[WARN]" in running.log_lines("camera_info is not used")[-1]
    assert not running.answer(photo).faces[0].metric


def test_a_truncated_compressed_image_is_told_and_the_next_whole_one_gives_a_face(open_bundle, tmp_path, photo):
    jpeg = cv2.imencode(".jpg", photo[..., ::-1])[1].tobytes()
    with NodeProcess(tmp_path / "log", autostart="true", transport="compressed", max_frame_age=3600.0) as node:
        node.wait_for(lambda: node.compressed.get_subscription_count() == 1)
        node.wait_for(lambda: node.client.count_publishers("/ofer_node/faces") == 1)

        def send(data: bytes) -> None:
            message = CompressedImage(format="jpeg", data=data)
            message.header = image_message(stamp=node.next_stamp()).header
            node.compressed.publish(message)
            time.sleep(0.2)

        # Until the reader knows the writer as well, what is sent is lost.
        begun, half = time.monotonic(), jpeg[: len(jpeg) // 2]
        told = "the compressed image cannot be decoded: damaged or truncated"
        assert node.status(lambda status: told in status.message, lambda: send(half)).level in ALARMS
        lines = node.log_lines(told)
        assert 1 <= len(lines) <= said_at_most(begun)
        assert all("[WARN]" in line for line in lines)
        assert node.wait_for(lambda: send(jpeg) or [m for m in list(node.faces.values()) if m.faces])
        assert node.end(signal.SIGTERM) == 0
        assert not node.log_lines("Traceback")


def test_diagnostics_hold_what_is_documented(running, photo):
    running.answer(photo)
    status = running.status(lambda status: any(value.key.startswith("identity/") for value in status.values))
    assert {documented(value.key) for value in status.values} == documented_values()


def test_parameters_and_the_lifecycle_change_while_it_runs(running, photo):
    before = running.answer(photo).faces[0]
    assert before.num_hypotheses == 15
    assert running.set(hypotheses=0, mesh_region="neck") == [False, False]
    assert running.set(hypotheses=5, max_frame_age=9.0) == [True, True]
    assert running.set(bundle="/nowhere", sync="exact") == [False, False]
    for _ in range(2):
        assert running.change("deactivate")
        assert running.change("cleanup")
        assert running.change("configure")
        assert running.change("activate")
        running.faces.clear()
        running.active()
        assert running.answer(photo).faces[0].num_hypotheses == 5
    assert not running.change("configure")
    assert running.state() == "active"
    assert running.answer(photo).faces


def test_mesh_node_makes_identical_markers_in_a_third_process_from_1_kb_a_face(running, photo, tmp_path):
    near, far, sizes = [], [], []
    running.client.create_subscription(
        FaceArray, "/ofer_node/faces_selected", lambda data: sizes.append(len(data)), FACES, raw=True
    )
    running.client.create_subscription(MarkerArray, "/ofer_node/markers", near.append, NEWEST)
    running.client.create_subscription(MarkerArray, "/mesh_node/markers", far.append, NEWEST)

    def pairs() -> list[tuple[MarkerArray, MarkerArray]]:
        """What arrived from both of the same frame."""
        own, other = (
            {stamp_key(one.markers[0].header.stamp): one for one in list(found) if one.markers[0].points}
            for found in (near, far)
        )
        return [(own[key], other[key]) for key in own.keys() & other.keys()]

    topics = {"faces": "/ofer_node/faces_selected", "head_info": "/ofer_node/head_info"}
    remaps = [part for name, topic in topics.items() for part in ("-r", f"{name}:={topic}")]
    with (tmp_path / "log").open("w") as log:
        mesh_node = subprocess.Popen(
            [sys.executable, "-m", "ofer_ros.nodes.mesh_node", "--ros-args", *remaps],
            env={**os.environ, "ROS_DOMAIN_ID": str(running.domain)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        running.wait_for(lambda: running.answer(photo).faces and len(pairs()) >= 3)
    finally:
        mesh_node.kill()
        mesh_node.wait()
    both = pairs()
    assert all(one == other for one, other in both)
    assert len(both[0][0].markers[0].points) > 3000
    assert 500 < max(sizes) < 3000, "bytes of a message with one face"


# What a user's own program may look like: ROS, numpy and the message definitions, nothing of this project.
STRANGER = """
import json, sys
import numpy as np, rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from ofer_msgs.msg import FaceArray, HeadModel
from visualization_msgs.msg import MarkerArray

rclpy.init()
node = rclpy.create_node("stranger")
models, faces, markers = [], {}, {}
stamp = lambda message: (message.header.stamp.sec, message.header.stamp.nanosec)
latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
node.create_subscription(HeadModel, "/ofer_node/head_model", models.append, latched)
node.create_subscription(FaceArray, "/ofer_node/faces", lambda m: m.faces and faces.update({stamp(m): m}), 30)
node.create_subscription(MarkerArray, "/ofer_node/markers",
                         lambda m: m.markers[0].points and markers.update({stamp(m.markers[0]): m}), 1)
while not models or len(faces.keys() & markers.keys()) < 3:
    rclpy.spin_once(node)
(model,) = models
count = model.n_vertices
template = np.array(model.template_vertices).reshape(count, 3)
directions = np.array(model.directions).reshape(count, 3, -1)
correctives = np.array(model.jaw_correctives).reshape(count, 3, 9)
joint_directions = np.array(model.jaw_joint_directions).reshape(3, -1)
corners = np.array(model.face_triangles)
worst, meshes = 0.0, 0
for key in faces.keys() & markers.keys():
    for face, marker in zip(faces[key].faces, markers[key].markers):
        h = face.num_hypotheses
        rows = [(face.expression, face.jaw)]
        rows += zip(np.reshape(face.expressions, (h, -1)), np.reshape(face.jaws, (h, 3)))
        for row, (expression, jaw) in enumerate(rows):
            c = np.concatenate([face.shape, expression])
            angle = np.linalg.norm(jaw)
            x, y, z = np.array(jaw) / max(angle, 1e-12)
            k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
            turn = np.sin(angle) * k + (1 - np.cos(angle)) * k @ k
            v = template + directions @ c + correctives @ turn.ravel()
            joint = np.array(model.jaw_joint) + joint_directions @ c
            v = v + np.array(model.jaw_weights)[:, None] * ((v - joint) @ turn.T)
            q, t = face.pose.orientation, face.pose.position
            x, y, z, w = q.x, q.y, q.z, q.w
            r = np.array([[1 - 2*(y*y + z*z), 2*(x*y - z*w), 2*(x*z + y*w)],
                          [2*(x*y + z*w), 1 - 2*(x*x + z*z), 2*(y*z - x*w)],
                          [2*(x*z - y*w), 2*(y*z + x*w), 1 - 2*(x*x + y*y)]])
            v = v @ r.T + [t.x, t.y, t.z]
            assert np.isfinite(v).all() and v.shape == (count, 3)
            meshes += 1
            if row == 0:
                shown = np.array([(p.x, p.y, p.z) for p in marker.points])
                assert shown.shape == (len(corners), 3)
                worst = max(worst, float(np.linalg.norm(shown - v[corners], axis=1).max()))
expected = sum(1 + face.num_hypotheses for key in faces.keys() & markers.keys() for face in faces[key].faces)
ours = [name for name in sys.modules if name.split(".")[0] in ("ofer_ros", "ofer_models")]
told = {"worst": worst, "meshes": meshes, "expected": expected, "ours": ours, "bytes": 4 * len(model.directions)}
print(json.dumps(told))
"""


def test_a_program_that_knows_only_the_messages_rebuilds_every_mesh(running, photo, tmp_path):
    script = tmp_path / "stranger.py"
    script.write_text(STRANGER)
    root = str(Path(__file__).resolve().parents[1])
    paths = [path for path in os.environ["PYTHONPATH"].split(":") if path and os.path.abspath(path) != root]
    stranger = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "ROS_DOMAIN_ID": str(running.domain), "PYTHONPATH": ":".join(paths)},
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
    )
    try:
        running.wait_for(lambda: running.answer(photo).faces and stranger.poll() is not None, 2 * LIMIT)
    finally:
        stranger.kill()
    told = json.loads(stranger.stdout.read())
    assert told["ours"] == []
    assert told["meshes"] == told["expected"] >= 3 * 6, "the shown one and every hypothesis of each frame"
    assert told["worst"] < 1e-6  # metres


@pytest.mark.parametrize("damage", ["missing", "graph", "manifest"])
def test_a_node_without_a_bundle_says_so_stays_and_works_once_it_is_there(open_bundle, tmp_path, photo, damage):
    folder = tmp_path / "bundle"
    if damage != "missing":
        shutil.copytree(default_bundle(), folder)
        file = folder / {"graph": "expgen_step.onnx", "manifest": "manifest.yaml"}[damage]
        file.write_bytes(file.read_bytes()[:-100])
    with NodeProcess(tmp_path / "log", autostart="true", bundle=str(folder), max_frame_age=3600.0) as node:
        status = node.status(lambda status: status.level == DiagnosticStatus.ERROR)
        assert str(folder) in status.message
        assert "\n" not in status.message
        (line,) = node.log_lines("cannot configure")
        assert "[ERROR]" in line
        assert node.state() == "unconfigured"
        shutil.copytree(default_bundle(), folder, dirs_exist_ok=True)
        assert node.change("configure")
        assert node.change("activate")
        assert len(node.active().answer(photo).faces) == 1
        assert node.end() == 0
        assert not node.log_lines("Traceback")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("ofer_node", ["-p", "autostart:=false"]),
        ("mesh_node", []),
        ("identity_server", []),
        ("camera_node", ["-p", "source:=scene"]),
        ("recorder", ["-p", "output:={folder}"]),
    ],
)
def test_every_node_ends_on_a_signal_without_a_traceback(open_bundle, tmp_path, module, arguments, number):
    with RosSession() as session, (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"ofer_ros.nodes.{module}", "--ros-args"]
            + [argument.replace("{folder}", str(tmp_path / "out")) for argument in arguments],
            env={**os.environ, "ROS_DOMAIN_ID": str(session.domain)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            session.wait_for(lambda: module in session.client.get_node_names())
            time.sleep(0.3)  # inside spin
            process.send_signal(number)
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_the_last_markers_leave_before_the_process_does(open_bundle, tmp_path, photo):
    with NodeProcess(tmp_path / "log", autostart="true", max_frame_age=3600.0) as node:
        markers: list[MarkerArray] = []
        node.client.create_subscription(MarkerArray, "/ofer_node/markers", markers.append, NEWEST)
        node.active()
        node.wait_for(lambda: node.answer(photo).faces and markers)  # connected in both directions
        assert node.end() == 0
        node.wait_for(lambda: markers and markers[-1].markers[0].action == 3)  # DELETEALL


def interrupt(child: subprocess.Popen) -> None:
    """Send SIGINT, but not in the instant after an exec in which no program can have a handler yet."""

    def status() -> dict[str, str]:
        lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    def sent() -> bool:
        if child.poll() is not None:
            return True
        os.kill(child.pid, signal.SIGSTOP)
        wait_for(lambda: status()["State"][0] in "TZ")
        now, bit = status(), 1 << (signal.SIGINT - 1)
        heard = any(int(now.get(kind, "0"), 16) & bit for kind in ("SigBlk", "SigIgn", "SigCgt"))
        if heard:
            os.kill(child.pid, signal.SIGINT)
        os.kill(child.pid, signal.SIGCONT)
        return heard or now["State"][0] == "Z"

    wait_for(sent)


@pytest.mark.parametrize("module", ["ofer_node", "mesh_node", "rviz"])
def test_ctrl_c_ends_a_node_with_0_at_any_moment_also_twice(open_bundle, tmp_path, module):
    """A launch system signals the whole group and then each process: while it imports, and while it ends."""
    starter = Path(sys.executable).with_name(module)
    children = []
    with RosSession() as session:
        (tmp_path / "rviz2").touch(0o755)
        environment = {**os.environ, "ROS_DOMAIN_ID": str(session.domain)}
        environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
        for moment in (0.0, 0.05, 0.3, 0.8, 1.5, 3.0):
            log = (tmp_path / f"log{moment}").open("w")
            child = subprocess.Popen(
                [starter], env=environment, stdout=log, stderr=subprocess.STDOUT,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
            )  # fmt: skip
            children.append((moment, time.monotonic() + moment, child))
        try:
            for repeat in (0.0, 0.1, 0.3):
                for _, at, child in children:
                    time.sleep(max(0.0, at + repeat - time.monotonic()) if repeat == 0.0 else 0.02)
                    interrupt(child)
            assert {moment: child.wait(LIMIT) for moment, _, child in children} == {at: 0 for at, _, _ in children}
        finally:
            for _, _, child in children:
                child.kill()
    assert not any("Traceback" in log.read_text() for log in tmp_path.glob("log*"))


@pytest.mark.parametrize(
    ("environment", "arguments", "text"),
    [
        ({"ROS_LOG_DIR": "/proc/nowhere"}, [], "set ROS_LOG_DIR to a folder that can be written"),
        ({"ROS_LOG_DIR": "", "HOME": "/proc/nowhere"}, [], "set ROS_LOG_DIR to a folder that can be written"),
        ({"ROS_DOMAIN_ID": "abc"}, [], "ROS_DOMAIN_ID is not an integral number"),
        ({}, ["--params-file", "/nowhere.yaml"], "/nowhere.yaml"),
        ({}, ["--nonsense"], "ROS does not know the arguments ['--nonsense']"),
    ],
)
def test_what_ros_does_not_start_with_is_one_line(environment, arguments, text):
    ended = subprocess.run(
        [sys.executable, "-m", "ofer_ros.nodes.mesh_node", "--ros-args", *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("[ERROR]")]
    assert line.startswith("error: ") and text in line and "/project/" not in line


def test_starting_the_nodes_imports_nothing_heavy(open_bundle):
    code = (
        "import sys; import ofer_ros.nodes.camera_node, ofer_ros.nodes.mesh_node, ofer_ros.nodes.recorder;"
        "from ofer_ros.nodes.ofer_node import load_pipeline;"
        "from ofer_ros.base.parameters import defaults; from ofer_ros.base.settings import OferSettings;"
        "load_pipeline(OferSettings(**defaults('ofer_node')));"
        "print({'torch', 'anny', 'diffusers', 'onnx', 'scipy', 'skimage', 'numba', 'trimesh', 'matplotlib',"
        "'sounddevice', 'PIL', 'mediapipe.tasks', 'mediapipe.python.solutions.hands'} & sys.modules.keys())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"
