"""From a Face message to the mesh that everyone shows: one decoder for markers, overlay and the far end of a link."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from ofer_models.head import HeadModel, HypothesisDecoder, Identity
from ofer_models.head.region import region_triangles
from ofer_msgs.msg import Face
from ofer_ros.geometry import pose_arrays
from ofer_ros.messages import coefficients

REGIONS = ("face", "head")
_IDENTITIES_KEPT = 16


class MeshDecoder:
    """Decodes hypotheses of a Face at a region of the head.

    It starts from the message, not from the pipeline's own arrays, so that a node at the far end of a link which knows
    only the message and the head model makes exactly the same mesh.

    Attributes: `vertex_indices` (V',) into the head's vertices; `triangles` (F', 3) int32 into these.
    """

    def __init__(self, head: HeadModel, region: str = "face") -> None:
        """region: 'face' (the head's mask of that name) or 'head' (everything)."""
        if region not in REGIONS:
            raise ValueError(f"mesh region '{region}' is not one of {', '.join(REGIONS)}")
        self.head = head
        triangles = region_triangles(head, "face") if region == "face" else head.faces
        self.vertex_indices, corners = np.unique(triangles, return_inverse=True)
        self.triangles = corners.reshape(-1, 3).astype(np.int32)
        self._decode = HypothesisDecoder(head, self.vertex_indices)
        self._identities: OrderedDict[bytes, Identity] = OrderedDict()

    def vertices(self, face: Face, row: int | None = None) -> np.ndarray:
        """Vertices (V', 3) float64 of hypothesis `row` (None: the selected one), metres, camera optical frame.

        Raises ValueError when the coefficients do not fit the head or anything is not finite.
        """
        shape, expression, jaw = coefficients(face, row)
        if shape.size != self.head.n_shape or expression.size != self.head.n_expression:
            raise ValueError(
                f"face '{face.id}' has {shape.size} shape and {expression.size} expression coefficients, "
                f"this head model {self.head.n_shape} and {self.head.n_expression}"
            )
        head_frame = self._decode(self._identity(shape), expression[None], jaw[None])[0]
        rotation, translation = pose_arrays(face.pose)
        vertices = head_frame @ rotation.T + translation
        if not np.isfinite(vertices).all():  # RViz would reject the whole marker
            raise ValueError(f"face '{face.id}' has coefficients or a pose that are not finite")
        return vertices

    def _identity(self, shape: np.ndarray) -> Identity:
        """A track's shape rarely changes: keep the bases of the last few."""
        key = shape.tobytes()
        identity = self._identities.get(key)
        if identity is None:
            identity = self._identities[key] = self.head.identity(shape)
            if len(self._identities) > _IDENTITIES_KEPT:
                self._identities.popitem(last=False)
        self._identities.move_to_end(key)
        return identity
