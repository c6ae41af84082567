"""TF of each face by REP-155: `face_<id>` at the sellion, x out of the face, z up. Works where tf2_ros is installed."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import TransformStamped, Vector3
from rclpy.node import Node

from ofer_models.head import HeadModel, HypothesisDecoder
from ofer_msgs.msg import FaceArray
from ofer_ros.geometry import pose_arrays, pose_message
from ofer_ros.messages import coefficients

try:
    from tf2_ros import TransformBroadcaster
except ImportError:  # not among the wheels; ros-<distribution>-tf2-ros has it
    TransformBroadcaster = None

_SELLION = 27  # of the 68 landmarks: the top of the nose's bridge
# Columns: REP-155's x, y, z axes in the head frame (its x is the head's z, its y the head's x, its z the head's y).
HEAD_TO_REP155 = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])


class FaceTransforms:
    """Broadcasts the frames of a FaceArray; does nothing where tf2_ros is missing."""

    def __init__(self, node: Node, head: HeadModel) -> None:
        self.available = TransformBroadcaster is not None
        self._broadcaster = TransformBroadcaster(node) if self.available else None
        embedding = head.embeddings["landmarks68"]
        self._head = head
        self._weights = embedding.bary[_SELLION]
        self._decode = HypothesisDecoder(head, head.faces[embedding.triangle[_SELLION]])

    def broadcast(self, message: FaceArray) -> None:
        if self._broadcaster is not None and message.faces:
            self._broadcaster.sendTransform(self.transforms(message))

    def transforms(self, message: FaceArray) -> list[TransformStamped]:
        """One transform a face: parent the message's frame, child `face_<id>`."""
        return [self._transform(message, face) for face in message.faces]

    def _transform(self, message: FaceArray, face) -> TransformStamped:
        shape, expression, jaw = coefficients(face)
        triangle = self._decode(self._head.identity(shape), expression[None], jaw[None])[0]
        rotation, translation = pose_arrays(face.pose)
        origin = rotation @ (self._weights @ triangle) + translation
        pose = pose_message(rotation @ HEAD_TO_REP155, origin)
        transform = TransformStamped(header=message.header, child_frame_id=f"face_{face.id}")
        transform.transform.translation = Vector3(x=pose.position.x, y=pose.position.y, z=pose.position.z)
        transform.transform.rotation = pose.orientation
        return transform
