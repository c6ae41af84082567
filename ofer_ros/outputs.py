"""Everything ofer_node publishes about faces: FaceArray, markers, overlay, TF and the latched head model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from ofer_models.drawing.overlay import draw_label, draw_landmarks, draw_mesh
from ofer_models.head import HeadModel
from ofer_msgs.msg import FaceArray
from ofer_msgs.msg import HeadModel as HeadModelMessage
from ofer_ros.cdr import image_bytes
from ofer_ros.markers import MeshMarkers, delete_all
from ofer_ros.messages import face_array_message, head_model_message
from ofer_ros.parameters import OferSettings
from ofer_ros.statistics import RateCap, timed
from ofer_ros.transforms import FaceTransforms
from ofer_ros.worker import Result

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# A reader that falls behind wants the newest mesh, never a queue of old ones.
MARKERS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
# A second of small messages: a reader that pauses gets them all.
FACES = QoSProfile(depth=30, reliability=ReliabilityPolicy.RELIABLE)
OVERLAY = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


class FaceOutputs:
    """Publishers of a configured node. `publish` is called by the worker thread, the rest by the executor's."""

    def __init__(self, node: Node, bundle, head: HeadModel, settings: Callable[[], OferSettings]) -> None:
        """bundle: for its name and version; settings(): the parameters as they are now."""
        self._node = node
        self._settings = settings
        self._meshes = MeshMarkers(head, settings().mesh_region)
        self._transforms = FaceTransforms(node, head)
        self._marker_cap, self._overlay_cap = RateCap(), RateCap()
        self._faces = node.create_publisher(FaceArray, "~/faces", FACES)
        self._markers = node.create_publisher(MarkerArray, "~/markers", MARKERS)
        self._overlay = node.create_publisher(Image, "~/overlay", OVERLAY)
        self._head_model = node.create_publisher(HeadModelMessage, "~/head_model", LATCHED)
        header = Header(stamp=node.get_clock().now().to_msg())
        self._head_model.publish(head_model_message(bundle, head, header))

    @property
    def transforms_available(self) -> bool:
        """Whether tf2_ros is installed."""
        return self._transforms.available

    def publish(self, result: Result) -> dict[str, float]:
        """Send what a frame gave; markers and overlay only when somebody listens and their rate allows.

        Returns the time each took, ms, by name.
        """
        settings = self._settings()
        times = {}
        with timed(times, "faces"):
            message = face_array_message(result.faces, result.header, result.rgb.shape)
            self._faces.publish(message)
            if settings.publish_tf:
                self._transforms.broadcast(message)
        if self._markers.get_subscription_count() and self._marker_cap.due(settings.marker_rate):
            with timed(times, "markers"):
                self._markers.publish(self._meshes.encode(message))
        if self._overlay.get_subscription_count() and self._overlay_cap.due(settings.overlay_rate):
            with timed(times, "overlay"):
                self._overlay.publish(image_bytes(self._draw(result, message), "rgb8", result.header))
        return times

    def _draw(self, result: Result, message: FaceArray) -> np.ndarray:
        image = result.rgb.copy()
        for face, sent in zip(result.faces, message.faces, strict=True):
            draw_mesh(image, self._meshes.decoder.vertices(sent), self._meshes.shader, result.intrinsics)
            draw_landmarks(image, face.landmarks)
            hidden = f"{100 * face.occlusion:.0f} % hidden"
            draw_label(image, face.roi, f"{face.id}  {hidden}  {len(face.expressions)} hypotheses")
        return image

    def clear(self) -> None:
        """Take every marker away."""
        self._markers.publish(delete_all())

    def destroy(self) -> None:
        for publisher in (self._faces, self._markers, self._overlay, self._head_model):
            self._node.destroy_publisher(publisher)
