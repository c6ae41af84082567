"""camera_node: publishes a source of pictures as a camera would, with intrinsics that state a field of view."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import cv2
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from ofer_models.perception.intrinsics import Intrinsics
from ofer_ros.cdr import compressed_image_bytes, image_bytes
from ofer_ros.geometry import stamp_key
from ofer_ros.managed_node import run
from ofer_ros.parameters import CameraSettings, declare, read
from ofer_ros.sources import SourceError, SourceFrame, open_source

NAME = "camera_node"
_JPEG_QUALITY = 90
# Reliable publishers serve reliable and best-effort readers alike.
_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


class CameraNode(Node):
    """Publishes image_raw (or image_raw/compressed) and camera_info at a fixed rate.

    `finished` becomes True at the end of a source that is not looped. Raises SourceError (one line) for a bad source.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(NAME, **kwargs)
        declare(self, NAME, CameraSettings)
        self._settings = settings = read(self, CameraSettings)
        self._frames = self._open()
        # By lines, so that a reader sees the frames as they are sent.
        self._log = Path(settings.log_file).open("w", buffering=1) if settings.log_file else None
        self.finished = False
        self._waiting = settings.wait_for_subscribers > 0
        if settings.compressed:
            self._images = self.create_publisher(CompressedImage, "image_raw/compressed", _QOS)
        else:
            self._images = self.create_publisher(Image, "image_raw", _QOS)
        self._infos = self.create_publisher(CameraInfo, "camera_info", _QOS) if settings.camera_info else None
        self.create_timer(1.0 / settings.rate, self._tick)
        self.get_logger().info(f"source '{settings.source}' at {settings.rate:g} Hz on {self._images.topic_name}")

    def _open(self):
        settings = self._settings
        return open_source(settings.source, settings.rate, settings.hold, settings.max_side)

    def _tick(self) -> None:
        if self.finished:
            return
        if self._waiting:
            self._waiting = self._images.get_subscription_count() < self._settings.wait_for_subscribers
            return
        try:
            frame = self._next()
        except SourceError as error:
            self.get_logger().error(f"source ended: {error}")
            frame = None
        if frame is None:
            self.finished = True
            return
        self.publish(frame)

    def _next(self) -> SourceFrame | None:
        frame = next(self._frames, None)
        if frame is None and self._settings.loop:
            self._frames = self._open()
            frame = next(self._frames, None)
        return frame

    def publish(self, frame: SourceFrame) -> None:
        """Send one picture, stamped now, with its camera_info."""
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._settings.frame_id)
        # First the intrinsics: where pictures differ in size, a reader that caches them then has the right ones.
        if self._infos is not None:
            height, width = frame.bgr.shape[:2]
            self._infos.publish(camera_info(header, width, height, self._settings.field_of_view))
        if self._settings.compressed:
            good, jpeg = cv2.imencode(".jpg", frame.bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            if not good:
                raise SourceError(f"{frame.name} cannot be encoded as JPEG")
            self._images.publish(compressed_image_bytes(jpeg.tobytes(), "jpeg", header))
        else:
            self._images.publish(image_bytes(frame.bgr, "bgr8", header))
        if self._log is not None:
            line = {"stamp": stamp_key(header.stamp), "name": frame.name, "face_expected": frame.face_expected}
            self._log.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Give the last frame time to leave, then end the log."""
        if self.finished:
            time.sleep(0.3)
        if self._log is not None:
            self._log.close()
            self._log = None


def camera_info(header: Header, width: int, height: int, field_of_view: float) -> CameraInfo:
    """CameraInfo of an ideal camera with `field_of_view` degrees along the longer side."""
    k = Intrinsics.from_field_of_view(width, height, field_of_view).K
    message = CameraInfo(header=header, width=width, height=height, distortion_model="plumb_bob")
    message.d = [0.0] * 5
    message.k = k.ravel().tolist()
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [*k[0].tolist(), 0.0, *k[1].tolist(), 0.0, *k[2].tolist(), 0.0]
    return message


def main(args: list[str] | None = None) -> int:
    return run(CameraNode, args)


if __name__ == "__main__":
    sys.exit(main())
