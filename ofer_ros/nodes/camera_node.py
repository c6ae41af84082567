"""camera_node: publishes a source of pictures as a camera would, with intrinsics that state a field of view.

The pictures of a bag keep their stamps, frame and CameraInfo. They and the frames of a video come at the pace they were
recorded at, and a video's stamps are as far apart. Pictures that wait for answers are stamped at the rate that they are
to be seen at, however long the answers take: else a slow reader would find a new scene in each.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import cv2
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from ofer_models.perception.intrinsics import Intrinsics
from ofer_msgs.msg import FaceArray
from ofer_ros.base.geometry import stamp_key
from ofer_ros.base.parameters import declare, read
from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.base.qos import FACES
from ofer_ros.base.settings import CameraSettings
from ofer_ros.camera.source_frame import SourceError, SourceFrame
from ofer_ros.camera.sources import open_source, own_pace
from ofer_ros.nodes.lifecycle import run
from ofer_ros.output.large_arrays import compressed_image_bytes, image_bytes

NAME = "camera_node"
_JPEG_QUALITY = 90
_LOOK_EVERY = 0.005  # seconds between looks at whether the next recorded picture is due
_NAMED = 20  # pictures that were left out, at the end
_ANSWER_LIMIT = 30.0  # seconds that an answer is waited for: the first face's identity may take some
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
        self._problems = ProblemLog(self.get_logger().warning)
        self._frames = self._open()
        # By lines, so that a reader sees the frames as they are sent.
        self._log = Path(settings.log_file).open("w", buffering=1) if settings.log_file else None
        self.finished = False
        self._waiting = settings.wait_for_subscribers > 0 or bool(settings.paced_by)
        self._pending: SourceFrame | None = None  # read, but not due yet
        self._timeline: tuple[float, float, Time] | None = None  # this clock, the source's (s), and ROS's at the start
        self._left_out: dict[str, str] = {}  # since the source began, and why
        self._unanswered: tuple[int, float] | None = None  # stamp of the last picture and when it was sent
        self._stamped: Time | None = None  # the last picture that has no time of its own and waited for an answer
        if settings.compressed:
            self._images = self.create_publisher(CompressedImage, "image_raw/compressed", _QOS)
        else:
            self._images = self.create_publisher(Image, "image_raw", _QOS)
        self._infos = self.create_publisher(CameraInfo, "camera_info", _QOS) if settings.camera_info else None
        if settings.paced_by:
            self.create_subscription(FaceArray, settings.paced_by, self._on_answer, FACES)
        recorded = own_pace(settings.source)
        self.create_timer(_LOOK_EVERY if recorded else 1.0 / settings.rate, self._tick)
        pace = "as recorded" if recorded else f"at {settings.rate:g} Hz"
        self.get_logger().info(f"source '{settings.source}' {pace} on {self._images.topic_name}")

    def _open(self):
        settings = self._settings
        return open_source(settings.source, settings.rate, settings.hold, settings.max_side)

    def _tick(self) -> None:
        if self.finished:
            return
        if self._waiting:
            listeners = self._images.get_subscription_count()
            paced = self._settings.paced_by
            unanswered = bool(paced) and not self.count_publishers(paced)
            self._waiting = listeners < self._settings.wait_for_subscribers or unanswered
            return
        if self._unanswered is not None and not self._given_up():
            return
        try:
            frame = self._pending or self._next()
        except SourceError as error:
            self.get_logger().error(f"source ended: {error}")
            frame = None
        if frame is None:
            self.finished = True
        elif not self._due(frame):
            self._pending = frame
        else:
            self._pending = None
            self.publish(frame)

    def _next(self) -> SourceFrame | None:
        frame = next(self._frames, None)
        if frame is None and self._left_out:
            told = "; ".join(f"{name} ({problem})" for name, problem in list(self._left_out.items())[:_NAMED])
            told += f"; and {len(self._left_out) - _NAMED} more" if len(self._left_out) > _NAMED else ""
            self.get_logger().warning(f"left out of '{self._settings.source}': {told}")
            self._left_out.clear()
        if frame is None and self._settings.loop:
            self._frames, self._timeline = self._open(), None
            frame = next(self._frames, None)
        return frame

    def _due(self, frame: SourceFrame) -> bool:
        """Whether it is time for a picture; those that were recorded come as far apart as they were."""
        if frame.moment is None:
            return True
        if self._timeline is None:
            self._timeline = time.monotonic(), frame.moment, self.get_clock().now()
        started, first, _ = self._timeline
        return time.monotonic() - started >= frame.moment - first

    def _on_answer(self, message: FaceArray) -> None:
        if self._unanswered is not None and stamp_key(message.header.stamp) == self._unanswered[0]:
            self._unanswered = None

    def _given_up(self) -> bool:
        """Whether the last picture was waited for long enough."""
        if time.monotonic() - self._unanswered[1] < _ANSWER_LIMIT:
            return False
        self._unanswered = None
        self._problems.report(f"no answer on {self._settings.paced_by} in {_ANSWER_LIMIT:g} s: going on without")
        return True

    def publish(self, frame: SourceFrame) -> None:
        """Send one picture with its camera_info, stamped as it was taken or recorded."""
        if frame.problem:
            self._left_out[frame.name] = frame.problem
            self._problems.report(f"{frame.name} is left out: {frame.problem}")
            return
        header = self._header(frame)
        # First the intrinsics: where pictures differ in size, a reader that caches them then has the right ones.
        if self._infos is not None and frame.recorded is None:
            height, width = frame.bgr.shape[:2]
            self._infos.publish(camera_info(header, width, height, self._settings.field_of_view))
        elif self._infos is not None and frame.recorded.camera_info is not None:
            self._infos.publish(frame.recorded.camera_info)
        if self._settings.paced_by:
            self._unanswered = stamp_key(header.stamp), time.monotonic()
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

    def _header(self, frame: SourceFrame) -> Header:
        if frame.recorded is None:
            return Header(stamp=self._taken(frame).to_msg(), frame_id=self._settings.frame_id)
        stamp = Time(nanoseconds=frame.recorded.stamp).to_msg()
        return Header(stamp=stamp, frame_id=frame.recorded.frame_id or self._settings.frame_id)

    def _taken(self, frame: SourceFrame) -> Time:
        """When a picture was taken, on the node's clock."""
        if frame.time is not None and self._timeline is not None:
            _, first, began = self._timeline
            return began + Duration(nanoseconds=round(1e9 * (frame.time - first)))
        if frame.taken is not None:
            return self.get_clock().now() - Duration(nanoseconds=round(1e9 * (time.monotonic() - frame.taken)))
        if self._stamped is None or not self._settings.paced_by:
            self._stamped = self.get_clock().now()
        else:
            self._stamped += Duration(nanoseconds=round(1e9 / self._settings.rate))
        return self._stamped

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
