"""What is drawn of a frame's faces for people to look at: markers, and the mesh over the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from rclpy.publisher import Publisher
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from ofer_models.drawing.overlay import draw_label, draw_landmarks, draw_mesh
from ofer_models.head import HeadModel
from ofer_msgs.msg import FaceArray
from ofer_ros.base.frames import Result
from ofer_ros.base.qos import NEWEST
from ofer_ros.base.settings import OferSettings
from ofer_ros.base.statistics import RateCap, timed
from ofer_ros.output.large_arrays import compressed_image_bytes, image_bytes
from ofer_ros.output.marker_array import FaceMarkers, delete_all
from ofer_ros.output.ros4hri import LAST_WORD

# Quality, and colour in every pixel (IMWRITE_JPEG_SAMPLING_FACTOR, 4:4:4): landmarks and letters are a pixel wide.
# OpenCV before 4.7 passes over the latter.
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, 7, 0x111111)


@dataclass(frozen=True)
class Drawing:
    """What can be drawn: a frame, and the message that its faces were published with."""

    result: Result
    message: FaceArray


class FaceDrawings:
    """Publishers of `~/markers`, `~/overlay` and its compressed twin. One thread at a time calls any of it."""

    def __init__(
        self, publisher: Callable[..., Publisher], head: HeadModel, settings: Callable[[], OferSettings]
    ) -> None:
        """publisher(kind, topic, qos) makes one; settings(): the parameters as they are now."""
        self._settings = settings
        self._markers_of = FaceMarkers(head, settings().mesh_region)
        self._marker_cap, self._overlay_cap = RateCap(), RateCap()
        self._markers = publisher(MarkerArray, "~/markers", NEWEST)
        self._overlay = publisher(Image, "~/overlay", NEWEST)
        # Of the name that it has after remapping, as image_transport looks for it.
        self._jpeg = publisher(CompressedImage, f"{self._overlay.topic_name}/compressed", NEWEST)

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return bool(self._markers.get_subscription_count()) or self._overlay_wanted

    @property
    def one_a_frame(self) -> bool:
        """Whether somebody listens to what shall not leave a frame out."""
        settings = self._settings()
        every_marker = settings.marker_rate == 0 and bool(self._markers.get_subscription_count())
        return every_marker or (settings.overlay_rate == 0 and self._overlay_wanted)

    @property
    def _overlay_wanted(self) -> bool:
        return any(one.get_subscription_count() for one in (self._overlay, self._jpeg))

    def publish(self, drawing: Drawing) -> dict[str, float]:
        """Draw and send what somebody listens to and what its rate allows; the time each took, ms, by name."""
        settings = self._settings()
        times: dict[str, float] = {}
        if self._markers.get_subscription_count() and self._marker_cap.due(settings.marker_rate):
            period = 1 / settings.marker_rate if settings.marker_rate else 0.0
            with timed(times, "markers"):
                self._markers.publish(self._markers_of.encode(drawing.message, settings, period))
        if self._overlay_wanted and self._overlay_cap.due(settings.overlay_rate):
            with timed(times, "overlay"):
                self._send(self._draw(drawing), drawing.result.header)
        return times

    def _send(self, image: np.ndarray, header: Header) -> None:
        """Send an overlay in each form that somebody listens to."""
        if self._overlay.get_subscription_count():
            self._overlay.publish(image_bytes(image, "rgb8", header))
        if self._jpeg.get_subscription_count():
            _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _JPEG)
            self._jpeg.publish(compressed_image_bytes(encoded.tobytes(), "jpeg", header))

    def _draw(self, drawing: Drawing) -> np.ndarray:
        result = drawing.result
        image = result.rgb.copy()
        layers = self._markers_of.layers
        for face, sent in zip(result.faces, drawing.message.faces, strict=True):
            draw_mesh(image, layers.decoder.vertices(sent), layers.shader, result.intrinsics)
            draw_landmarks(image, face.landmarks)
            hidden = f"{100 * face.occlusion:.0f} % hidden"
            draw_label(image, face.roi, f"{face.id}  {hidden}  {len(face.expressions)} hypotheses")
        return image

    def clear(self) -> None:
        """Take every marker away."""
        self._markers.publish(delete_all())

    def forget(self) -> None:
        """Drop what is kept of persons for speed."""
        self._markers_of.forget()

    def wait_for_readers(self) -> None:
        """Until the last markers have left: viewers keep what they are not told to delete."""
        self._markers.wait_for_all_acked(LAST_WORD)
