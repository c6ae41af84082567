"""recorder: a second process that listens to everything a run publishes and writes down what it received.

Leaves recorder.json, overlay.mp4 and contact_sheet.png in its output folder when it ends (SIGINT or SIGTERM), and where
it is asked for a rosbag2 of what the observed node published.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from visualization_msgs.msg import MarkerArray

from ofer_models.head import HeadModel
from ofer_models.perception.intrinsics import DEFAULT_FIELD_OF_VIEW
from ofer_msgs.msg import FaceArray
from ofer_msgs.msg import HeadModel as HeadModelMessage
from ofer_ros.base.bundles import load_bundle
from ofer_ros.base.geometry import seconds, stamp_key
from ofer_ros.base.parameters import declare, read
from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.base.qos import FACES, LATCHED
from ofer_ros.base.settings import RecorderSettings
from ofer_ros.input.calibration import Calibration, is_rectified
from ofer_ros.input.images import ImageError, image_to_rgb, to_rgb
from ofer_ros.nodes.lifecycle import run
from ofer_ros.output.face_meshes import MeshDecoder
from ofer_ros.output.usable_faces import UsableFaces
from ofer_ros.record.bag_writer import BagWriter
from ofer_ros.record.observations import Observations, marker_difference
from ofer_ros.record.run_sheet import Moment, choose_moments, draw_run_sheet
from ofer_ros.record.video import TimedVideo
from ofer_ros.work.diagnostics import values_of

NAME = "recorder"
_IMAGES_KEPT = 12  # raw frames waited for by their faces, which arrive a frame's latency later
_FACES_KEPT = 60
_UNCHECKED_KEPT = 4
_MOMENT_EVERY = 1.0  # seconds between candidates for the contact sheet
_MOMENTS_KEPT = 60
_SHEET_ROWS = 6
_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
_IMAGE_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


class Recorder(Node):
    """Counts every topic, checks markers against faces, films the overlay. `head` is given by tests."""

    def __init__(self, head: HeadModel | None = None, **kwargs) -> None:
        super().__init__(NAME, **kwargs)
        declare(self, NAME, RecorderSettings)
        self._settings = settings = read(self, RecorderSettings)
        head = head if head is not None else load_bundle(settings.bundle).head
        self._decoder = MeshDecoder(head, settings.mesh_region)
        self._problems = ProblemLog(self.get_logger().warning)
        self._usable = UsableFaces(head, self._problems.report)
        self._output = Path(settings.output)
        self._output.mkdir(parents=True, exist_ok=True)
        self._video = TimedVideo(self._output / "overlay.mp4", settings.video_rate)
        self.observations = Observations()
        self._arrived = 0.0  # when DDS had the message at work, s: filming a picture may have kept it waiting
        self._images: OrderedDict[int, tuple[type, bytes]] = OrderedDict()
        self._faces: OrderedDict[int, FaceArray] = OrderedDict()
        self._unchecked: OrderedDict[int, MarkerArray] = OrderedDict()
        self._unchecked_messages = settings.check_every - 1
        self._info: CameraInfo | None = None
        self._moments: list[tuple[np.ndarray, FaceArray, CameraInfo | None]] = []
        self._last_moment, self._moment_every = float("-inf"), _MOMENT_EVERY
        node = settings.node
        self._hears_images = False
        self._bag = BagWriter(Path(settings.bag), settings.bag_storage) if settings.bag else None
        self._hear(DiagnosticArray, "/diagnostics", self._on_diagnostics, _QOS, into_bag=True)
        self._hear(FaceArray, f"{node}/faces", self._on_faces, FACES, into_bag=True)
        self._hear(MarkerArray, f"{node}/markers", self._on_markers, _QOS, into_bag=True)
        self._hear(Image, f"{node}/overlay", self._on_overlay, _QOS)
        # Last of the node's topics: discovery goes in order, so once this one arrives the others are connected too.
        self._hear(HeadModelMessage, f"{node}/head_model", self._on_head_model, LATCHED, into_bag=True)

    def _hear(self, kind: type, topic: str, callback: Callable | None, qos: QoSProfile, into_bag: bool = False) -> None:
        """Subscribe to serialised messages: most are only counted, and unpacking a mesh costs 30 ms."""
        name = self.resolve_topic_name(topic)
        bag = self._bag if into_bag else None
        if bag is not None:
            bag.add_topic(name, kind, qos)

        def received(data: bytes, info: dict[str, int]) -> None:
            self._arrived = 1e-9 * info["received_timestamp"]
            self.observations.received[name] += 1
            if bag is not None:
                if kind is FaceArray:
                    bag.advance(_stamp(data))
                bag.write(name, data)
            if callback is not None:
                callback(data)

        self.create_subscription(kind, topic, received, qos, raw=True)

    def _on_head_model(self, data: bytes) -> None:
        """Now listen to the images: a camera that waits for its listeners then shows nothing that would be missed."""
        if self._hears_images:
            return
        self._hears_images = True
        self._hear(CameraInfo, "camera_info", self._on_info, _IMAGE_QOS)
        self._hear(Image, "image_raw", partial(self._on_image, Image), _IMAGE_QOS)
        compressed = partial(self._on_image, CompressedImage)
        self._hear(CompressedImage, "image_raw/compressed", compressed, _IMAGE_QOS)

    def _on_image(self, kind: type, data: bytes) -> None:
        _keep(self._images, _stamp(data), (kind, data), _IMAGES_KEPT)

    def _on_info(self, data: bytes) -> None:
        self._info = deserialize_message(data, CameraInfo)

    def _on_faces(self, data: bytes) -> None:
        message = self._usable(deserialize_message(data, FaceArray))
        self.observations.add_faces(message, self._arrived)
        stamp = stamp_key(message.header.stamp)
        _keep(self._faces, stamp, message, _FACES_KEPT)
        self._check(stamp)
        picture = self._images.get(stamp)
        if message.faces and picture is not None and self._arrived - self._last_moment >= self._moment_every:
            self._last_moment = self._arrived
            self._remember(*picture, message)

    def _remember(self, kind: type, data: bytes, message: FaceArray) -> None:
        """Keep this frame, JPEG-compressed, as a candidate for the contact sheet."""
        picture = deserialize_message(data, kind)
        try:
            rgb = to_rgb(picture)
        except ImageError:
            return
        self._moments.append((cv2.imencode(".jpg", rgb[..., ::-1])[1], message, self._info))
        if len(self._moments) > _MOMENTS_KEPT:  # a long run: every second one will do
            self._moments = self._moments[::2]
            self._moment_every *= 2

    def _on_markers(self, data: bytes) -> None:
        """Every check_every-th message is compared, and the first one, so that a short run is checked as well."""
        self._unchecked_messages += 1
        if self._unchecked_messages < self._settings.check_every:
            return
        markers = deserialize_message(data, MarkerArray)
        added = [marker for marker in markers.markers if marker.points]
        if added:
            self._unchecked_messages = 0
            stamp = stamp_key(added[0].header.stamp)
            _keep(self._unchecked, stamp, markers, _UNCHECKED_KEPT)
            self._check(stamp)

    def _check(self, stamp: int) -> None:
        """Compare markers and faces of a frame once both are here."""
        if stamp in self._unchecked and stamp in self._faces:
            difference = marker_difference(self._unchecked.pop(stamp), self._faces[stamp], self._decoder)
            self.observations.add_marker_check(difference)

    def _on_overlay(self, data: bytes) -> None:
        message = deserialize_message(data, Image)
        try:
            self._video.add(image_to_rgb(message)[..., ::-1], seconds(message.header.stamp))
        except ImageError as error:
            self._problems.report(f"overlay: {error}")

    def _on_diagnostics(self, data: bytes) -> None:
        node = self.resolve_topic_name(self._settings.node).lstrip("/")
        values = values_of(deserialize_message(data, DiagnosticArray), f"{node}: faces")
        if values is not None:
            self.observations.add_diagnostics(values)

    def close(self) -> None:
        """Write the files; the bag and the video are finished first, without their ends nobody can read them."""
        if self._bag is not None:
            self._bag.close()
            self._bag = None
        self._video.close()
        self._write_sheet()
        content = {
            "summary": self.observations.summary(),
            "faces_by_stamp": {str(stamp): count for stamp, count in self.observations.faces_by_stamp.items()},
            "memory_mb": list(self.observations.memory),
            "video_frames": self._video.frames,
        }
        (self._output / "recorder.json").write_text(json.dumps(content, indent=1))

    def _write_sheet(self) -> None:
        if not self._moments:
            return
        chosen = choose_moments([message.faces[0].occlusion for _, message, _ in self._moments], _SHEET_ROWS)
        start = seconds(self._moments[0][1].header.stamp)
        moments = []
        rectified = is_rectified(self.resolve_topic_name("image_raw"))
        calibration = Calibration(DEFAULT_FIELD_OF_VIEW, self._problems, rectified)
        for index in chosen:
            jpeg, message, info = self._moments[index]
            rgb = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1]
            height, width = rgb.shape[:2]
            if info is not None:
                calibration.update(info)
            camera = calibration.intrinsics(width, height)
            label = f"{seconds(message.header.stamp) - start:.1f} s, {message.faces[0].id}"
            moments.append(Moment(np.ascontiguousarray(rgb), message.faces[0], camera, label))
        cv2.imwrite(str(self._output / "contact_sheet.png"), draw_run_sheet(moments, self._decoder)[..., ::-1])


def _stamp(data: bytes) -> int:
    """Stamp (ns) of a serialised message: the first field behind the 4-byte header of every stamped message."""
    sec, nanosec = np.frombuffer(data, "<i4", 2, offset=4).tolist()
    return sec * 1_000_000_000 + nanosec


def _keep(store: OrderedDict, key: int, value: object, most: int) -> None:
    store[key] = value
    while len(store) > most:
        store.popitem(last=False)


def main(args: list[str] | None = None) -> int:
    return run(Recorder, args)


if __name__ == "__main__":
    sys.exit(main())
