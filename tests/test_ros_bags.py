"""Bags: what is played of them, how camera_node plays it, and the new bag that a demo leaves."""

from __future__ import annotations

import pytest

from ofer_ros.base.qos import FACES, LATCHED

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")
pytest.importorskip("rosbags", reason="pip install rosbags")

import io
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
from ament_index_python.packages import get_package_share_directory
from bag_support import PERIOD, START, TYPES, compressed, image, info, read_bag, scene_bag, write_bag
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from rich.console import Console
from ros_support import RosSession, fake_face, image_message
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from ofer_msgs.msg import FaceArray, HeadModel
from ofer_ros.base.geometry import stamp_key
from ofer_ros.camera.bag_source import inspect_bag
from ofer_ros.camera.scene import Scene
from ofer_ros.camera.source_frame import SourceError
from ofer_ros.camera.sources import open_source
from ofer_ros.demo import demo
from ofer_ros.demo.demo import DemoOptions, run_demo
from ofer_ros.nodes.camera_node import CameraNode
from ofer_ros.output.messages import face_array_message
from ofer_ros.record.bag_writer import BagWriter

pytestmark = pytest.mark.ros
COLOR, COLOR_INFO = "/camera/color/image_raw", "/camera/color/camera_info"


def play(source: Path | str) -> list:
    return list(open_source(str(source), 30.0, 1.0, 1280))


@pytest.mark.parametrize(("storage", "jpeg"), [("mcap", False), ("sqlite3", False), ("mcap", True)])
def test_a_bag_s_pictures_keep_stamp_frame_and_camera_info(tmp_path, storage, jpeg):
    bag = scene_bag(tmp_path / "bag", 3, storage, jpeg)
    assert inspect_bag(str(bag)).storage == storage
    file = next(file for file in bag.iterdir() if file.suffix in (".mcap", ".db3"))
    for source in (bag, file):  # ros2 bag plays the bare file as well
        frames = play(source)
        assert [frame.recorded.stamp for frame in frames] == [START + index * PERIOD for index in range(3)]
        assert {frame.recorded.frame_id for frame in frames} == {"head_camera"}
        for index, frame in enumerate(frames):
            difference = np.abs(frame.bgr[..., ::-1].astype(int) - Scene()(index).rgb)
            assert difference.mean() < (4 if jpeg else 1e-9)
            expected = info(START + index * PERIOD)
            assert frame.recorded.camera_info == TYPES.serialize_cdr(expected, expected.__msgtype__)


def test_what_is_played_is_the_colour_camera_and_another_when_asked(tmp_path):
    colour, grey = np.full((48, 64, 3), 90, np.uint8), np.full((48, 64), 50, np.uint8)
    depth = image(START, np.ones((48, 64), np.float32), "32FC1")
    messages = [("/depth/image", START, depth), ("/left/camera_info", START, info(START))]
    messages += [("/left/image", START + index, image(START + index, grey, "mono8")) for index in range(5)]
    messages += [("/rgb/image", START, image(START, colour)), ("/right/camera_info", START, info(START))]
    bag = write_bag(tmp_path / "bag", messages)
    contents = inspect_bag(str(bag))
    assert (contents.topic, contents.others, contents.images) == ("/rgb/image", ("/left/image",), 1)
    assert contents.info_topic == "", "two cameras' intrinsics, and neither is this one's"
    assert play(bag)[0].recorded.camera_info is None
    assert inspect_bag(f"{bag}#/left/image").info_topic == "/left/camera_info"
    assert [frame.bgr[0, 0].tolist() for frame in play(f"{bag}#/left/image")] == 5 * [[50, 50, 50]]
    with pytest.raises(SourceError, match="no images on /nose; it has them on: /depth/image, /left/image, /rgb/image"):
        open_source(f"{bag}#/nose", 30, 1, 1280)
    with pytest.raises(SourceError, match="no picture that can be used: .*/depth/image: encoding '32FC1'"):
        open_source(f"{bag}#/depth/image", 30, 1, 1280)


@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("bgr8", np.full((4, 6, 3), (10, 20, 30), np.uint8), (10, 20, 30)),
        ("rgba8", np.full((4, 6, 4), (30, 20, 10, 7), np.uint8), (10, 20, 30)),
        ("mono16", np.full((4, 6), 257 * 40, np.uint16), (40, 40, 40)),
        ("bayer_rggb8", np.tile(np.array([[30, 20], [20, 10]], np.uint8), (2, 3)), (10, 20, 30)),
        ("yuv422_yuy2", np.full((4, 6, 2), 128, np.uint8), (130, 130, 130)),
    ],
)
def test_odd_encodings_are_played_as_ordinary_pictures(tmp_path, encoding, pixels, expected):
    bag = write_bag(tmp_path / "bag", [("/image", START, image(START, pixels, encoding))])
    assert np.abs(play(bag)[0].bgr[1, 2].astype(int) - expected).max() <= 1


def test_a_broken_picture_is_named_and_the_others_are_played(tmp_path):
    colour = np.full((48, 64, 3), 90, np.uint8)
    broken = image(START, colour, "rgb8", step=7)
    torn = compressed(START + 1, colour)
    torn.data = torn.data[: torn.data.size // 2]
    raw = write_bag(tmp_path / "raw", [("/image", START, broken), ("/image", START + 1, image(START + 1, colour))])
    assert ["step 7 disagrees" in frame.problem for frame in play(raw)] == [True, False]
    good = compressed(START, colour)
    bag = write_bag(tmp_path / "jpeg", [("/image", START, good), ("/image", START + 1, torn)])
    assert ["truncated" in frame.problem for frame in play(bag)] == [False, True]


def test_a_bag_is_known_whatever_its_path_is_called(tmp_path):
    (tmp_path / "run #3").mkdir()
    colour = np.full((48, 64, 3), 90, np.uint8)
    bag = write_bag(tmp_path / "run #3" / "bag#1", [("/image", START, image(START, colour))])
    assert len(list(play(bag))) == len(list(open_source(f"{bag}#/image", 30.0, 1.0, 1280))) == 1
    (file,) = bag.glob("*.mcap")
    loud = tmp_path / "LOUD.MCAP"
    shutil.copy(file, loud)
    assert len(list(play(loud))) == 1
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    cv2.imwrite(str(pictures / "a.png"), colour)
    (pictures / "metadata.yaml").write_text("camera: somebody else's notes")
    assert [frame.name for frame in open_source(str(pictures), 1.0, 1.0, 1280)] == ["a.png"]


def unplayable(folder: Path, what: str) -> Path:
    if what == "no images":
        return write_bag(folder / "bag", [("/info", 1, info(START))])
    name, content = {"empty": ("x.mcap", b""), "folder": ("x.mcap", b"x"), "ROS 1": ("x.bag", b"#ROSBAG V2.0")}[what]
    (folder / name).write_bytes(content)
    return folder if what == "folder" else folder / name


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("no images", "has no images; its topics: /info"),
        ("empty", "cannot be read"),
        ("folder", "no metadata.yaml"),
        ("ROS 1", "rosbags-convert"),
    ],
)
def test_a_bag_that_cannot_be_played_says_so_in_one_line(tmp_path, capsys, monkeypatch, what, text):
    source = unplayable(tmp_path, what)
    with pytest.raises(SourceError, match=text):
        open_source(str(source), 30.0, 1.0, 1280)
    monkeypatch.setattr(demo, "load_bundle", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        demo.app([str(source), "--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and text in lines[0]


def test_a_bag_cut_off_in_the_middle_says_so(tmp_path):
    bag = scene_bag(tmp_path / "bag", 4)
    file = bag / "bag.mcap"
    file.write_bytes(file.read_bytes()[:2_000_000])
    with pytest.raises(SourceError, match="cut off while recording"):
        play(bag)


def test_without_rosbags_the_remedy_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.mcap").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "rosbags.rosbag2", None)
    with pytest.raises(SourceError, match="pip install rosbags"):
        open_source(str(tmp_path / "x.mcap"), 30, 1, 1280)
    with pytest.raises(ValueError, match="pip install rosbags"):
        BagWriter(tmp_path / "new")


class CameraSession(RosSession):
    """A camera_node on a bag, everything it publishes, and answers as ofer_node would give them."""

    def __init__(self, **parameters) -> None:
        super().__init__()
        self.images: list[Image] = []
        self.infos: list[CameraInfo] = []
        self.answers = self.client.create_publisher(FaceArray, "/ofer_node/faces", FACES)
        self.client.create_subscription(CameraInfo, "/camera_info", self.infos.append, QoSProfile(depth=50))
        self.client.create_subscription(Image, "/image_raw", self.images.append, QoSProfile(depth=50))
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.camera = self.add(CameraNode(context=self.context, parameter_overrides=overrides))


def test_camera_node_plays_a_bag_as_it_was_recorded(tmp_path):
    bag = scene_bag(tmp_path / "bag", 10)
    with CameraSession(source=str(bag), loop=False, wait_for_subscribers=1, log_file=str(tmp_path / "log")) as session:
        session.wait_for(lambda: session.camera.finished and len(session.images) == 10 and len(session.infos) == 10)
    stamps = [START + index * PERIOD for index in range(10)]
    assert [stamp_key(message.header.stamp) for message in session.images] == stamps
    assert [stamp_key(message.header.stamp) for message in session.infos] == stamps
    assert {message.header.frame_id for message in session.images} == {"head_camera"}
    assert [message.k[0] for message in session.infos] == 10 * [610.0]
    assert session.images[3].encoding == "bgr8"
    sent = np.array(session.images[3].data).reshape(480, 640, 3)[..., ::-1]
    np.testing.assert_array_equal(sent, Scene()(3).rgb)
    logged = [json.loads(line)["stamp"] for line in (tmp_path / "log").read_text().splitlines()]
    assert logged == stamps


def test_camera_node_waits_for_the_answer_to_each_picture(tmp_path):
    bag = scene_bag(tmp_path / "bag", 3)
    with CameraSession(source=str(bag), loop=False, paced_by="ofer_node/faces") as session:
        for index in range(3):
            session.wait_for(lambda expected=index + 1: len(session.images) == expected)
            assert not session.camera.finished
            with pytest.raises(AssertionError):  # two thirds of the pace the bag was recorded at
                session.wait_for(lambda expected=index + 1: len(session.images) > expected, timeout=0.1)
            session.answers.publish(FaceArray(header=session.images[-1].header))
        session.wait_for(lambda: session.camera.finished)


def test_camera_node_goes_on_when_an_answer_fails_to_come(tmp_path, monkeypatch):
    monkeypatch.setattr("ofer_ros.nodes.camera_node._ANSWER_LIMIT", 0.2)
    bag = scene_bag(tmp_path / "bag", 3)
    with CameraSession(source=str(bag), loop=False, paced_by="ofer_node/faces") as session:
        session.wait_for(lambda: session.camera.finished and len(session.images) == 3)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_written_bag_is_read_with_its_own_definitions(tmp_path, storage):
    message = face_array_message([fake_face()], Header(stamp=image_message(stamp=5.25).header.stamp), (480, 640))
    writer = BagWriter(tmp_path / "bag", storage)
    writer.add_topic("/n/faces", FaceArray, FACES)
    writer.add_topic("/n/head_model", HeadModel, LATCHED)
    writer.write("/n/head_model", serialize_message(HeadModel(bundle="open")))
    writer.advance(5_250_000_000)
    writer.write("/n/faces", serialize_message(message))
    writer.close()
    types, content = read_bag(tmp_path / "bag")
    assert types == {"/n/faces": "ofer_msgs/msg/FaceArray", "/n/head_model": "ofer_msgs/msg/HeadModel"}
    assert [(time, model.bundle) for time, model in content["/n/head_model"]] == [(5_250_000_000, "open")]
    ((time, faces),) = content["/n/faces"]
    assert (time, faces.header.stamp.sec, faces.header.stamp.nanosec) == (5_250_000_000, 5, 250_000_000)
    np.testing.assert_array_equal(faces.faces[0].expressions, np.float32(message.faces[0].expressions))
    assert faces.faces[0].num_hypotheses == 15
    with Reader(tmp_path / "bag") as reader:
        offered = {one.topic: one.ext.offered_qos_profiles[0].durability for one in reader.connections}
        digests = {one.msgtype: one.digest for one in reader.connections}
    assert offered["/n/head_model"] == QosDurability.TRANSIENT_LOCAL, "a player latches it again"
    installed = Path(get_package_share_directory("ofer_msgs"), "msg", "FaceArray.json")
    hashes = {item["type_name"]: item["hash_string"] for item in json.loads(installed.read_text())["type_hashes"]}
    assert digests["ofer_msgs/msg/FaceArray"] == hashes["ofer_msgs/msg/FaceArray"]
    with pytest.raises(OSError, match="exists"):
        BagWriter(tmp_path / "bag", storage)


def test_a_bag_through_the_demo(tmp_path):
    bag = scene_bag(tmp_path / "bag", 24)
    options = DemoOptions(source=str(bag), out=tmp_path / "out")
    summary = run_demo(options, Console(file=io.StringIO()))
    stamps = [START + index * PERIOD for index in range(24)]
    types, content = read_bag(tmp_path / "out" / "bag")
    assert types == {
        "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
        "/ofer_node/faces": "ofer_msgs/msg/FaceArray",
        "/ofer_node/head_model": "ofer_msgs/msg/HeadModel",
        "/ofer_node/markers": "visualization_msgs/msg/MarkerArray",
    }
    faces = [message for _, message in content["/ofer_node/faces"]]
    assert [stamp_key(message.header.stamp) for message in faces] == stamps, "every picture, and none twice"
    assert [time for time, _ in content["/ofer_node/faces"]] == stamps
    assert {message.header.frame_id for message in faces} == {"head_camera"}
    assert all(len(message.faces) == 1 and message.faces[0].metric for message in faces[2:])
    meshes = [markers.markers[0] for _, markers in content["/ofer_node/markers"] if markers.markers[0].points]
    assert meshes and {stamp_key(marker.header.stamp) for marker in meshes} <= set(stamps)
    assert len(content["/ofer_node/head_model"]) == 1 and content["/diagnostics"]
    assert (summary["frames_sent"], summary["frames_dropped"]) == (24, 0)
    assert summary["bag"] == {"topic": COLOR, "camera_info": COLOR_INFO, "images": 24}
    assert 0 < summary["latency_ms"]["p50"] < 60_000, "not the age of the recording"
    film = cv2.VideoCapture(str(tmp_path / "out" / "overlay.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) > 0


def test_the_bags_own_definition_of_a_message_is_used(tmp_path):
    """A picture of a distribution whose message has one field more, before the pixels."""
    name = "sensor_msgs/msg/Image"
    store = get_typestore(Stores.EMPTY)
    own = {kind: TYPES.fielddefs[kind] for kind in ("builtin_interfaces/msg/Time", "std_msgs/msg/Header")}
    constants, fields = TYPES.fielddefs[name]
    step = next(field for field in fields if field[0] == "step")
    store.register(own | {name: (constants, [*fields[:-1], ("row_bytes", step[1]), fields[-1]])})
    colour = np.full((48, 64, 3), (10, 20, 30), np.uint8)
    plain = image(START, colour)
    values = {field: getattr(plain, field) for field, _ in fields}
    stamp = store.types["builtin_interfaces/msg/Time"](sec=5, nanosec=0)
    head = store.types["std_msgs/msg/Header"](stamp=stamp, frame_id="odd")
    message = store.types[name](**values | {"header": head, "row_bytes": 7})
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/image", name, typestore=store)
        writer.write(connection, START, bytes(store.serialize_cdr(message, name)))
    (frame,) = play(tmp_path / "bag")
    assert frame.bgr[3, 3].tolist() == [30, 20, 10] and frame.recorded.frame_id == "odd"


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_chunk_unpacks_to_what_it_tells_and_no_further(compression):
    from ofer_ros.camera.bag_reader import _unpacked

    if compression == "lz4":
        packed = pytest.importorskip("lz4.frame").compress(bytes(20_000_000))
    else:
        from rosbags.rosbag2.storage_mcap import zstd

        packed = zstd.compress(bytes(20_000_000))
    assert len(_unpacked(compression, packed, 20_000_000)) == 20_000_000
    assert len(_unpacked(compression, packed, 10)) == 11, "one more than told: rosbags sees that it is another size"
    with pytest.raises(ValueError, match="a chunk of"):
        _unpacked(compression, packed, 1 << 40)
