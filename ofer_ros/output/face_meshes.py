"""From a Face message to the meshes that everyone shows: one decoder for markers, overlay and the far end of a link."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from ofer_models.head import HeadModel, HypothesisDecoder, Identity
from ofer_models.head.region import region_triangles
from ofer_msgs.msg import Face
from ofer_ros.base.geometry import pose_arrays
from ofer_ros.output.messages import coefficients, hypotheses

REGIONS = ("face", "head")
_IDENTITIES_KEPT = 16


class PointDecoder:
    """Decodes chosen vertices of a Face message's head into the camera optical frame.

    It starts from the message, not from the pipeline's own arrays, so that a node at the far end of a link which knows
    only the message and the head model makes exactly the same mesh. Every method raises ValueError when the
    coefficients do not fit the head or anything is not finite.
    """

    def __init__(self, head: HeadModel, vertex_indices: np.ndarray) -> None:
        self.head = head
        self.vertex_indices = vertex_indices
        self._decode = HypothesisDecoder(head, vertex_indices)
        self._identities: OrderedDict[bytes, Identity] = OrderedDict()

    def forget(self) -> None:
        """Drop the head shapes that are kept for speed."""
        self._identities.clear()

    def vertices(self, face: Face, row: int | None = None) -> np.ndarray:
        """(V', 3) float64, metres, of hypothesis `row` (None: what is shown, the selected one smoothed)."""
        _, expression, jaw = coefficients(face, row)
        return self._posed(face, expression[None], jaw[None])[0]

    def hypotheses(self, face: Face) -> np.ndarray:
        """(H, V', 3) float64, metres, of all hypotheses."""
        return self._posed(face, *hypotheses(face))

    def neutral(self, face: Face) -> np.ndarray:
        """(V', 3) float64, metres, of the identity: no expression, the mouth shut."""
        return self._posed(face, np.zeros((1, self.head.n_expression)), np.zeros((1, 3)))[0]

    def _posed(self, face: Face, expressions: np.ndarray, jaws: np.ndarray) -> np.ndarray:
        shape = np.array(face.shape, np.float32)
        if shape.size != self.head.n_shape or expressions.shape[1] != self.head.n_expression:
            raise ValueError(
                f"face '{face.id}' has {shape.size} shape and {expressions.shape[1]} expression coefficients, "
                f"this head model {self.head.n_shape} and {self.head.n_expression}"
            )
        head_frame = self._decode(self._identity(shape), expressions, jaws)
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


class MeshDecoder(PointDecoder):
    """Decodes a region of the head. `triangles` (F', 3) int32 are indices into its vertices."""

    def __init__(self, head: HeadModel, region: str = "face") -> None:
        """region: 'face' (the head's mask of that name) or 'head' (everything)."""
        if region not in REGIONS:
            raise ValueError(f"mesh region '{region}' is not one of {', '.join(REGIONS)}")
        triangles = region_triangles(head, "face") if region == "face" else head.faces
        vertex_indices, corners = np.unique(triangles, return_inverse=True)
        self.triangles = corners.reshape(-1, 3).astype(np.int32)
        super().__init__(head, vertex_indices)


class FaceLandmarks:
    """Decodes landmarks fixed to the head's surface."""

    def __init__(self, head: HeadModel, points: np.ndarray | None = None) -> None:
        """points: rows of the 68 landmarks; all by default."""
        embedding = head.embeddings["landmarks68"]
        rows = np.arange(len(embedding.triangle)) if points is None else np.asarray(points)
        corners = head.faces[embedding.triangle[rows]]
        used, inverse = np.unique(corners, return_inverse=True)
        self._corners = inverse.reshape(corners.shape)
        self._bary = embedding.bary[rows]
        self._decoder = PointDecoder(head, used)

    def __call__(self, face: Face) -> np.ndarray:
        """Landmarks (L, 3) float64, metres, camera optical frame, of what is shown. Raises ValueError."""
        return np.einsum("lc,lcx->lx", self._bary, self._decoder.vertices(face)[self._corners])

    def forget(self) -> None:
        self._decoder.forget()
