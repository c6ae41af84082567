"""Packages that ROS has and the Python registry has not: what the node does with them, and without.

The tests with the real package skip where it is absent. Where it is not installed, a colcon overlay of it does.
"""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import time

import cv2
import numpy as np
from ros_support import NodeHarness, fake_face, image_message
from sensor_msgs.msg import Image

from ofer_models.head.arkit import ARKIT_NAMES
from ofer_models.perception.intrinsics import Intrinsics
from ofer_ros.base.geometry import pose_arrays
from ofer_ros.input import cv_bridge_converter
from ofer_ros.input.images import image_to_rgb
from ofer_ros.output import ros4hri, transforms
from ofer_ros.output.action_units import action_units
from ofer_ros.output.face_meshes import FaceLandmarks
from ofer_ros.output.messages import face_message

pytestmark = pytest.mark.ros
PICTURE = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)


def log_lines(capfd, text: str) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if text in line]


def test_ros4hri_without_hri_msgs_is_said_once_and_faces_come_all_the_same(monkeypatch, capfd):
    monkeypatch.setattr(ros4hri.HriFaces, "available", False)
    with NodeHarness(ros4hri=True) as harness:
        (line,) = log_lines(capfd, "hri_msgs is not installed")
        assert "[WARN]" in line and "ros-<distribution>-hri-msgs" in line
        assert harness.send_and_wait(image_message(stamp=1.0)).faces
        assert not harness.client.count_publishers("/humans/faces/tracked")


def test_without_the_switch_there_are_no_humans_topics(capfd):
    with NodeHarness() as harness:
        assert harness.send_and_wait(image_message(stamp=1.0)).faces
        assert not [name for name, _ in harness.client.get_topic_names_and_types() if name.startswith("/humans")]
        assert not log_lines(capfd, "hri_msgs")


@pytest.fixture
def humans():
    """A node with ros4hri, and what arrives below /humans/faces by topic."""
    messages = pytest.importorskip("hri_msgs.msg", reason="ros-<distribution>-hri-msgs")
    kinds = {"roi": messages.NormalizedRegionOfInterest2D, "cropped": Image, "landmarks": messages.FacialLandmarks}
    kinds |= {"aligned": Image}
    with NodeHarness(ros4hri=True) as harness:
        received: dict[str, list] = {}

        def listen(name: str, kind: type) -> None:
            received[name] = []
            harness.client.create_subscription(kind, f"/humans/faces/{name}", received[name].append, 10)

        listen("tracked", messages.IdsList)
        for track in ("f1", "f2"):
            for name, kind in kinds.items():
                listen(f"{track}/{name}", kind)
        yield harness, received
        assert not harness.escaped


def test_rep_155_topics_of_the_real_hri_msgs(humans):
    harness, received = humans
    harness.pipeline.tracks = ["f1", "f2"]

    def all_arrived() -> bool:
        harness.send_and_wait(image_message(PICTURE, stamp=time.time()))
        return all(received.values())

    harness.wait_for(all_arrived)
    faces = {face.id: face for face in harness.faces[-1].faces}
    assert list(received["tracked"][-1].ids) == ["f1", "f2"]
    assert received["tracked"][-1].header.frame_id == "camera"
    roi = received["f2/roi"][-1]
    box = faces["f2"].roi
    assert (roi.xmin, roi.ymin) == pytest.approx((box.x_offset / 640, box.y_offset / 480))
    assert (roi.xmax, roi.ymax) == pytest.approx(((box.x_offset + box.width) / 640, (box.y_offset + box.height) / 480))
    for name in ("cropped", "aligned"):
        assert image_to_rgb(received[f"f1/{name}"][-1]).shape == (128, 128, 3)
    landmarks = received["f1/landmarks"][-1]
    assert (landmarks.width, landmarks.height, len(landmarks.landmarks)) == (640, 480, 70)
    points = FaceLandmarks(harness.pipeline.head)(faces["f1"])
    sellion = Intrinsics.from_field_of_view(640, 480, 60.0).project(points[27:28])[0]
    mark = landmarks.landmarks[landmarks.SELLION]
    assert (mark.x * 640, mark.y * 480) == pytest.approx(tuple(sellion), abs=0.1)
    pupil = landmarks.landmarks[landmarks.LEFT_PUPIL]
    assert (pupil.x * 640, pupil.y * 480) == pytest.approx(tuple(fake_face("f1").landmarks[473, :2]), abs=0.01)


def test_a_lost_face_loses_its_topics_and_deactivate_empties_the_list(humans):
    harness, received = humans
    harness.pipeline.tracks = ["f1", "f2"]
    count = harness.client.count_publishers
    harness.send_and_wait(image_message(PICTURE, stamp=1.0))
    harness.wait_for(lambda: count("/humans/faces/f2/roi") == 1)
    harness.pipeline.tracks = ["f1"]
    harness.send_and_wait(image_message(PICTURE, stamp=1.1))
    harness.wait_for(lambda: count("/humans/faces/f2/roi") == 0)
    assert count("/humans/faces/f1/roi") == 1
    harness.wait_for(lambda: received["tracked"] and list(received["tracked"][-1].ids) == ["f1"])
    assert harness.change("deactivate")
    harness.wait_for(lambda: list(received["tracked"][-1].ids) == [])
    harness.wait_for(lambda: count("/humans/faces/f1/roi") == 0)
    assert harness.change("cleanup")
    harness.wait_for(lambda: count("/humans/faces/tracked") == 0)


@pytest.mark.parametrize(
    ("box", "filled"),
    [
        pytest.param((200, 100, 100, 200), (slice(0, 128), slice(32, 96)), id="tall"),
        pytest.param((200, 100, 200, 50), (slice(48, 80), slice(0, 128)), id="wide"),
        pytest.param((600, 100, 80, 40), (slice(0, 128), slice(0, 128)), id="over-the-edge"),
    ],
)
def test_crops_keep_their_shape_and_are_centred(box, filled):
    face = face_message(type(fake_face())(**{**vars(fake_face()), "roi": box}))
    picture = ros4hri.crop(np.full((480, 640, 3), 200, np.uint8), face)
    assert (picture[filled] == 200).all()
    inside = np.zeros((128, 128), bool)
    inside[filled] = True
    assert not picture[~inside].any()
    face.roi.x_offset, face.roi.width = 640, 0
    assert not ros4hri.crop(np.full((480, 640, 3), 200, np.uint8), face).any(), "nothing of it in the picture"


def test_an_aligned_face_stands_upright():
    landmarks = np.zeros((478, 3))
    landmarks[:, :2] = (300.0, 200.0)
    landmarks[33, :2], landmarks[263, :2] = (300.0, 170.0), (300.0, 230.0)  # rolled by 90 degrees: the left eye below
    landmarks[10, :2], landmarks[152, :2] = (340.0, 200.0), (240.0, 200.0)  # forehead and chin
    picture = np.zeros((480, 640, 3), np.uint8)
    cv2.circle(picture, (335, 200), 4, (255, 0, 0), -1)
    cv2.circle(picture, (300, 230), 4, (0, 255, 0), -1)
    turned = ros4hri.aligned(picture, landmarks)
    assert turned.shape == (128, 128, 3)
    forehead, left = (np.argwhere(turned[..., channel] > 100).mean(axis=0) for channel in (0, 1))
    assert forehead[0] < 30 and abs(forehead[1] - 64) < 4, "at the top"
    assert left[1] > 85, "the left eye is to the right"


def test_action_units_are_means_of_arkit_s_weights():
    weights = np.zeros(52)
    weights[[ARKIT_NAMES.index("mouthSmileLeft"), ARKIT_NAMES.index("jawOpen")]] = 1.0, 0.4
    weights[[ARKIT_NAMES.index("eyeLookOutLeft"), ARKIT_NAMES.index("eyeLookInRight")]] = 0.8
    intensity, confidence = action_units(weights, 0.9)
    assert intensity.shape == confidence.shape == (99,)
    assert (intensity[12], intensity[26], intensity[61], intensity[62]) == pytest.approx((0.5, 0.4, 0.8, 0.0))
    assert confidence[12] == pytest.approx(0.9) and confidence[50] == 0, "speech: nobody knows"


def test_transforms_of_the_real_tf2_msgs():
    messages = pytest.importorskip("tf2_msgs.msg", reason="ros-<distribution>-tf2-msgs")
    with NodeHarness() as harness:
        sent = []
        harness.client.create_subscription(messages.TFMessage, "/tf", sent.append, 100)
        assert transforms.FaceTransforms(harness.node, harness.pipeline.head).available
        harness.wait_for(lambda: harness.send_and_wait(image_message(stamp=time.time())) and sent)
        face, gaze = sent[-1].transforms
        assert (face.header.frame_id, face.child_frame_id) == ("camera", "face_f1")
        assert (gaze.header.frame_id, gaze.child_frame_id) == ("face_f1", "gaze_f1")
        _, position = pose_arrays(harness.faces[-1].faces[0].pose)
        t = face.transform.translation
        assert np.linalg.norm(np.array([t.x, t.y, t.z]) - position) < 0.2


@pytest.mark.parametrize("installed", [False, True])
def test_conversion_by_cv_bridge_where_it_is_installed(monkeypatch, capfd, installed):
    if installed and cv_bridge_converter.CvBridge is None:
        pytest.skip("cv_bridge is not installed (ros-<distribution>-cv-bridge)")
    if not installed:
        monkeypatch.setattr(cv_bridge_converter, "CvBridge", None)
    with NodeHarness(conversion="cv_bridge") as harness:
        assert len(log_lines(capfd, "cv_bridge is not installed")) == (not installed)
        assert harness.send_and_wait(image_message(PICTURE, "bgr8", 1.0)).faces
        assert harness.pipeline.frames[-1][0] == (480, 640, 3)
