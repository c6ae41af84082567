"""Everything ofer_node publishes about faces: messages, TF, blendshapes, the head model, and what `drawings` makes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from ofer_models.head import HeadModel
from ofer_msgs.msg import BlendshapesArray, FaceArray
from ofer_msgs.msg import HeadModel as HeadModelMessage
from ofer_ros.base.frames import Result
from ofer_ros.base.qos import FACES, LATCHED
from ofer_ros.base.settings import OferSettings
from ofer_ros.base.statistics import timed
from ofer_ros.output.blendshapes import BlendshapeMaker
from ofer_ros.output.drawings import Drawing, FaceDrawings
from ofer_ros.output.face_meshes import FaceLandmarks
from ofer_ros.output.messages import face_array_message, head_model_message, selected_only
from ofer_ros.output.ros4hri import HriFaces
from ofer_ros.output.transforms import FaceTransforms


class FaceOutputs:
    """Publishers of a configured node. `publish` is called by the worker thread, `drawings.publish` by the one that
    draws, the rest by the executor's while neither is at work."""

    def __init__(self, node: Node, bundle, head: HeadModel, settings: Callable[[], OferSettings]) -> None:
        """bundle: for its name and version; settings(): the parameters as they are now."""
        self._settings = settings
        now = settings()
        self._landmarks = FaceLandmarks(head)
        self._blendshapes_of, self._no_blendshapes = _blendshape_maker(head)
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
            self.drawings = FaceDrawings(publisher, head, settings)
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

    def publish(self, result: Result) -> tuple[Drawing, dict[str, float]]:
        """Send what a frame gave; what costs, only when somebody listens.

        Returns what can be drawn of it, and the time that each took, ms, by name.
        """
        times: dict[str, float] = {}
        with timed(times, "faces"):
            message = face_array_message(result.faces, result.header, result.rgb.shape)
            self._faces.publish(message)
            if self._selected.get_subscription_count():
                self._selected.publish(selected_only(message))
            if self._settings().publish_tf:
                self._transforms.broadcast(message)
        if self._blendshapes_of is not None and self._blendshapes.get_subscription_count():
            with timed(times, "blendshapes"):
                self._blendshapes.publish(self._blendshapes_of.message(message))
        if self._hri is not None:
            with timed(times, "ros4hri"):
                self._hri.publish(result.header, result.rgb, result.intrinsics, result.faces, message.faces)
        return Drawing(result, message), times

    def clear(self) -> None:
        """Take every marker and every face of REP-155 away."""
        self.drawings.clear()
        if self._hri is not None:
            self._hri.clear()

    def forget(self) -> None:
        """Drop what is kept of persons for speed."""
        for keeper in (self.drawings, self._landmarks, self._transforms):
            keeper.forget()

    def destroy(self) -> None:
        """Take every topic away, once the last markers have left: viewers keep what they are not told to delete."""
        self.drawings.wait_for_readers()
        self._made.close()


def _blendshape_maker(head: HeadModel) -> tuple[BlendshapeMaker | None, str]:
    """The maker, or why there is none."""
    try:
        return BlendshapeMaker(head), ""
    except ValueError as error:
        return None, str(error)
