"""TF of each face by REP-155, where tf2_msgs is installed.

`face_<id>` at the sellion: x out of the face, y to the person's left, z up; `gaze_<id>` in the same place, an optical
frame that looks where the eyes look: z along the gaze, x to the right, y down. Where a head's expressions do not turn
its eyes, they look straight ahead.
"""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from ofer_models.head import HeadModel
from ofer_models.head.gaze import Gaze
from ofer_models.head.rotations import quaternion_from_matrix
from ofer_msgs.msg import Face, FaceArray
from ofer_ros.base.geometry import pose_arrays, pose_message
from ofer_ros.output.face_meshes import FaceLandmarks
from ofer_ros.output.messages import coefficients

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # not among the wheels; ros-<distribution>-tf2-msgs has it
    TFMessage = None

_SELLION = 27  # of the 68 landmarks: the top of the nose's bridge
_QOS = QoSProfile(depth=100)  # as tf2_ros's broadcaster, which does no more than this
# Columns: REP-155's x, y, z axes in the head frame (its x is the head's z, its y the head's x, its z the head's y).
HEAD_TO_REP155 = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
_DOWN = np.array([0.0, 0.0, -1.0])  # in the face's frame


class FaceTransforms:
    """Broadcasts the frames of a FaceArray; does nothing where tf2_msgs is missing."""

    def __init__(self, node: Node, head: HeadModel, prefix: str = "") -> None:
        """prefix: before the name of each frame, without a leading slash, which tf2 does not take."""
        self._prefix = prefix.lstrip("/")
        self.available = TFMessage is not None
        self._node = node
        self._landmarks = FaceLandmarks(head, np.array([_SELLION]))
        self._gaze_of = Gaze.of(head)
        # Last: what raises before it leaves nothing behind.
        self._publisher = node.create_publisher(TFMessage, "/tf", _QOS) if self.available else None

    def broadcast(self, message: FaceArray) -> None:
        """Raises ValueError when a face's coefficients do not fit the head."""
        if self._publisher is not None and message.faces and message.header.frame_id:
            self._publisher.publish(TFMessage(transforms=self.transforms(message)))

    def transforms(self, message: FaceArray) -> list[TransformStamped]:
        """Two a face: `face_<id>` in the message's frame, and `gaze_<id>` in that."""
        found = []
        for face in message.faces:
            found += [self._face(message.header, face), self._gaze(message.header, face)]
        return found

    def forget(self) -> None:
        self._landmarks.forget()

    def destroy(self) -> None:
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)

    def _face(self, header: Header, face: Face) -> TransformStamped:
        rotation, _ = pose_arrays(face.pose)
        pose = pose_message(rotation @ HEAD_TO_REP155, self._landmarks(face)[0])
        above = Header(stamp=header.stamp, frame_id=header.frame_id.lstrip("/"))  # tf2 takes no leading slash
        transform = TransformStamped(header=above, child_frame_id=f"{self._prefix}face_{face.id}")
        transform.transform.translation = Vector3(x=pose.position.x, y=pose.position.y, z=pose.position.z)
        transform.transform.rotation = pose.orientation
        return transform

    def _gaze(self, header: Header, face: Face) -> TransformStamped:
        looking = np.array([0.0, 0.0, 1.0]) if self._gaze_of is None else self._gaze_of(coefficients(face)[1])
        x, y, z, w = map(float, quaternion_from_matrix(looking_along(looking @ HEAD_TO_REP155)))
        transform = TransformStamped(child_frame_id=f"{self._prefix}gaze_{face.id}")
        transform.header = Header(stamp=header.stamp, frame_id=f"{self._prefix}face_{face.id}")
        transform.transform.rotation = Quaternion(x=x, y=y, z=z, w=w)
        return transform


def looking_along(forward: np.ndarray) -> np.ndarray:
    """Axes (3, 3) in columns of an optical frame, x right, y down, z forward, that looks along a unit vector (3,) of
    the face's frame and stands upright in it."""
    right = np.cross(_DOWN, forward)
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward], axis=1)
