"""camera_node's videos and webcams: own rate, own stamps, upright; the newest frame, stamped when it was taken."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import struct
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from rclpy.parameter import Parameter
from ros_support import LIMIT, RosSession, wait_for
from sensor_msgs.msg import Image

from ofer_ros.base.geometry import seconds
from ofer_ros.camera import video
from ofer_ros.camera.sources import open_source, own_pace
from ofer_ros.camera.video import Webcam
from ofer_ros.nodes import camera_node
from ofer_ros.nodes.camera_node import CameraNode

pytestmark = pytest.mark.ros


def clip(file: Path, rate: float, frames: int, turned: int = 0) -> Path:
    """A video of 64 x 48, red at the upper left; turned: degrees clockwise by which a player is told to show it."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = (0, 0, 255)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), rate, (64, 48))
    for _ in range(frames):
        writer.write(picture)
    writer.release()
    data = bytearray(file.read_bytes())
    matrix = data.find(b"tkhd") + 4 + 40  # in a track header of version 0
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turned]
    data[matrix : matrix + 36] = struct.pack(
        ">9i", cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30
    )
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("rate", [15.0, 60.0])
def test_a_video_s_frames_are_as_far_apart_as_in_the_file(tmp_path, rate):
    frames = list(open_source(str(clip(tmp_path / "clip.mp4", rate, 12)), rate=30, hold=1.0, max_side=32))
    times = np.array([frame.time for frame in frames])
    assert len(frames) == 12 and frames[0].bgr.shape == (24, 32, 3)
    np.testing.assert_allclose(np.diff(times), 1 / rate, atol=2e-3)


@pytest.mark.parametrize(("turned", "corner"), [(0, (5, 5)), (90, (5, -5)), (180, (-5, -5)), (270, (-5, 5))])
def test_a_video_is_turned_as_its_file_says(tmp_path, turned, corner):
    frame = next(open_source(str(clip(tmp_path / "clip.mp4", 30.0, 2, turned)), 30, 1.0, 1280))
    assert frame.bgr.shape[:2] == ((48, 64) if turned % 180 == 0 else (64, 48))
    assert frame.bgr[corner][2] > 150


def test_camera_node_plays_a_video_at_its_own_rate_with_its_own_stamps(tmp_path, monkeypatch):
    """The node's `rate` is for what has none. The clock is the test's: a clip of 15 Hz, shown as time passes."""
    file = clip(tmp_path / "clip.mp4", 15.0, 6)
    now = [1000.0]
    monkeypatch.setattr(camera_node, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    with RosSession() as session:
        images: list[Image] = []
        session.client.create_subscription(Image, "/image_raw", images.append, 10)
        given = {"source": str(file), "rate": 30.0, "loop": False, "wait_for_subscribers": 1}
        node = CameraNode(
            context=session.context, parameter_overrides=[Parameter(name, value=value) for name, value in given.items()]
        )
        session.add(node)
        session.wait_for(lambda: len(images) == 1)
        for shown in (2, 3):
            now[0] += 0.8 / 15
            time.sleep(0.1)
            assert len(images) == shown - 1, "not due yet"
            now[0] += 0.2 / 15 + 1e-4
            session.wait_for(lambda shown=shown: len(images) == shown)
        now[0] += 1.0
        session.wait_for(lambda: node.finished)
        session.wait_for(lambda: len(images) == 6)
    np.testing.assert_allclose(np.diff([seconds(image.header.stamp) for image in images]), 1 / 15, atol=2e-3)


def test_what_has_a_pace_of_its_own(tmp_path):
    video = clip(tmp_path / "clip.mp4", 15.0, 2)
    assert own_pace(str(video))
    assert not any(own_pace(source) for source in ("scene", "0", str(tmp_path), str(tmp_path / "a.png")))


class Camera:
    """A driver's queue: frames are made at the test's pace, and read oldest first."""

    def __init__(self) -> None:
        self.queue: list[int] = []
        self.more = threading.Condition()
        self.ended = False

    def make(self, number: int) -> None:
        with self.more:
            self.queue.append(number)
            self.more.notify()

    def read(self) -> tuple[bool, np.ndarray | None]:
        with self.more:
            self.more.wait_for(lambda: self.queue or self.ended, 600)
            return (True, np.full((4, 4, 3), self.queue.pop(0), np.uint8)) if self.queue else (False, None)

    def release(self) -> None:
        self.ended = True


def test_a_webcam_gives_its_newest_frame_with_the_time_it_was_taken(monkeypatch):
    now = iter(range(100, 200))  # the next at each look at the clock
    monkeypatch.setattr(video, "time", SimpleNamespace(monotonic=lambda: next(now)))
    camera = Camera()
    webcam = Webcam(camera)
    for number in range(5):
        camera.make(number)
    wait_for(lambda: webcam._frame is not None and webcam._frame[1] == 104)  # nobody asks for them
    pixels, taken = webcam.next()
    assert pixels[0, 0, 0] == 4, "not the oldest that the driver still had"
    assert taken == 104
    assert webcam.next(patience=0.05) is None, "none twice"
    camera.make(7)
    assert webcam.next(patience=LIMIT)[0][0, 0, 0] == 7
    with camera.more:
        camera.ended = True
        camera.more.notify()
    assert webcam.next(patience=LIMIT) is None
    webcam.close()
