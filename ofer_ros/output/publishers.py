"""Everything ofer_node publishes about faces: messages, markers, overlay, TF, blendshapes and the head model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from ofer_models.drawing.overlay import draw_label, draw_landmarks, draw_mesh
from ofer_models.head import HeadModel
from ofer_msgs.msg import BlendshapesArray, FaceArray
from ofer_msgs.msg import HeadModel as HeadModelMessage
from ofer_ros.base.frames import Result
from ofer_ros.base.parameters import OferSettings
from ofer_ros.base.statistics import RateCap, timed
from ofer_ros.output.blendshapes import BlendshapeMaker
from ofer_ros.output.face_meshes import FaceLandmarks
from ofer_ros.output.large_arrays import image_bytes
from ofer_ros.output.marker_array import FaceMarkers, delete_all
from ofer_ros.output.messages import face_array_message, head_model_message, selected_only
from ofer_ros.output.ros4hri import LAST_WORD, HriFaces
from ofer_ros.output.transforms import FaceTransforms

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
        self._settings = settings
        now = settings()
        self._markers_of = FaceMarkers(head, now.mesh_region)
        self._landmarks = FaceLandmarks(head)
        self._blendshapes_of, self._no_blendshapes = _blendshape_maker(head)
        self._marker_cap, self._overlay_cap = RateCap(), RateCap()
        header = Header(stamp=node.get_clock().now().to_msg())
        with ExitStack() as made:  # what is made before something raises goes again

            def publisher(kind: type, topic: str, qos: QoSProfile) -> Publisher:
                new = node.create_publisher(kind, topic, qos)
                made.callback(node.destroy_publisher, new)
                return new

            self._transforms = FaceTransforms(node, head, now.tf_prefix)
            made.callback(self._transforms.destroy)
            self._hri = HriFaces(node, self._landmarks, self._blendshapes_of) if now.ros4hri else None
            if self._hri is not None:
                made.callback(self._hri.destroy)
            self._faces = publisher(FaceArray, "~/faces", FACES)
            self._selected = publisher(FaceArray, "~/faces_selected", FACES)
            self._blendshapes = publisher(BlendshapesArray, "~/blendshapes", FACES)
            self._markers = publisher(MarkerArray, "~/markers", MARKERS)
            self._overlay = publisher(Image, "~/overlay", OVERLAY)
            for topic, arrays in (("~/head_model", now.publish_head), ("~/head_info", False)):
                latched = publisher(HeadModelMessage, topic, LATCHED)
                latched.publish(head_model_message(bundle, head, header, arrays=arrays))
            self._made = made.pop_all()

    @property
    def transforms_available(self) -> bool:
        """Whether tf2_msgs is installed."""
        return self._transforms.available

    def missing(self) -> list[str]:
        """What this machine lacks for what was asked for, a line each."""
        lines = []
        if self._hri is not None and not self._hri.available:
            lines.append("ros4hri: hri_msgs is not installed (apt: ros-<distribution>-hri-msgs): no /humans topics")
        if self._no_blendshapes:
            lines.append(f"no blendshapes: {self._no_blendshapes}")
        return lines

    def publish(self, result: Result) -> dict[str, float]:
        """Send what a frame gave; what costs, only when somebody listens and its rate allows.

        Returns the time each took, ms, by name.
        """
        settings = self._settings()
        times = {}
        with timed(times, "faces"):
            message = face_array_message(result.faces, result.header, result.rgb.shape)
            self._faces.publish(message)
            if self._selected.get_subscription_count():
                self._selected.publish(selected_only(message))
            if settings.publish_tf:
                self._transforms.broadcast(message)
        if self._blendshapes_of is not None and self._blendshapes.get_subscription_count():
            with timed(times, "blendshapes"):
                self._blendshapes.publish(self._blendshapes_of.message(message))
        if self._hri is not None:
            with timed(times, "ros4hri"):
                self._hri.publish(result.header, result.rgb, result.intrinsics, result.faces, message.faces)
        if self._markers.get_subscription_count() and self._marker_cap.due(settings.marker_rate):
            period = 1 / settings.marker_rate if settings.marker_rate else 0.0
            with timed(times, "markers"):
                self._markers.publish(self._markers_of.encode(message, settings, period))
        if self._overlay.get_subscription_count() and self._overlay_cap.due(settings.overlay_rate):
            with timed(times, "overlay"):
                self._overlay.publish(image_bytes(self._draw(result, message), "rgb8", result.header))
        return times

    def _draw(self, result: Result, message: FaceArray) -> np.ndarray:
        image = result.rgb.copy()
        layers = self._markers_of.layers
        for face, sent in zip(result.faces, message.faces, strict=True):
            draw_mesh(image, layers.decoder.vertices(sent), layers.shader, result.intrinsics)
            draw_landmarks(image, face.landmarks)
            hidden = f"{100 * face.occlusion:.0f} % hidden"
            draw_label(image, face.roi, f"{face.id}  {hidden}  {len(face.expressions)} hypotheses")
        return image

    def clear(self) -> None:
        """Take every marker and every face of REP-155 away."""
        self._markers.publish(delete_all())
        if self._hri is not None:
            self._hri.clear()

    def forget(self) -> None:
        """Drop what is kept of persons for speed."""
        for keeper in (self._markers_of, self._landmarks, self._transforms):
            keeper.forget()

    def destroy(self) -> None:
        """Take every topic away, once the last markers have left: viewers keep what they are not told to delete."""
        self._markers.wait_for_all_acked(LAST_WORD)
        self._made.close()


def _blendshape_maker(head: HeadModel) -> tuple[BlendshapeMaker | None, str]:
    """The maker, or why there is none."""
    try:
        return BlendshapeMaker(head), ""
    except ValueError as error:
        return None, str(error)
