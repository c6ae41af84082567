"""FaceArrays as an avatar's performer takes them."""

from __future__ import annotations

import numpy as np

from ofer_models.avatar.performer import SeenFace
from ofer_models.tracking.identity_state import State
from ofer_msgs.msg import FaceArray
from ofer_ros.base.geometry import pose_arrays
from ofer_ros.output.messages import hypotheses


def seen_faces(message: FaceArray) -> list[SeenFace]:
    """The faces of a message. Raises ValueError for arrays that do not fit each other."""
    return [
        SeenFace(
            face.id, face.roi.width * face.roi.height, *hypotheses(face), np.array(face.scores), face.selected,
            *pose_arrays(face.pose), face.identity_state != State.GATHERING.value and face.identity_blend >= 1,
        )
        for face in message.faces
    ]  # fmt: skip
