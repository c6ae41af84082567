"""A camera that misbehaves: it changes resolution, encoding, calibration and transport, is turned, breaks frames and
CameraInfos, lets its stamps stand still, stops and comes back."""

from __future__ import annotations

import threading
from collections import Counter

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from ofer_ros.camera.scene import FRAMES, Scene
from ofer_ros.nodes.camera_node import camera_info
from ofer_ros.output.large_arrays import compressed_image_bytes, image_bytes

SIZES = ((640, 480), (320, 240), (480, 360), (640, 360))
ENCODINGS = ("rgb8", "bgr8", "mono8", "yuv422_yuy2")
_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_BLOCK = 4096  # bytes that a driver's buffers are multiples of
_BOMB = cv2.imencode(".png", np.zeros((20_000, 20_000), np.uint8))[1].tobytes()  # 0.4 GB in 0.4 MB
_STRIDE = 3  # of the scene's frames: a moving face, and few of them to render beforehand


class RoughCamera:
    """Publishes the built-in scene from a thread of its own. `frame_id` and topics as camera_node's."""

    def __init__(self, node: Node, rate: float, broken_share: float, seed: int = 0) -> None:
        """broken_share: part of the frames that is damaged."""
        self._node = node
        self._rate = rate
        self._broken_share = broken_share
        self._rng = np.random.default_rng(seed)
        scene = Scene()
        self._frames = [scene(index).rgb for index in range(0, FRAMES, _STRIDE)]
        self._size, self._encoding, self._degrees = SIZES[0], ENCODINGS[0], 60.0
        self._images = self._infos = self._jpegs = None
        self._compressed = False
        self._quarter_turns = 0
        self._frozen: Time | None = None  # the stamp that all frames have
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.counts: Counter[str] = Counter()
        self.start()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Come (back)."""
        with self._lock:
            self._images = self._node.create_publisher(Image, "image_raw", _QOS)
            self._jpegs = self._node.create_publisher(CompressedImage, "image_raw/compressed", _QOS)
            self._infos = self._node.create_publisher(CameraInfo, "camera_info", _QOS)

    def stop(self) -> None:
        """Go away, as a pulled plug: the topics lose their publishers."""
        with self._lock:
            self._unplug()
            self.counts["stops"] += 1

    def _unplug(self) -> None:
        for publisher in filter(None, (self._images, self._jpegs, self._infos)):
            self._node.destroy_publisher(publisher)
        self._images = self._jpegs = self._infos = None

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._unplug()

    def change_resolution(self) -> None:
        with self._lock:
            self._size = SIZES[(SIZES.index(self._size) + 1) % len(SIZES)]
            self._encoding = ENCODINGS[self.counts["resolutions"] % len(ENCODINGS)]
            self.counts["resolutions"] += 1

    def change_calibration(self) -> None:
        with self._lock:
            self._degrees = float(self._rng.uniform(45, 90))
            self.counts["calibrations"] += 1

    def turn(self) -> None:
        """By a quarter: upright, on one side, upside down, on the other."""
        with self._lock:
            self._quarter_turns += 1
            self.counts["turns"] += 1

    def change_transport(self) -> None:
        """From raw images to padded JPEGs, and back."""
        with self._lock:
            self._compressed = not self._compressed
            self.counts["transports"] += 1

    def change_stamps(self) -> None:
        """From a clock that runs to one that stands still, and back."""
        with self._lock:
            self._frozen = self._node.get_clock().now().to_msg() if self._frozen is None else None
            self.counts["clocks"] += 1

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(1 / self._rate):
            with self._lock:
                if self._images is not None:
                    self._publish(self._frames[number % len(self._frames)])
                    number += 1

    def _publish(self, rgb: np.ndarray) -> None:
        stamp = self._frozen or self._node.get_clock().now().to_msg()
        self.counts["frozen"] += self._frozen is not None
        header = Header(stamp=stamp, frame_id="camera_optical_frame")
        rgb = np.rot90(cv2.resize(rgb, self._size, interpolation=cv2.INTER_AREA), self._quarter_turns)
        height, width = rgb.shape[:2]
        info = camera_info(header, width, height, self._degrees)
        if self._rng.random() < self._broken_share:
            self.counts["broken_infos"] += 1
            info = self._broken_info(info)
        self._infos.publish(info)
        if self._compressed:
            self._publish_jpeg(rgb, header)
            return
        pixels = encoded(rgb, self._encoding)
        self.counts["frames"] += 1
        if self._rng.random() < self._broken_share:
            self.counts["broken"] += 1
            self._images.publish(self._broken(pixels, header))
        else:
            self._images.publish(image_bytes(pixels, self._encoding, header))

    def _publish_jpeg(self, rgb: np.ndarray, header: Header) -> None:
        """A JPEG in a buffer of whole kilobytes, as cheap cameras hand it out; broken: cut, or a bomb."""
        data = cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes()
        self.counts["frames"] += 1
        if self._rng.random() < self._broken_share:
            self.counts["broken"] += 1
            bomb = self._rng.random() < 0.5
            self.counts["bombs"] += bomb
            data = _BOMB if bomb else data[: len(data) // 2]
        self.counts["jpegs"] += 1
        data += bytes(-len(data) % _BLOCK)
        self._jpegs.publish(compressed_image_bytes(data, "jpeg", header))

    def _broken_info(self, info: CameraInfo) -> CameraInfo:
        """One of the CameraInfos that no camera can have."""
        match = int(self._rng.integers(5))
        if match == 0:
            info.k = [0.0] * 9
        elif match == 1:
            info.k = [float("nan")] * 9
        elif match == 2:
            info.binning_x = info.binning_y = 5000
        elif match == 3:
            info.distortion_model, info.d = "of_our_own", [1.0] * 3
        else:
            info.width = info.height = 0
        return info

    def _broken(self, pixels: np.ndarray, header: Header) -> Image:
        """One of the ways in which drivers and networks damage an image."""
        message = Image(header=header, height=pixels.shape[0], width=pixels.shape[1], encoding=self._encoding)
        message.step, data = pixels.strides[0], pixels.tobytes()
        match = int(self._rng.integers(6))
        if match == 0:
            data = data[: len(data) // 2]
        elif match == 1:
            message.encoding = "32FC1"
        elif match == 2:
            message.width = message.height = message.step = 0
            data = b""
        elif match == 3:
            message.step //= 2
        elif match == 4:
            message.width = 8000
        else:
            data = b""
        message.data = data
        return message


def encoded(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """Pixels of an RGB picture in one of ENCODINGS."""
    if encoding == "bgr8":
        return np.ascontiguousarray(rgb[..., ::-1])
    if encoding == "mono8":
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if encoding == "yuv422_yuy2":
        luma, cr, cb = np.moveaxis(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb).astype(np.float32), -1, 0)
        chroma = np.where(np.arange(rgb.shape[1]) % 2 == 0, cb, cr)
        # From the full range to that of packed formats: 16..235 and 16..240.
        packed = np.stack([16 + luma * (219 / 255), 128 + (chroma - 128) * (224 / 255)], axis=-1)
        return np.round(packed).astype(np.uint8)
    return np.ascontiguousarray(rgb)
