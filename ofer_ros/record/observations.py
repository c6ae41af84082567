"""What another process saw of a run, added up: the numbers behind recorder.json and the demo's summary."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from ofer_msgs.msg import Face, FaceArray
from ofer_ros.base.geometry import pose_arrays, stamp_key
from ofer_ros.output.face_meshes import MeshDecoder
from ofer_ros.output.marker_layers import MESH
from ofer_ros.output.messages import coefficients

_ADD = 0  # visualization_msgs/Marker.ADD
KEPT = 108_000  # of each series
_RECENT = 1000


class Distinct:
    """How many different values came, in bounded memory: one that stayed away for _RECENT others counts again."""

    def __init__(self) -> None:
        self._recent: dict[Hashable, None] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, value: Hashable) -> None:
        self._count += value not in self._recent
        self._recent.pop(value, None)
        self._recent[value] = None
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]


@dataclass
class Observations:
    """Counts and times of everything received, of an hour at 30 Hz at most. Times in seconds of the system clock."""

    received: Counter = field(default_factory=Counter)
    faces_by_stamp: dict[int, int] = field(default_factory=dict)  # stamp (ns) -> number of faces
    messages: int = 0
    arrived: tuple[float, float] = (0.0, 0.0)  # the first and the last FaceArray
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    landmark_errors: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    hypotheses: int = 0
    tracks: Distinct = field(default_factory=Distinct)
    identities: Distinct = field(default_factory=Distinct)
    marker_checks: int = 0
    marker_difference: float = 0.0
    memory: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    node_values: dict[str, str] = field(default_factory=dict)

    def add_faces(self, message: FaceArray, now: float) -> None:
        """Note a FaceArray that arrived at `now`."""
        stamp = stamp_key(message.header.stamp)
        self.faces_by_stamp[stamp] = len(message.faces)
        while len(self.faces_by_stamp) > KEPT:
            del self.faces_by_stamp[next(iter(self.faces_by_stamp))]
        self.messages += 1
        self.arrived = self.arrived[0] if self.messages > 1 else now, now
        self.latencies.append(now - 1e-9 * stamp)
        for face in message.faces:
            self.tracks.add(face.id)
            if face.identity_revision:  # 0: the mean head, until the first one is drawn
                self.identities.add((face.id, face.identity_revision))
            self.hypotheses = max(self.hypotheses, face.num_hypotheses)
            if np.isfinite(face.landmark_error):
                self.landmark_errors.append(face.landmark_error)

    def add_diagnostics(self, values: dict[str, str]) -> None:
        """Note the key-values of the node's own status."""
        self.node_values = values
        self.memory.append(float(values.get("memory_mb", "nan")))

    def add_marker_check(self, difference: float) -> None:
        """Note the largest distance (m) between a marker's points and the mesh decoded here."""
        self.marker_checks += 1
        self.marker_difference = max(self.marker_difference, difference)

    def summary(self) -> dict:
        """Everything as JSON-ready values; rates and percentiles over the whole run."""
        span = self.arrived[1] - self.arrived[0]
        prefix, suffix = "stage/", "_ms"
        stages = {
            key.removeprefix(prefix).removesuffix(suffix): float(value)
            for key, value in self.node_values.items()
            if key.startswith(prefix)
        }
        return {
            "frames_in": int(self.node_values.get("frames_in", 0)),
            "frames_processed": int(self.node_values.get("frames_processed", 0)),
            "frames_dropped": int(self.node_values.get("frames_dropped", 0)),
            "bad_images": int(self.node_values.get("bad_images", 0)),
            "failures": int(self.node_values.get("failures", 0)),
            "fps": round((self.messages - 1) / span, 2) if span else 0.0,
            "latency_ms": {**self._latency_ms(), "stages": stages},
            "node_latency_ms": self._node_latency_ms(),
            "tracks": len(self.tracks),
            "identity_revisions": len(self.identities),
            "hypotheses": self.hypotheses,
            "received": dict(sorted(self.received.items())),
            "landmark_error": _rounded(np.mean(self.landmark_errors), 5) if self.landmark_errors else None,
            "marker_check": {"messages": self.marker_checks, "largest_difference_m": self.marker_difference},
            "memory_mb": {"first": self.memory[0], "last": self.memory[-1]} if self.memory else {},
        }

    def _latency_ms(self) -> dict[str, float | None]:
        """p50 and p95, ms, from stamp to arrival here."""
        latencies = np.array(self.latencies or [np.nan])
        return {f"p{q}": _rounded(1000 * np.percentile(latencies, q), 1) for q in (50, 95)}

    def _node_latency_ms(self) -> dict[str, float | None]:
        """The node's own, from arrival there."""
        own = {name: self.node_values.get(f"latency_{name}_ms") for name in ("p50", "p95")}
        return {name: None if value is None else float(value) for name, value in own.items()}


def _rounded(value: float, digits: int) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None


def reference_points(face: Face, decoder: MeshDecoder) -> np.ndarray:
    """Points (3 F', 3) a marker of `face` must have, by the head model's general decoder rather than the fast one."""
    shape, expression, jaw = coefficients(face)
    vertices = decoder.head.decode(shape, expression, jaw)[decoder.vertex_indices]
    rotation, translation = pose_arrays(face.pose)
    return (vertices @ rotation.T + translation)[decoder.triangles.ravel()]


def marker_difference(markers, faces: FaceArray, decoder: MeshDecoder) -> float:
    """Largest distance (m) between the mesh markers added by a MarkerArray and the meshes of the same frame's faces.

    inf when their numbers differ. 0.0 for no faces and no markers.
    """
    added = [marker for marker in markers.markers if marker.action == _ADD and marker.ns == MESH.namespace]
    if len(added) != len(faces.faces):
        return float("inf")
    largest = 0.0
    for marker, face in zip(added, faces.faces, strict=True):
        points = np.array([(point.x, point.y, point.z) for point in marker.points])
        expected = reference_points(face, decoder)
        if points.shape != expected.shape:
            return float("inf")
        largest = max(largest, float(np.linalg.norm(points - expected, axis=1).max()))
    return largest
