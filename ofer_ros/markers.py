"""The mesh layer: a FaceArray becomes one MarkerArray, with small stable ids and explicit deletion."""

from __future__ import annotations

import numpy as np
from rclpy.serialization import serialize_message
from visualization_msgs.msg import Marker, MarkerArray

from ofer_models.drawing.shading import SKIN, Shader
from ofer_models.head import HeadModel
from ofer_msgs.msg import FaceArray
from ofer_ros.geometry import seconds
from ofer_ros.marker_cdr import LayoutError, MarkerEncoder, MarkerStyle, TriangleMarker, marker_array
from ofer_ros.mesh import MeshDecoder

MESH_NAMESPACE = "mesh"
LIFETIME = 2.0  # seconds; RViz drops a mesh by itself when the node dies
# A depth-1 reader can miss the message that says DELETE: say it again for this long.
_DELETE_REPEATED = 1.0


class MarkerIds:
    """The smallest free integers for track ids. A lost track's number rests until its deletion has been repeated."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._leaving: dict[int, float] = {}  # number -> time of the loss

    def update(self, tracks: list[str], now: float) -> tuple[list[int], list[int]]:
        """Numbers of `tracks`, in order, and the numbers to delete at time `now` (seconds of the images' clock)."""
        for track in [known for known in self._numbers if known not in tracks]:
            self._leaving[self._numbers.pop(track)] = now
        # A clock that jumped back (a bag played again) must not keep numbers forever.
        self._leaving = {n: t for n, t in self._leaving.items() if t <= now < t + _DELETE_REPEATED}
        taken = set(self._numbers.values()) | set(self._leaving)
        for track in tracks:
            if track not in self._numbers:
                number = next(n for n in range(len(taken) + 1) if n not in taken)
                self._numbers[track] = number
                taken.add(number)
        return [self._numbers[track] for track in tracks], sorted(self._leaving)


class MeshMarkers:
    """Serialised MarkerArrays of the selected mesh of each face."""

    def __init__(self, head: HeadModel, region: str = "face") -> None:
        """region: 'face' or 'head', see MeshDecoder."""
        self.decoder = MeshDecoder(head, region)
        self.shader = Shader(self.decoder.triangles, len(self.decoder.vertex_indices))
        self._corners = self.decoder.triangles.ravel()
        self._ids = MarkerIds()
        self._encoder = MarkerEncoder(MarkerStyle(MESH_NAMESPACE, LIFETIME))
        self._fast = True

    def encode(self, message: FaceArray) -> bytes:
        """visualization_msgs/MarkerArray, serialised: one triangle list a face in the header's frame and at its stamp.

        Raises ValueError when a face's coefficients do not fit the head.
        """
        numbers, deleted = self._ids.update([face.id for face in message.faces], seconds(message.header.stamp))
        meshes = [
            self._triangle_marker(number, self.decoder.vertices(face))
            for number, face in zip(numbers, message.faces, strict=True)
        ]
        style, frame_id, stamp = self._encoder.style, message.header.frame_id, message.header.stamp
        if self._fast:
            try:
                return self._encoder.encode(frame_id, stamp, meshes, deleted)
            except LayoutError:
                self._fast = False  # another distribution's Marker: slower, never wrong
        return serialize_message(marker_array(style, frame_id, stamp, meshes, deleted))

    @property
    def fast(self) -> bool:
        """False once the template did not fit this ROS distribution's Marker."""
        return self._fast

    def _triangle_marker(self, number: int, vertices: np.ndarray) -> TriangleMarker:
        colors = np.ones((len(vertices), 4), np.float32)
        colors[:, :3] = self.shader.brightness(vertices)[:, None] * SKIN
        return TriangleMarker(number, vertices[self._corners], colors[self._corners])


def delete_all() -> MarkerArray:
    """The message that clears every marker of the topic."""
    return MarkerArray(markers=[Marker(ns=MESH_NAMESPACE, action=Marker.DELETEALL)])
