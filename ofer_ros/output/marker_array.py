"""All marker layers of a FaceArray in one MarkerArray, with small stable ids and explicit deletion."""

from __future__ import annotations

import time
from collections.abc import Callable

from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from visualization_msgs.msg import Marker, MarkerArray

from ofer_models.head import HeadModel
from ofer_models.tracking.stream_clock import StreamClock
from ofer_msgs.msg import Face, FaceArray
from ofer_ros.base.geometry import seconds
from ofer_ros.base.settings import LayerSettings
from ofer_ros.output.marker_cdr import BulkMarker, LayoutError, MarkerEncoder, Style, living, marker_array, plain_marker
from ofer_ros.output.marker_layers import FaceLayers

# A depth-1 reader can miss the message that says DELETE: say it in so many.
_DELETE_REPEATED = 30
_PERIODS = 3  # of a stream that its markers outlive
_LONGEST_PAUSE = 20.0  # seconds between two messages that still are a stream

Key = tuple[str, int]  # namespace and id


class TrackNumbers:
    """The smallest free integers for track ids: RViz updates a marker in place while its id stays."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def update(self, tracks: list[str]) -> list[int]:
        """Numbers of `tracks`, in order; those of tracks that are gone are free again."""
        self._numbers = {track: number for track, number in self._numbers.items() if track in tracks}
        for track in tracks:
            if track not in self._numbers:
                taken = set(self._numbers.values())
                self._numbers[track] = next(n for n in range(len(taken) + 1) if n not in taken)
        return [self._numbers[track] for track in tracks]


class Deletions:
    """Which markers are to be taken away: those that were shown and are no more, each in several messages."""

    def __init__(self) -> None:
        self._shown: set[Key] = set()
        self._leaving: dict[Key, int] = {}  # in how many messages still

    def update(self, shown: set[Key]) -> list[Key]:
        """Markers to delete in a message that shows `shown`."""
        left = self._leaving | dict.fromkeys(self._shown, _DELETE_REPEATED)
        leaving = {key: count for key, count in left.items() if key not in shown}
        self._leaving = {key: count - 1 for key, count in leaving.items() if count > 1}
        self._shown = shown
        return sorted(leaving)


class Lifetime:
    """How long markers live without being said again: the backstop for a node that dies, never for a slow stream."""

    def __init__(self, arrival: Callable[[], float] = time.monotonic) -> None:
        """arrival(): seconds, which count where stamps stand still."""
        self._clock = StreamClock(0.0, arrival)
        self._last = float("inf")

    def next(self, stamp: float, period: float = 0.0) -> float:
        """Seconds, for markers of an image's stamp; period: the least time until the next, as far as it is known.

        By the images' clock, so that whoever makes markers of the same messages makes the same. In steps of a factor
        of two, since each makes a template of every layer.
        """
        now = self._clock(stamp)
        passed, self._last = min(now - self._last, _LONGEST_PAUSE), now
        lifetime = Style.lifetime
        while lifetime < _PERIODS * max(period, passed):
            lifetime *= 2
        return lifetime


class FaceMarkers:
    """Serialised MarkerArrays of the layers that are switched on."""

    def __init__(self, head: HeadModel, region: str = "face") -> None:
        """region: 'face' or 'head', see MeshDecoder."""
        self.layers = FaceLayers(head, region)
        self._numbers = TrackNumbers()
        self._deletions = Deletions()
        self._lifetime = Lifetime()
        self._encoder = MarkerEncoder()
        self._fast = True

    def encode(self, message: FaceArray, settings: LayerSettings, period: float = 0.0) -> bytes:
        """visualization_msgs/MarkerArray, serialised: the layers of each face in the header's frame and at its stamp.

        period: seconds in which no other will come.
        Raises ValueError when a face's coefficients do not fit the head.
        """
        frame_id, stamp = message.header.frame_id.lstrip("/"), message.header.stamp
        numbers = self._numbers.update([face.id for face in message.faces])
        items: list[BulkMarker | Marker] = []
        for number, face in zip(numbers, message.faces, strict=True):
            items += self._of_face(face, number, frame_id, stamp, settings)
        lifetime = self._lifetime.next(seconds(stamp), period)
        if lifetime != Style.lifetime:
            items = [living(item, lifetime) for item in items]
        shown = {(item.style.namespace if isinstance(item, BulkMarker) else item.ns, item.id) for item in items}
        for namespace, number in self._deletions.update(shown):
            items.append(plain_marker(Style(namespace), frame_id, stamp, number, Marker.DELETE))
        if self._fast:
            try:
                return self._encoder.encode(frame_id, stamp, items)
            except LayoutError:
                self._fast = False  # another distribution's Marker: slower, never wrong
        return serialize_message(marker_array(frame_id, stamp, items))

    @property
    def fast(self) -> bool:
        """False once the template did not fit this ROS distribution's Marker."""
        return self._fast

    def forget(self) -> None:
        """Drop every shape and mesh that is kept for speed."""
        self.layers.forget()
        self._encoder = MarkerEncoder()

    def _of_face(
        self, face: Face, number: int, frame_id: str, stamp: Time, settings: LayerSettings
    ) -> list[BulkMarker | Marker]:
        layers = self.layers
        items: list[BulkMarker | Marker] = []
        vertices = layers.decoder.vertices(face)  # also where no layer shows it: coefficients that do not fit are told
        if settings.show_mesh:
            items += layers.mesh(vertices, number)
        if settings.show_hypotheses:
            items += layers.hypotheses(face, number, settings.hypotheses_side_by_side)
        if settings.show_identity:
            items += layers.identity(face, number)
        if settings.show_uncertainty:
            items += layers.uncertainty(face, vertices, number, frame_id, stamp)
        if settings.show_landmarks:
            items += layers.landmarks(face, number)
        if settings.show_text:
            items += layers.text(face, vertices, number, frame_id, stamp)
        return items


def delete_all() -> MarkerArray:
    """The message that clears every marker of the topic, of all layers."""
    # Without a namespace: RViz takes a named one to mean that layer alone.
    return MarkerArray(markers=[Marker(action=Marker.DELETEALL)])
