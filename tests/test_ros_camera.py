"""camera_node, its sources and the built-in scene; mesh_node and recorder at the other end."""

from __future__ import annotations

import pytest

from ofer_ros.base.qos import FACES, LATCHED, NEWEST

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import json
import time
from pathlib import Path

import cv2
import numpy as np
from builtin_interfaces.msg import Time as TimeMessage
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from ros_support import FakePipeline, NodeHarness, RosSession, image_message, synthetic_head
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from ofer_msgs.msg import FaceArray
from ofer_msgs.msg import HeadModel as HeadModelMessage
from ofer_ros.base.geometry import stamp_key
from ofer_ros.camera.scene import FRAMES, HEIGHT, RATE, VISIBLE_SHARE, WIDTH, Scene
from ofer_ros.camera.source_frame import SourceError
from ofer_ros.camera.sources import open_source
from ofer_ros.input.images import compressed_to_rgb, image_to_rgb
from ofer_ros.nodes.camera_node import CameraNode, camera_info
from ofer_ros.nodes.mesh_node import MeshNode
from ofer_ros.nodes.recorder import Recorder
from ofer_ros.record.run_sheet import COLUMNS, TILE
from ofer_ros.record.video import TimedVideo
from ofer_ros.work.diagnostics import OK, diagnostics_message

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def test_the_scene_is_the_issue_s_one(scene):
    assert (WIDTH, HEIGHT, RATE, FRAMES) == (640, 480, 30.0, 450)
    assert scene(0).rgb.shape == (480, 640, 3)
    np.testing.assert_array_equal(Scene()(33).rgb, scene(33).rgb)
    np.testing.assert_array_equal(scene(FRAMES + 5).rgb, scene(5).rgb)


def test_the_scene_s_occluder_hides_up_to_half_of_a_face_that_moves(scene):
    visible = [scene(index).face_visible for index in range(0, FRAMES, 6)]
    assert min(visible) < 0.65, "something is really hidden"
    assert min(visible) >= VISIBLE_SHARE, "never so much that a miss would be excused"
    assert max(visible) <= 1.03
    assert sum(share < 0.95 for share in visible) > 8, "for a good part of a second or more"
    moved = np.abs(scene(0).rgb.astype(int) - scene(30).rgb).mean()
    assert moved > 10


def write_pictures(folder: Path) -> None:
    for index, size in enumerate([(30, 40), (2000, 1000), (24, 24)]):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((*size, 3), 60 * index + 20, np.uint8))
    (folder / "notes.txt").write_text("not a picture")


def test_a_folder_shows_each_picture_for_its_time_and_scales_large_ones(tmp_path):
    write_pictures(tmp_path)
    frames = list(open_source(str(tmp_path), rate=10, hold=0.3, max_side=500))
    assert [frame.name for frame in frames] == 3 * ["0.png"] + 3 * ["1.png"] + 3 * ["2.png"]
    assert frames[0].bgr.shape == (30, 40, 3)
    assert frames[3].bgr.shape == (500, 250, 3)
    assert frames[8].bgr[0, 0].tolist() == [140, 140, 140]


def test_a_video_plays_once(tmp_path):
    video = TimedVideo(tmp_path / "clip.mp4", 10.0)
    for index in range(8):
        video.add(np.full((48, 64, 3), 20 * index, np.uint8), 0.1 * index)
    video.close()
    frames = list(open_source(str(tmp_path / "clip.mp4"), 10, 1.0, 1280))
    assert len(frames) == 8
    assert abs(int(frames[5].bgr.mean()) - 100) < 6


@pytest.mark.parametrize("source", ["/no/such/file.mp4", "97"])
def test_a_missing_source_says_so(source, capfd):
    with pytest.raises(SourceError):
        open_source(source, 30, 1.0, 1280)
    assert capfd.readouterr().err == "", "the one line of the exception is all"


def test_a_folder_without_pictures_and_a_broken_picture_say_so(tmp_path):
    with pytest.raises(SourceError, match="no pictures"):
        open_source(str(tmp_path), 30, 1.0, 1280)
    (tmp_path / "a.jpg").write_text("not a picture")
    with pytest.raises(SourceError, match=r"a\.jpg: not a picture"):
        list(open_source(str(tmp_path), 30, 1.0, 1280))


def test_numbered_pictures_come_in_their_order_and_what_cannot_be_shown_is_passed_over(tmp_path):
    for number in (10, 2, 1):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), np.full((8, 8, 3), number, np.uint8))
    (tmp_path / "frame3.png").write_bytes((tmp_path / "frame2.png").read_bytes()[:-30])
    (tmp_path / "._frame1.png").touch()
    frames = list(open_source(str(tmp_path), rate=10, hold=0.1, max_side=4))
    assert [frame.bgr[0, 0, 0] for frame in frames if not frame.problem] == [1, 2, 10]
    problems = {frame.name: frame.problem for frame in frames if frame.problem}
    assert list(problems) == ["frame3.png", "._frame1.png"] and "truncated" in problems["frame3.png"]


def test_camera_node_names_what_it_left_out_at_the_end(tmp_path, capfd):
    write_pictures(tmp_path)
    (tmp_path / "1.png").write_text("no picture")
    with CameraSession(source=str(tmp_path), rate=100.0, hold=0.01, loop=False, wait_for_subscribers=1) as session:
        session.wait_for(lambda: session.node.finished)
        session.wait_for(lambda: len(session.images) == 2)
    assert f"left out of '{tmp_path}': 1.png (not a picture" in capfd.readouterr().err


def test_a_video_plays_at_the_speed_of_its_stamps(tmp_path):
    video = TimedVideo(tmp_path / "clip.mp4", 30.0)
    for moment in (0.0, 0.01, 0.1, 0.5, 100.0, 100.1):  # a burst, a gap, a pause
        video.add(np.zeros((47, 63, 3), np.uint8), moment)
    video.add(np.zeros((20, 200, 3), np.uint8), 100.2)  # another size is fitted in
    video.close()
    capture = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 30
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == video.frames
    assert video.frames == 16 + 60 + 1 + 6, "half a second, a pause of two at most, 0.2 s"


def test_camera_info_states_the_field_of_view():
    info = camera_info(image_message().header, 640, 480, 60.0)
    assert 2 * np.degrees(np.arctan(320 / info.k[0])) == pytest.approx(60)
    assert (info.k[2], info.k[5], info.width, info.height) == (319.5, 239.5, 640, 480)
    assert [info.p[i] for i in (0, 2, 5, 6, 10)] == [info.k[i] for i in (0, 2, 4, 5, 8)]


class CameraSession(RosSession):
    """A camera_node and everything it publishes."""

    def __init__(self, **parameters) -> None:
        super().__init__()
        self.images: list[Image] = []
        self.compressed: list[CompressedImage] = []
        self.infos: list[CameraInfo] = []
        self.client.create_subscription(Image, "/image_raw", self.images.append, 10)
        self.client.create_subscription(CompressedImage, "/image_raw/compressed", self.compressed.append, 10)
        self.client.create_subscription(CameraInfo, "/camera_info", self.infos.append, 10)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = self.add(CameraNode(context=self.context, parameter_overrides=overrides))


def test_camera_node_publishes_pictures_with_infos_and_ends(tmp_path):
    write_pictures(tmp_path)
    log = tmp_path / "frames.jsonl"
    with CameraSession(
        source=str(tmp_path), rate=50.0, hold=0.04, loop=False, wait_for_subscribers=1, log_file=str(log)
    ) as session:
        session.wait_for(lambda: session.node.finished)
        session.wait_for(lambda: len(session.images) == len(session.infos) == 6)
        assert [image.width for image in session.images] == [40, 40, 640, 640, 24, 24]
        assert [info.header for info in session.infos] == [image.header for image in session.images]
        assert {image.encoding for image in session.images} == {"bgr8"}
        assert session.images[0].header.frame_id == "camera_optical_frame"
        assert image_to_rgb(session.images[-1])[0, 0].tolist() == [140, 140, 140]
        stamps = [image.header.stamp.sec + 1e-9 * image.header.stamp.nanosec for image in session.images]
        assert np.diff(stamps).min() > 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["name"] for line in lines] == ["0.png", "0.png", "1.png", "1.png", "2.png", "2.png"]
    assert lines[0]["face_expected"] is None


def test_camera_node_loops_and_compresses(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((32, 48, 3), 77, np.uint8))
    with CameraSession(source=str(tmp_path), rate=50.0, hold=0.02, compressed=True, camera_info=False) as session:
        session.wait_for(lambda: len(session.compressed) >= 4)
        assert np.abs(compressed_to_rgb(session.compressed[0]).astype(int) - 77).max() <= 3
        assert not session.images
        assert not session.infos


def test_pictures_that_wait_for_answers_are_stamped_at_their_rate(tmp_path):
    """However long the answers take, and from one round to the next."""
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((8, 8, 3), np.uint8))
    with CameraSession(source=str(tmp_path), rate=8.0, hold=0.125, loop=True, paced_by="answers") as session:
        answers = session.client.create_publisher(FaceArray, "/answers", FACES)
        for number in range(5):
            session.wait_for(lambda expected=number + 1: len(session.images) == expected)
            answers.publish(FaceArray(header=session.images[-1].header))
        stamps = [stamp_key(image.header.stamp) for image in session.images[:5]]
    assert np.diff(stamps).tolist() == 4 * [125_000_000]


def test_camera_node_waits_for_its_subscribers(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    with CameraSession(source=str(tmp_path), rate=50.0, wait_for_subscribers=2) as session:
        time.sleep(0.5)
        assert not session.images
        session.client.create_subscription(Image, "/image_raw", lambda message: None, 1)
        session.wait_for(lambda: session.images)


def test_mesh_node_publishes_the_same_markers_as_ofer_node():
    head = synthetic_head()
    with NodeHarness(FakePipeline(head), marker_rate=0.0, overlay_rate=0.0) as harness:
        node = MeshNode(head, context=harness.context, cli_args=[
            "--ros-args", "-r", "faces:=/ofer_node/faces", "-r", "head_info:=/ofer_node/head_info",
        ])  # fmt: skip
        harness.add(node)
        near, far = [], []
        harness.client.create_subscription(MarkerArray, "/ofer_node/markers", near.append, NEWEST)
        harness.client.create_subscription(MarkerArray, "/mesh_node/markers", far.append, NEWEST)
        harness.wait_for(
            lambda: node.count_publishers("/ofer_node/faces") and node.count_subscribers("/mesh_node/markers")
        )
        harness.wait_for(lambda: harness.node.count_subscribers("/ofer_node/faces") == 2)
        harness.pipeline.tracks = ["f1", "f2"]
        for stamp in (1.0, 1.1, 1.2):
            harness.send_and_wait(image_message(stamp=stamp))
            harness.wait_for(lambda: near and far and near[-1] == far[-1])
        assert [len(marker.points) for marker in far[-1].markers] == 2 * [len(near[0].markers[0].points)]


def test_mesh_node_refuses_faces_of_another_head(capfd):
    with NodeHarness() as harness:
        node = MeshNode(
            synthetic_head(), context=harness.context, cli_args=["--ros-args", "-r", "faces:=/ofer_node/faces"]
        )
        harness.add(node)
        far: list[MarkerArray] = []
        harness.client.create_subscription(MarkerArray, "/mesh_node/markers", far.append, NEWEST)
        other = harness.client.create_publisher(HeadModelMessage, "/head_info", LATCHED)
        other.publish(HeadModelMessage(bundle="other", head_sha256="f" * 64))
        harness.wait_for(lambda: node._mismatch)
        harness.wait_for(lambda: harness.node.count_subscribers("/ofer_node/faces") == 2)
        harness.send_and_wait(image_message(stamp=1.0))
        harness.wait_for(lambda: "faces come from head ffffffffffff of bundle 'other'" in capfd.readouterr().err)
        assert not far


def test_the_recorder_counts_checks_and_leaves_its_files(tmp_path):
    head = synthetic_head()
    with NodeHarness(FakePipeline(head), marker_rate=0.0, overlay_rate=0.0) as harness:
        overrides = [Parameter("output", value=str(tmp_path)), Parameter("check_every", value=1)]
        recorder = Recorder(head, context=harness.context, parameter_overrides=overrides)
        harness.add(recorder)
        harness.wait_for(lambda: harness.node.count_subscribers("/ofer_node/overlay") == 1)
        harness.wait_for(lambda: harness.images.get_subscription_count() == 2)
        grey = np.full((240, 320, 3), 90, np.uint8)
        for index in range(5):
            harness.send_and_wait(image_message(grey, stamp=time.time() + 0.1 * index))
        counts = recorder.observations.received
        harness.wait_for(lambda: counts["/ofer_node/overlay"] == 5 and counts["/ofer_node/faces"] == 5)
        harness.wait_for(lambda: recorder.observations.marker_checks >= 4)
        harness.status(lambda status: True)
        recorder.close()
    content = json.loads((tmp_path / "recorder.json").read_text())
    summary = content["summary"]
    assert summary["received"]["/image_raw"] == 5
    assert summary["tracks"] == 1
    assert summary["identity_revisions"] == 1
    assert summary["hypotheses"] == 15
    assert summary["landmark_error"] == pytest.approx(0.02, abs=1e-4)
    assert summary["marker_check"]["largest_difference_m"] < 1e-5
    assert len(content["faces_by_stamp"]) == 5
    assert cv2.VideoCapture(str(tmp_path / "overlay.mp4")).read()[1].shape == (240, 320, 3)
    assert cv2.imread(str(tmp_path / "contact_sheet.png")).shape[1] == COLUMNS * TILE


def test_a_face_s_latency_ends_when_it_arrives_not_when_the_recorder_has_time_for_it(tmp_path):
    with RosSession() as session:
        overrides = [Parameter("output", value=str(tmp_path))]
        recorder = session.add(Recorder(synthetic_head(), context=session.context, parameter_overrides=overrides))
        (faces,) = [one for one in recorder.subscriptions if one.topic_name.endswith("/faces")]
        message = FaceArray(header=Header(stamp=TimeMessage(sec=100)))
        faces.callback(serialize_message(message), {"received_timestamp": 100_020_000_000})
        assert list(recorder.observations.latencies) == [pytest.approx(0.02, abs=1e-6)]


def test_the_recorder_knows_the_node_s_diagnostics_in_a_namespace(tmp_path):
    with RosSession() as session:
        arguments = ["--ros-args", "-r", "__ns:=/robot", "-p", f"output:={tmp_path}"]
        recorder = session.add(Recorder(synthetic_head(), context=session.context, cli_args=arguments))
        publisher = session.client.create_publisher(DiagnosticArray, "/diagnostics", 10)
        session.wait_for(lambda: publisher.get_subscription_count() == 1)
        stamp = session.client.get_clock().now()

        def heard() -> bool:
            for name, frames in (("ofer_node", 3), ("robot/ofer_node", 7)):
                publisher.publish(diagnostics_message(f"{name}: faces", "", OK, "", {"frames_in": frames}, stamp))
            return bool(recorder.observations.node_values)

        session.wait_for(heard)
        assert recorder.observations.node_values["frames_in"] == "7"


def test_a_head_model_message_is_enough_to_know_the_arrays(tmp_path):
    with NodeHarness() as harness:
        (message,) = harness.wait_for(lambda: harness.head_models)
        faces = harness.send_and_wait(image_message())
        face = faces.faces[0]
        assert len(face.shape) == message.n_shape
        assert len(face.expressions) == face.num_hypotheses * message.n_expression
