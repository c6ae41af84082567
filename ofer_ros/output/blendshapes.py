"""`~/blendshapes`: ARKit's 52 weights of each face, by the map that fits the bundle's head."""

from __future__ import annotations

from array import array

import numpy as np

from ofer_models.avatar.arkit_map import arkit_map
from ofer_models.head import HeadModel
from ofer_models.head.arkit import ARKIT_NAMES
from ofer_msgs.msg import Blendshapes, BlendshapesArray, Face, FaceArray
from ofer_ros.output.messages import coefficients


class BlendshapeMaker:
    """BlendshapesArray of a FaceArray."""

    def __init__(self, head: HeadModel) -> None:
        """Raises ValueError, in one line, when this head's expressions cannot be translated."""
        self._map = arkit_map(head)

    def message(self, faces: FaceArray) -> BlendshapesArray:
        """One entry a face, from what is shown of it."""
        return BlendshapesArray(
            header=faces.header, names=ARKIT_NAMES, faces=[self._face(face) for face in faces.faces]
        )

    def weights(self, face: Face) -> tuple[np.ndarray, float]:
        """(52,) float32 in 0..1 of what is shown of a face, and what they leave unexplained, metres."""
        _, expression, jaw = coefficients(face)
        return self._map(expression, jaw)

    def _face(self, face: Face) -> Blendshapes:
        weights, residual = self.weights(face)
        return Blendshapes(
            id=face.id, weights=array("f", weights.astype(np.float32).tobytes()), residual=float(residual)
        )
