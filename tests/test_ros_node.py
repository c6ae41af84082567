"""ofer_node over real DDS with a stand-in pipeline: what it publishes, and what nothing may do to it."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import shutil
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from ros_support import FakePipeline, NodeHarness, fake_face, held_up, image_message, said_at_most
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from skimage.data import astronaut
from std_srvs.srv import SetBool
from visualization_msgs.msg import Marker

from ofer_models.bundle import Bundle, default_bundle
from ofer_models.pipeline import FacePipeline
from ofer_msgs.msg import FaceArray
from ofer_ros.input import subscriptions
from ofer_ros.input.images import image_to_rgb, to_rgb
from ofer_ros.nodes.camera_node import camera_info
from ofer_ros.nodes.ofer_node import load_pipeline
from ofer_ros.output import transforms
from ofer_ros.output.face_meshes import MeshDecoder
from ofer_ros.record.observations import marker_difference

pytestmark = pytest.mark.ros


@pytest.fixture
def harness():
    with NodeHarness() as harness:
        yield harness
        assert not harness.escaped


def values(status) -> dict[str, str]:
    return {item.key: item.value for item in status.values}


def warned(text: str):
    return lambda status: status.level == DiagnosticStatus.WARN and text in status.message


def failing(text: str):
    return lambda status: status.level in (DiagnosticStatus.WARN, DiagnosticStatus.ERROR) and text in status.message


def test_an_image_gives_faces_markers_and_the_head_model(harness):
    message = image_message(np.zeros((480, 640, 3), np.uint8), stamp=12.5)
    faces = harness.send_and_wait(message)
    assert faces.header == message.header
    assert [face.id for face in faces.faces] == ["f1"]
    (head_model,) = harness.wait_for(lambda: harness.head_models)
    assert head_model.bundle == "fake"
    added = harness.wait_for(lambda: next((m for m in harness.markers if m.markers[0].points), None))
    assert added.markers[0].header == message.header
    assert marker_difference(added, faces, MeshDecoder(harness.pipeline.head)) < 1e-5


def test_an_image_without_faces_gives_an_empty_array_and_deletes_the_marker(harness):
    harness.send_and_wait(image_message(stamp=1.0))
    harness.pipeline.tracks = []
    assert list(harness.send_and_wait(image_message(stamp=1.2)).faces) == []
    deleted = harness.wait_for(lambda: [m for m in harness.last_markers() if m.action == Marker.DELETE])
    assert [marker.id for marker in deleted] == [0]


def test_the_overlay_is_drawn_only_when_somebody_watches(harness):
    grey = np.full((480, 640, 3), 40, np.uint8)
    harness.send_and_wait(image_message(grey, stamp=1.0))
    status = harness.status(lambda s: values(s)["frames_processed"] == "1")
    assert "stage/draw/overlay_ms" not in values(status)
    harness.watch_overlay()
    harness.wait_for(lambda: harness.send(image_message(grey, stamp=time.time())) or harness.overlays)
    drawn = image_to_rgb(harness.overlays[0])
    assert drawn.shape == grey.shape
    assert (drawn != 40).any(axis=2).sum() > 5000


def test_the_compressed_overlay_is_the_overlay():
    """Under the remapped name as well, within a few grey levels of it, and alone where only it is listened to."""
    picture = cv2.resize(astronaut()[:384], (640, 480))
    with NodeHarness(remaps=("~/overlay:=/shown",)) as harness:
        compressed, raw = [], []
        harness.client.create_subscription(CompressedImage, "/shown/compressed", compressed.append, 5)
        harness.wait_for(lambda: harness.send(image_message(picture, stamp=time.time())) or compressed)
        sent = []
        publish = harness.node._outputs.drawings._overlay.publish
        harness.node._outputs.drawings._overlay.publish = lambda data: sent.append(data) or publish(data)
        compressed.clear()
        harness.wait_for(lambda: harness.send(image_message(picture, stamp=time.time())) or compressed)
        assert not sent, "nobody listens to it"
        harness.client.create_subscription(Image, "/shown", raw.append, 5)

        def both() -> list[tuple[Image, CompressedImage]]:
            return [(one, other) for one in raw for other in compressed if one.header == other.header]

        harness.wait_for(lambda: harness.send(image_message(picture, stamp=time.time())) or both())
        shown, jpeg = both()[0]
        assert jpeg.format == "jpeg" and len(jpeg.data) < len(shown.data) / 5
        difference = to_rgb(shown).astype(int) - to_rgb(jpeg)
        assert np.sqrt((difference**2).mean()) < 3 and abs(difference).max() < 64


def test_all_faces_of_a_frame_are_published(harness):
    harness.pipeline.tracks = ["f1", "f2", "f3"]
    assert [face.id for face in harness.send_and_wait(image_message()).faces] == ["f1", "f2", "f3"]
    harness.wait_for(lambda: [(m.id, m.action) for m in harness.last_markers()] == [(n, Marker.ADD) for n in range(3)])


def test_transforms_are_broadcast_where_tf2_is_installed(monkeypatch):
    sent = []
    create = Node.create_publisher

    def create_publisher(node, kind, topic, *args, **kwargs):
        if topic == "/tf":
            return SimpleNamespace(publish=lambda message: sent.extend(message.transforms))
        return create(node, kind, topic, *args, **kwargs)

    monkeypatch.setattr(Node, "create_publisher", create_publisher)
    monkeypatch.setattr(transforms, "TFMessage", SimpleNamespace)
    with NodeHarness() as harness:
        harness.pipeline.tracks = ["f1", "f2"]
        message = image_message(stamp=1.0)
        harness.send_and_wait(message)
        harness.wait_for(lambda: len(sent) == 4)
        assert [transform.child_frame_id for transform in sent] == ["face_f1", "gaze_f1", "face_f2", "gaze_f2"]
        assert sent[0].header == message.header
        harness.node.set_parameters([Parameter("publish_tf", value=False)])
        harness.wait_for(lambda: not harness.node.settings.publish_tf)
        harness.send_and_wait(image_message(stamp=2.0))
        assert len(sent) == 4


GOOD = np.full((48, 64, 3), 100, np.uint8)


def damaged(**fields):
    message = image_message(GOOD, stamp=5.0)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        pytest.param(damaged(data=bytes(1000)), "data is truncated", id="truncated"),
        pytest.param(damaged(encoding="32FC1"), "encoding '32FC1' is not supported", id="wrong-encoding"),
        pytest.param(damaged(width=0, height=0, step=0, data=b""), "the image is empty", id="zero-sized"),
        pytest.param(image_message(np.zeros((4100, 4100), np.uint8), "mono8", 5.0), "at most 16.8", id="too-large"),
        pytest.param(damaged(step=10), "step 10 disagrees with the width", id="step"),
    ],
)
def test_bad_images_are_one_line_in_log_and_diagnostics_and_the_next_good_one_is_processed(
    harness, capfd, message, text
):
    begun = time.monotonic()
    status = harness.status(failing(text), lambda: harness.send(message))
    assert int(values(status)["bad_images"]) >= 1
    lines = [line for line in capfd.readouterr().err.splitlines() if text in line]
    assert 1 <= len(lines) <= said_at_most(begun)
    assert all("[WARN]" in line for line in lines)
    assert harness.send_and_wait(image_message(GOOD, stamp=6.0)).faces
    assert harness.faces_at(5.0) is None

    def is_well() -> bool:
        harness.send(image_message(GOOD, stamp=time.time()))  # goes on: silence would be a warning, too
        time.sleep(0.1)
        return any(status.level == DiagnosticStatus.OK for status in list(harness.diagnostics))

    harness.diagnostics.clear()
    harness.wait_for(is_well)


@pytest.mark.parametrize(
    ("pixels", "encoding"),
    [(np.full((48, 64), 30000, np.uint16), "mono16"), (np.full((48, 64), 90, np.uint8), "mono8")],
)
def test_grey_and_16_bit_images_are_processed(harness, pixels, encoding):
    assert harness.send_and_wait(image_message(pixels, encoding, 2.0)).faces
    assert harness.pipeline.frames[-1][0] == (48, 64, 3)


def test_a_camera_info_of_zeros_is_one_line_and_poses_are_not_metric(harness, capfd):
    infos = harness.client.create_publisher(CameraInfo, "/camera_info", qos_profile_sensor_data)
    harness.wait_for(lambda: infos.get_subscription_count() == 1)
    begun = time.monotonic()
    harness.status(failing("not calibrated"), lambda: infos.publish(CameraInfo(width=64, height=48)))
    assert harness.send_and_wait(image_message(stamp=1.0)).faces[0].metric is False
    infos.publish(camera_info(image_message().header, 64, 48, 60.0))
    harness.wait_for(lambda: harness.send_and_wait(image_message(stamp=time.time())).faces[0].metric)
    lines = [line for line in capfd.readouterr().err.splitlines() if "not calibrated" in line]
    assert 1 <= len(lines) <= said_at_most(begun)


def test_rectified_images_are_seen_through_p_and_no_camera_info_stops_the_node():
    with NodeHarness(image_is_rectified=True) as harness:
        infos = harness.client.create_publisher(CameraInfo, "/camera_info", qos_profile_sensor_data)
        harness.wait_for(lambda: infos.get_subscription_count() == 1)
        good, worst = (camera_info(image_message().header, 64, 48, 60.0) for _ in range(2))
        good.d, good.p[0], good.p[5] = [-0.35, 0.12, 0.0, 0.0, 0.0], 71.9, 71.9
        worst.binning_x = worst.binning_y = 1000
        harness.status(failing("its image would be 0 x 0"), lambda: infos.publish(worst))
        assert harness.send_and_wait(image_message(stamp=1.0)).faces[0].metric is False
        infos.publish(good)
        harness.wait_for(lambda: harness.send_and_wait(image_message(stamp=time.time())).faces[0].metric)
        seen = harness.pipeline.frames[-1][2]
        assert seen.K[0, 0] == 71.9 and not seen.distortion.size
        assert not harness.escaped


@pytest.mark.parametrize("small_faces", [False, True])
def test_large_images_bring_a_hint_at_small_faces_once(small_faces, capfd):
    with NodeHarness(small_faces=small_faces) as harness:
        for stamp in (1.0, 2.0, 3.0):
            width = 64 if stamp == 1.0 else 2000
            harness.send_and_wait(image_message(np.zeros((8, width, 3), np.uint8), "rgb8", stamp))
    said = [line for line in capfd.readouterr().err.splitlines() if "small_faces" in line]
    assert len(said) == (0 if small_faces else 1) and all("less than about 100 px" in line for line in said)


def test_a_face_that_is_gone_is_gone_also_where_a_camera_stamps_nothing():
    """All stamps zero, with the real pipeline: faces while there is one, none from the first frame without."""
    pipeline = FacePipeline(Bundle.load(default_bundle()), candidates=8, hypotheses=3)
    with NodeHarness(make_pipeline=lambda settings: pipeline) as harness:

        def shown(pixels: np.ndarray) -> FaceArray:
            before = len(harness.faces)
            harness.send(image_message(pixels, "rgb8", 0.0))
            harness.wait_for(lambda: len(harness.faces) > before)
            return harness.faces[-1]

        picture = np.ascontiguousarray(astronaut()[0:280, 90:370])
        assert [len(shown(picture).faces) for _ in range(10)] == [1] * 10
        harness.wait_for(lambda: [marker.action for marker in harness.last_markers()] == [Marker.ADD])
        assert [len(shown(np.full_like(picture, 90)).faces) for _ in range(5)] == [0] * 5
        harness.wait_for(lambda: [marker.action for marker in harness.last_markers()] == [Marker.DELETE])


def test_a_pipeline_that_raises_does_not_stop_the_node(capfd):
    def behaviour(rgb):
        if rgb[0, 0, 0] == 13:
            raise RuntimeError("bad day")
        return [fake_face()]

    with NodeHarness(FakePipeline(behaviour=behaviour)) as harness:
        bad = image_message(np.full((48, 64, 3), 13, np.uint8), stamp=1.0)
        begun = time.monotonic()
        status = harness.status(failing("RuntimeError: bad day"), lambda: harness.send(bad))
        assert int(values(status)["failures"]) >= 1
        assert harness.send_and_wait(image_message(GOOD, stamp=2.0)).faces
        assert not harness.escaped
    lines = [line for line in capfd.readouterr().err.splitlines() if "bad day" in line]
    assert 1 <= len(lines) <= said_at_most(begun)


def test_a_slow_pipeline_drops_frames_and_services_still_answer():
    behaviour, busy, go_on = held_up()
    with NodeHarness(FakePipeline(behaviour=behaviour)) as harness:
        harness.send(image_message(stamp=1.0))
        assert busy.wait(60)
        for count in range(2, 7):
            harness.send(image_message(stamp=float(count)))
            harness.wait_for(lambda count=count: harness.node._statistics.received == count)
            harness.wait_for(lambda: 2.0 in harness.pipeline.looked)
        # The first frame is still at work, and yet:
        state = harness.call(GetState, "/ofer_node/get_state", GetState.Request()).current_state
        assert state.label == "active"
        assert not go_on.is_set()
        go_on.set()
        harness.wait_for(lambda: harness.faces_at(6.0))
        assert [frame[1] for frame in harness.pipeline.frames] == [1.0, 2.0, 6.0], "one is looked at, the newest waits"
        status = harness.status(lambda s: values(s)["frames_processed"] == "3")
        assert values(status)["frames_in"] == "6"
        assert values(status)["frames_dropped"] == "3"


def jpeg(stamp: float) -> CompressedImage:
    message = CompressedImage(format="jpeg", data=cv2.imencode(".jpg", GOOD)[1].tobytes())
    message.header = image_message(stamp=stamp).header
    return message


def test_compressed_images_are_taken_while_raw_ones_are_silent(harness, monkeypatch):
    monkeypatch.setattr(subscriptions, "_RAW_PREFERRED", 1e6)  # seconds
    publisher = harness.client.create_publisher(CompressedImage, "/image_raw/compressed", 5)
    harness.wait_for(lambda: publisher.get_subscription_count() == 1)
    publisher.publish(jpeg(1.0))
    assert harness.wait_for(lambda: harness.faces_at(1.0)).image_width == 64
    harness.send_and_wait(image_message(stamp=2.0))
    publisher.publish(jpeg(3.0))
    harness.send_and_wait(image_message(stamp=3.5))  # the node has heard the one before by then
    assert harness.faces_at(3.0) is None, "the same camera's raw images come: not twice"
    assert harness.node._statistics.received == 3
    truncated = jpeg(4.0)
    truncated.data = truncated.data[: len(truncated.data) // 2]
    monkeypatch.setattr(subscriptions, "_RAW_PREFERRED", 0.0)
    harness.status(failing("truncated"), lambda: publisher.publish(truncated))


@pytest.mark.parametrize(("transport", "topics"), [("raw", (1, 0)), ("compressed", (0, 1)), ("auto", (1, 1))])
def test_transport_chooses_the_topics(transport, topics):
    with NodeHarness(start=False, transport=transport) as harness:
        assert harness.change("configure") and harness.change("activate")
        count = harness.node.count_subscribers
        harness.wait_for(lambda: (count("/image_raw"), count("/image_raw/compressed")) == topics)


def test_lifecycle_goes_round_and_clears_its_markers(harness):
    harness.send_and_wait(image_message(stamp=1.0))
    assert harness.change("deactivate")
    harness.wait_for(harness.cleared)
    harness.wait_for(lambda: harness.images.get_subscription_count() == 0)
    assert harness.change("cleanup")
    harness.wait_for(lambda: harness.client.count_publishers("/ofer_node/faces") == 0)
    before = set(threading.enumerate())
    for _ in range(3):
        assert harness.change("configure")
        assert harness.change("activate")
        harness.wait_for(lambda: harness.images.get_subscription_count() == 1)
        assert harness.send_and_wait(image_message(stamp=time.time())).faces
        assert harness.change("deactivate")
        assert harness.change("cleanup")
    assert set(threading.enumerate()) <= before


def test_impossible_transitions_are_answered_and_change_nothing(harness, capfd):
    assert not harness.change("configure")
    assert not harness.change("no-such-transition")
    # By number, as most managers ask, rclpy raises instead of answering.
    by_number = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    assert not harness.call(ChangeState, "/ofer_node/change_state", by_number).success
    state = harness.call(GetState, "/ofer_node/get_state", GetState.Request()).current_state
    assert state.label == "active"
    assert harness.send_and_wait(image_message(stamp=1.0)).faces
    assert "transition '1' is not possible in state 'active'" in capfd.readouterr().err


def test_an_exception_in_a_transition_is_logged(capfd):
    with NodeHarness() as harness:
        harness.pipeline.reset = lambda: 1 / 0
        assert harness.change("deactivate")
        assert not harness.change("activate")
        assert harness.node.state == "inactive"
        assert not harness.escaped
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "manifest", "head", "graph"])
def test_a_missing_or_damaged_bundle_is_one_line_and_the_node_stays(tmp_path, capfd, damage):
    folder = tmp_path / "bundle"
    if damage == "manifest":
        folder.mkdir()
        (folder / "manifest.yaml").write_text("format: [")
    elif damage != "missing":
        shipped = default_bundle()
        if not (shipped / "manifest.yaml").exists():
            pytest.skip(f"the open bundle is not here: {shipped}")
        shutil.copytree(shipped, folder)
        file = folder / {"head": "head.npz", "graph": "expgen_step.onnx"}[damage]
        file.write_bytes(file.read_bytes()[:-1000])
    with NodeHarness(make_pipeline=load_pipeline, start=False, bundle=str(folder)) as harness:
        assert not harness.change("configure")
        status = harness.status(lambda s: s.level == DiagnosticStatus.ERROR)
        assert str(folder) in status.message
        assert values(status)["state"] == "unconfigured"
        lines = [line for line in capfd.readouterr().err.splitlines() if "cannot configure" in line]
        assert len(lines) == 1
        assert "[ERROR]" in lines[0]
        assert not harness.escaped
        # The cause is mended: the same node works.
        harness.node._make_pipeline = lambda settings: harness.pipeline
        assert harness.change("configure") and harness.change("activate")
        harness.wait_for(lambda: harness.images.get_subscription_count() == 1)
        assert harness.send_and_wait(image_message(stamp=1.0)).faces


def test_enable_pauses_and_resumes(harness):
    harness.send_and_wait(image_message(stamp=1.0))
    assert harness.call(SetBool, "/ofer_node/enable", SetBool.Request(data=False)).success
    harness.wait_for(harness.cleared)
    harness.send(image_message(stamp=2.0))
    harness.status(lambda s: s.message == "paused by ~/enable" and values(s)["enabled"] == "False")
    assert harness.faces_at(2.0) is None
    assert harness.call(SetBool, "/ofer_node/enable", SetBool.Request(data=True)).success
    assert harness.send_and_wait(image_message(stamp=3.0)).faces


def test_silence_is_told_once_with_topic_publishers_and_qos(capfd):
    with NodeHarness(silence_warning=0.5) as harness:
        harness.status(warned("no image for"))
        for _ in range(2):  # seconds
            harness.status(warned("no image for"))
        lines = [line for line in capfd.readouterr().err.splitlines() if "no image for" in line]
        assert len(lines) == 1
        assert "/image_raw has 1 publisher(s), QoS reliable volatile" in lines[0]
        assert "/image_raw/compressed has no publisher" in lines[0]
        harness.send_and_wait(image_message(stamp=1.0))
        harness.wait_for(lambda: "images arrive again" in capfd.readouterr().err)


def test_live_parameters_take_effect_at_once(harness):
    harness.node.set_parameters([Parameter("max_frame_age", value=5.0), Parameter("publish_tf", value=False)])
    assert harness.node.settings.max_frame_age == 5.0 and not harness.node.settings.publish_tf


def test_autostart_and_names_in_a_namespace():
    with NodeHarness(start=False, autostart=True) as harness:
        assert harness.node.settings.autostart
        assert harness.node.autostart()
        harness.wait_for(lambda: harness.images.get_subscription_count() == 1)
        assert harness.send_and_wait(image_message(stamp=1.0)).faces
        status = harness.status(lambda s: s.name == "ofer_node: faces" and s.hardware_id == "fake 0")
        assert {"fps", "latency_p50_ms", "frames_in", "memory_mb", "state"} <= values(status).keys()
