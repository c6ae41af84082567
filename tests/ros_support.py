"""What the ROS tests share: a synthetic head, a pipeline without networks, and helpers to drive real nodes."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from visualization_msgs.msg import Marker, MarkerArray

from ofer_models.head import HeadModel
from ofer_models.tracking.face import Face
from ofer_msgs.msg import FaceArray
from ofer_msgs.msg import HeadModel as HeadModelMessage
from ofer_ros.base import problem_log
from ofer_ros.base.domains import lent_domain
from ofer_ros.base.geometry import stamp_key
from ofer_ros.base.qos import FACES, LATCHED
from ofer_ros.nodes.ofer_node import OferNode

N_SHAPE, N_EXPRESSION = 8, 6
LIMIT = 60.0  # seconds for what takes one on an idle machine: tests wait for events, and fail late
_EVERY = QoSProfile(depth=1000)  # a test sees every message, however slow it reads


def wait_for(condition: Callable[[], object], timeout: float = LIMIT):
    """The condition's first true value; AssertionError when it stays false for `timeout` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"not within {timeout} s")


def synthetic_head(rows: int = 24, columns: int = 32, seed: int = 0) -> HeadModel:
    """An ellipsoid of about 10 x 12 x 10 cm in FLAME layout; its 'face' is the half with z > 0."""
    rng = np.random.default_rng(seed)
    polar = np.linspace(0.05, np.pi - 0.05, rows)
    around = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    sphere = np.stack(
        [
            np.sin(polar)[:, None] * np.sin(around),
            np.repeat(np.cos(polar)[:, None], columns, 1),
            np.sin(polar)[:, None] * np.cos(around),
        ],
        axis=-1,
    ).reshape(-1, 3)
    template = sphere * [0.075, 0.11, 0.09]
    index = np.arange(rows * columns).reshape(rows, columns)
    right = np.roll(index, -1, axis=1)
    faces = np.concatenate(
        [
            np.stack([index[:-1], index[1:], right[:-1]], -1).reshape(-1, 3),
            np.stack([right[:-1], index[1:], right[1:]], -1).reshape(-1, 3),
        ]
    )
    count = len(template)
    jaw_weight = np.clip(-sphere[:, 1] * sphere[:, 2] * 2, 0, 1)
    weights = np.zeros((count, 5))
    weights[:, 1], weights[:, 2] = 1 - jaw_weight, jaw_weight
    face = np.flatnonzero(sphere[:, 2] > 0)
    on_face = np.flatnonzero(np.isin(faces, face).all(1))
    arrays = {
        "v_template": template,
        "shapedirs": 0.002 * rng.normal(size=(count, 3, N_SHAPE + N_EXPRESSION)),
        "posedirs": 0.0005 * rng.normal(size=(36, 3 * count)),
        "J_regressor": np.full((5, count), 1 / count),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "lbs_weights": weights,
        "faces": faces,
        "expression_names": np.array([f"unit{i}" for i in range(N_EXPRESSION)]),
        "mask_face": face,
        "landmarks68_triangle": rng.choice(on_face, 68),
        "landmarks68_bary": np.full((68, 3), 1 / 3),
    }
    return HeadModel(arrays, "0" * 64)


def held_up() -> tuple[Callable, threading.Event, threading.Event]:
    """A pipeline's behaviour that does not end, with the events `busy` (it began) and `go_on` (let it end)."""
    busy, go_on = threading.Event(), threading.Event()

    def behaviour(rgb: np.ndarray) -> list[Face]:
        busy.set()
        go_on.wait(2 * LIMIT)
        return []

    return behaviour, busy, go_on


def fake_face(track: str = "f1", hypotheses: int = 15, seed: int = 0, metric: bool = True) -> Face:
    """A face 0.6 m in front of the camera, upright and turned a little, with random coefficients."""
    rng = np.random.default_rng(seed)
    turn = 0.3 * rng.normal()
    yaw = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    expressions = rng.normal(size=(hypotheses, N_EXPRESSION)).astype(np.float32)
    jaws = (0.1 * rng.normal(size=(hypotheses, 3))).astype(np.float32)
    selected = 2 % hypotheses
    return Face(
        id=track,
        roi=(200, 100, 220, 260),
        confidence=0.9,
        landmarks=rng.uniform(200, 300, (478, 3)),
        rotation=np.diag([1.0, -1.0, -1.0]) @ yaw,
        translation=np.array([0.1 * rng.normal(), 0.02, 0.6]),
        metric=metric,
        shape=rng.normal(size=N_SHAPE).astype(np.float32),
        identity_revision=1,
        identity_score=0.5,
        identity_state="locked",
        identity_blend=1.0,
        expressions=expressions,
        jaws=jaws,
        scores=np.full(hypotheses, 1 / hypotheses, np.float32),
        selected=selected,
        expression=expressions[selected],
        jaw=jaws[selected],
        occlusion=0.2,
        landmark_error=0.02,
        spread={"mouth": 0.003, "eyes": 0.001, "brows": 0.002},
    )


class FakePipeline:
    """Stands in for FacePipeline: the faces in `tracks` on every frame, or whatever `behaviour(rgb)` does."""

    def __init__(self, head: HeadModel | None = None, behaviour: Callable[[np.ndarray], list] | None = None) -> None:
        self.head = head or synthetic_head()
        self.bundle = SimpleNamespace(name="fake", version="0")
        self.backend = "none"
        self.timings = {"detect": 1.0, "expression": 2.0}
        self.tracks = ["f1"]
        self.behaviour = behaviour
        self.frames: list[tuple[tuple[int, ...], float, object]] = []
        self.resets = 0
        self.calls: list[tuple] = []  # what services and parameters asked for
        self.hypotheses = 15
        self.latencies: list[float] = []
        self.expiries = self.warm_ups = self.closed = 0
        self.looked: list[float] = []
        self.aheads = 0
        self.identity_trouble = ""

    def look(self, rgb: np.ndarray, stamp: float, intrinsics=None, camera_pose=None) -> tuple:
        assert rgb.dtype == np.uint8 and rgb.shape[2] == 3
        self.looked.append(stamp)
        return rgb, stamp, intrinsics, camera_pose

    def look_ahead(self) -> None:
        self.aheads += 1

    def faces(self, look: tuple) -> list[Face]:
        rgb, stamp, intrinsics, camera_pose = look
        self.camera_pose = camera_pose
        self.frames.append((rgb.shape, stamp, intrinsics))
        if self.behaviour is not None:
            return self.behaviour(rgb)
        return [
            fake_face(track, self.hypotheses, seed=i, metric=intrinsics.metric) for i, track in enumerate(self.tracks)
        ]

    def warm_up(self, say: Callable[[str], None]) -> None:
        self.warm_ups += 1
        say("warm-up 1 of 1: nothing")

    def close(self) -> None:
        self.closed += 1

    def reset(self) -> None:
        self.resets += 1

    def forget(self) -> None:
        self.calls.append(("forget", threading.current_thread().name))

    def reset_identity(self, track: str | None = None) -> bool:
        self.calls.append(("reset_identity", track, threading.current_thread().name))
        return track is None or track in self.tracks

    def expire(self) -> None:
        self.expiries += 1

    def report_latency(self, milliseconds: float) -> None:
        self.latencies.append(milliseconds)

    def status(self) -> dict[str, object]:
        states = {f"identity/{track}": "locked" for track in self.tracks}
        counts = {"identities_lost": 0, "identity_failures": 0}
        return {"tier": "full", "tier_level": 0, "gpu_memory_mb": "0.0", **counts, **states}

    def set_hypotheses(self, count: int) -> None:
        self.calls.append(("hypotheses", count, threading.current_thread().name))
        self.hypotheses = count

    def set_steps(self, steps: int | None) -> None:
        self.calls.append(("steps", steps, threading.current_thread().name))


def image_message(
    pixels: np.ndarray | None = None, encoding: str = "rgb8", stamp: float = 1.0, frame_id: str = "camera"
) -> Image:
    """sensor_msgs/Image of pixels (H, W) or (H, W, C); by default a grey 64 x 48."""
    pixels = np.full((48, 64, 3), 90, np.uint8) if pixels is None else np.ascontiguousarray(pixels)
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=pixels.strides[0])
    message.header.frame_id = frame_id
    message.header.stamp.sec, message.header.stamp.nanosec = int(stamp), round((stamp % 1) * 1e9)
    message.data = pixels.tobytes()
    return message


def interface_rows() -> list[list[str]]:
    """Cells of every table row of docs/interface.md."""
    lines = (Path(__file__).resolve().parents[1] / "docs" / "interface.md").read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def documented_values() -> set[str]:
    """Keys of /diagnostics in the table of docs/interface.md."""
    rows = [row for row in interface_rows() if len(row) == 2]
    found: set[str] = set()
    for row in rows[rows.index(["value", "meaning"]) + 2 :]:
        if not re.fullmatch(r"(`[\w/<>]+`(, )?)+", row[0]):
            break
        found |= set(re.findall(r"`([\w/<>]+)`", row[0]))
    return found


def documented(key: str) -> str:
    """A key of /diagnostics as docs/interface.md writes it: the name of a stage or a face's id is any."""
    return re.sub(r"^identity/.*", "identity/<id>", re.sub(r"^stage/.*_ms$", "stage/<name>_ms", key))


def said_at_most(begun: float) -> int:
    """How often the log may hold a problem that goes on since `begun` (time.monotonic)."""
    return 1 + int((time.monotonic() - begun) / problem_log.REPEAT_AFTER)


class RosSession:
    """A context of its own, spun in a thread; nodes made through `add` live until the `with` block ends."""

    def __init__(self) -> None:
        self.context = Context()
        self._lent = lent_domain()
        self.domain = self._lent.__enter__()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.client = Node("client", context=self.context)
        self.executor.add_node(self.client)
        self.nodes: list[Node] = []
        self.escaped: list[Exception] = []  # what callbacks let out of the executor
        self._spinning = True
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def add(self, node: Node) -> Node:
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def _spin(self) -> None:
        while self._spinning:
            try:
                self.executor.spin_once(timeout_sec=0.05)
            except Exception as error:
                self.escaped.append(error)

    wait_for = staticmethod(wait_for)

    def call(self, kind: type, name: str, request, timeout: float = LIMIT):
        client = self.client.create_client(kind, name)
        assert client.wait_for_service(timeout)
        future = client.call_async(request)
        self.wait_for(future.done, timeout)
        return future.result()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._spinning = False
        self._thread.join()
        for node in self.nodes:
            if hasattr(node, "close"):
                node.close()
            node.destroy_node()
        self.client.destroy_node()
        rclpy.shutdown(context=self.context)
        self._lent.__exit__(None, None, None)


class NodeHarness(RosSession):
    """A real OferNode on a stand-in pipeline, driven and observed over DDS."""

    def __init__(
        self, pipeline=None, make_pipeline=None, start: bool = True, remaps: tuple[str, ...] = (), **parameters
    ) -> None:
        """remaps: rules 'from:=to' of the node under test, which leaves nothing out, however busy the machine is."""
        super().__init__()
        self.pipeline = pipeline or FakePipeline()
        patient = {"max_frame_age": 3600.0, "marker_rate": 0.0, "overlay_rate": 0.0}
        overrides = [Parameter(name, value=value) for name, value in (patient | parameters).items()]
        make = make_pipeline or (lambda settings: self.pipeline)
        rules = [part for rule in remaps for part in ("-r", rule)]
        arguments = ["--ros-args", *rules] if rules else None
        self.node = self.add(
            OferNode(make, context=self.context, parameter_overrides=overrides, cli_args=arguments)
        )
        self.faces: list[FaceArray] = []
        self.markers: list[MarkerArray] = []
        self.overlays: list[Image] = []
        self.head_models: list[HeadModelMessage] = []
        self.diagnostics: list = []
        subscribe = self.client.create_subscription
        subscribe(FaceArray, "/ofer_node/faces", self.faces.append, FACES)
        subscribe(MarkerArray, "/ofer_node/markers", self.markers.append, _EVERY)
        subscribe(HeadModelMessage, "/ofer_node/head_model", self.head_models.append, LATCHED)
        subscribe(DiagnosticArray, "/diagnostics", lambda message: self.diagnostics.extend(message.status), 10)
        self.images = self.client.create_publisher(Image, "/image_raw", 5)
        if start:
            assert self.change("configure") and self.change("activate")
            self.wait_for(lambda: self.images.get_subscription_count() == 1)
            self.wait_for(lambda: self.client.count_publishers("/ofer_node/markers") == 1)

    def watch_overlay(self) -> None:
        self.client.create_subscription(Image, "/ofer_node/overlay", self.overlays.append, 5)
        self.wait_for(lambda: self.client.count_publishers("/ofer_node/overlay") == 1)

    def change(self, label: str) -> bool:
        request = ChangeState.Request()
        request.transition.label = label
        return self.call(ChangeState, "/ofer_node/change_state", request).success

    def set(self, **values: object) -> list[str]:
        """Set parameters by service; why each was refused, '' for those that were taken."""
        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        results = self.call(SetParameters, "/ofer_node/set_parameters", request).results
        assert all(result.successful == (not result.reason) for result in results)
        return [result.reason for result in results]

    def send(self, message, publisher=None) -> None:
        (publisher or self.images).publish(message)

    def faces_at(self, stamp: float) -> FaceArray | None:
        return self._faces_with(stamp_key(image_message(stamp=stamp).header.stamp))

    def _faces_with(self, key: int) -> FaceArray | None:
        return next((message for message in self.faces if stamp_key(message.header.stamp) == key), None)

    def send_and_wait(self, message) -> FaceArray:
        """Publish an image and return its FaceArray."""
        self.send(message)
        key = stamp_key(message.header.stamp)
        return self.wait_for(lambda: self._faces_with(key))

    def last_markers(self) -> list[Marker]:
        """Of the newest MarkerArray that arrived; a reader that is slow never sees some of the others."""
        return self.markers[-1].markers if self.markers else []

    def cleared(self) -> bool:
        """Whether the newest MarkerArray takes everything away."""
        return [marker.action for marker in self.last_markers()] == [Marker.DELETEALL]

    def status(self, condition: Callable[[object], bool], cause: Callable[[], object] = lambda: None):
        """The next diagnostics status that meets the condition. cause: what leads to it, done again and again, since
        the status tells of the last few seconds alone."""
        self.diagnostics.clear()

        def found():
            cause()
            time.sleep(0.05)
            return next((status for status in list(self.diagnostics) if condition(status)), None)

        return self.wait_for(found)
