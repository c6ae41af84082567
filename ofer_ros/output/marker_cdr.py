"""MarkerArrays of coloured meshes as bytes, from templates that are filled by numpy.

Ten thousand triangles cost about 70 ms as Python objects and well under one as an array. The templates are not written
by hand: ROS serialises a marker with one marked point and colour, and the places of the marks tell where the blocks
lie. A marker laid out differently from what is expected is noticed (LayoutError), and then `marker_array` makes the
message from objects.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point
from rclpy.serialization import serialize_message
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

_TEMPLATES_KEPT = 32  # a few for each layer: texts and neighbours shift what follows them
_ENCAPSULATION, _COUNT = 4, 4  # bytes before the first marker of a serialised MarkerArray
# Bit patterns that no other field of the template holds. Padding is not written by the serialiser and may hold pieces
# of an earlier message: a mark must be longer than padding (7 bytes) to be unmistakable.
_STAMP_MARK = (1234554321, 987654321)
_ID_MARK = 1357986420
_POINT_MARK = (1.2345e-3, 2.3456e-3, 3.4567e-3)
_COLOR_MARK = (0.12345, 0.23456, 0.34567, 0.45678)


class LayoutError(RuntimeError):
    """The serialised marker does not look as this module expects."""


@dataclass(frozen=True)
class Style:
    """What the bulk markers of a layer share: type is TRIANGLE_LIST or POINTS, size the side of a point, metres.

    lifetime: seconds; a backstop, deletion is explicit.
    """

    namespace: str
    type: int = Marker.TRIANGLE_LIST
    size: float = 1.0
    lifetime: float = 2.0


@dataclass(frozen=True)
class BulkMarker:
    """Many points (N, 3) metres with colors (N, 4) RGBA 0..1 in the frame of the message; N > 0."""

    style: Style
    id: int
    points: np.ndarray
    colors: np.ndarray


def plain_marker(style: Style, frame_id: str, stamp: Time, number: int, action: int = Marker.ADD) -> Marker:
    """A Marker of a style without points: what bulk markers, texts and deletions begin with."""
    marker = Marker(ns=style.namespace, id=number, type=style.type, action=action)
    marker.header.frame_id = frame_id
    marker.header.stamp = stamp
    marker.pose.orientation.w = 1.0
    # RViz complains about sizes that a type does not have: a text has a height, a point none.
    flat, tall = style.type != Marker.TEXT_VIEW_FACING, style.type != Marker.POINTS
    marker.scale.x = marker.scale.y = style.size if flat else 0.0
    marker.scale.z = style.size if tall else 0.0
    marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
    marker.lifetime = _duration(style.lifetime)
    return marker


def living(item: BulkMarker | Marker, lifetime: float) -> BulkMarker | Marker:
    """The same marker with another lifetime, seconds."""
    if isinstance(item, BulkMarker):
        return replace(item, style=replace(item.style, lifetime=lifetime))
    item.lifetime = _duration(lifetime)
    return item


def _duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(sec=whole, nanosec=round((seconds - whole) * 1e9))


def marker_array(frame_id: str, stamp: Time, items: Sequence[BulkMarker | Marker]) -> MarkerArray:
    """The message from Python objects: the reference for the fast path and its fallback."""
    message = MarkerArray()
    for item in items:
        marker = item
        if isinstance(item, BulkMarker):
            marker = plain_marker(item.style, frame_id, stamp, item.id)
            marker.points = [Point(x=x, y=y, z=z) for x, y, z in item.points.astype(np.float64).tolist()]
            marker.colors = [ColorRGBA(r=r, g=g, b=b, a=a) for r, g, b, a in item.colors.astype(np.float32).tolist()]
        message.markers.append(marker)
    return message


def _body(marker: Marker, phase: int) -> bytes:
    """Serialised marker as it stands in a stream at an offset of `phase` (0 or 4) modulo 8: padding depends on that."""
    if phase == 0:
        return serialize_message(marker)[_ENCAPSULATION:]
    return serialize_message(MarkerArray(markers=[marker]))[_ENCAPSULATION + _COUNT :]


class _Template:
    """Bytes of one bulk marker of `count` points, to be placed at an offset of `phase` modulo 8."""

    def __init__(self, style: Style, frame_id: str, count: int, phase: int) -> None:
        marker = plain_marker(style, frame_id, Time(sec=_STAMP_MARK[0], nanosec=_STAMP_MARK[1]), _ID_MARK)
        marker.points = [Point(x=_POINT_MARK[0], y=_POINT_MARK[1], z=_POINT_MARK[2])]
        marker.colors = [ColorRGBA(**dict(zip("rgba", _COLOR_MARK, strict=True)))]
        small = _body(marker, phase)
        stamp = _place(small, struct.pack("<iI", *_STAMP_MARK))
        number = _place(small, struct.pack("<ii", _ID_MARK, style.type))
        points = _place(small, struct.pack("<3d", *_POINT_MARK))
        colors = _place(small, struct.pack("<4f", *_COLOR_MARK))
        if colors != points + 28 or struct.unpack_from("<I", small, colors - 4) != (1,) or number > points:
            raise LayoutError("colours do not follow points")
        # Blocks of points (24 bytes each) and colours (16) are multiples of the largest alignment, so growing them
        # moves what follows without changing any padding.
        place, filled = _count_before(small, points), struct.pack("<I", count)
        full = small[:place] + filled + small[place + 4 : points] + bytes(24 * count)
        full += filled + bytes(16 * count) + small[colors + 16 :]
        # Aligned as in the stream, numpy's views are aligned as well.
        self._buffer = np.zeros(len(full) + phase, np.uint8)[phase:]
        self._buffer[:] = np.frombuffer(full, np.uint8)
        self._stamp = self._view(stamp, np.uint32, 2)
        self._id = self._view(number, np.int32, 1)
        self._points = self._view(points, np.float64, 3 * count).reshape(-1, 3)
        self._colors = self._view(points + 24 * count + 4, np.float32, 4 * count).reshape(-1, 4)

    def _view(self, start: int, dtype: type, count: int) -> np.ndarray:
        return self._buffer[start : start + count * np.dtype(dtype).itemsize].view(dtype)

    def fill(self, stamp: Time, item: BulkMarker) -> bytes:
        self._stamp[:] = stamp.sec, stamp.nanosec
        self._id[0] = item.id
        self._points[:] = item.points
        self._colors[:] = item.colors
        return self._buffer.tobytes()


class MarkerEncoder:
    """Serialises MarkerArrays; remembers the templates of the markers that a stream repeats."""

    def __init__(self) -> None:
        self._templates: OrderedDict[tuple, _Template] = OrderedDict()
        self._encapsulation = serialize_message(MarkerArray())[:_ENCAPSULATION]

    def encode(self, frame_id: str, stamp: Time, items: Sequence[BulkMarker | Marker]) -> bytes:
        """Serialised visualization_msgs/MarkerArray. Raises LayoutError where `marker_array` must be used instead."""
        pieces = [self._encapsulation, struct.pack("<I", len(items))]
        length = _COUNT  # of the stream, which is aligned behind its encapsulation
        for item in items:
            padding = -length % 4
            phase = (length + padding) % 8
            if isinstance(item, BulkMarker):
                piece = self._template(item.style, frame_id, len(item.points), phase).fill(stamp, item)
            else:
                piece = _body(item, phase)
            pieces += [bytes(padding), piece]
            length += padding + len(piece)
        return b"".join(pieces)

    def _template(self, *key) -> _Template:
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = _Template(*key)
            if len(self._templates) > _TEMPLATES_KEPT:
                self._templates.popitem(last=False)
        self._templates.move_to_end(key)
        return template


def _place(data: bytes, mark: bytes) -> int:
    """Where `mark` lies, which must be there once."""
    found = data.find(mark)
    if found < 0 or data.find(mark, found + 1) >= 0:
        raise LayoutError(f"found {data.count(mark)} of 1 marks")
    return found


def _count_before(data: bytes, points: int) -> int:
    """Place of the element count of the sequence whose first element, 8-aligned, lies at `points`."""
    # The bool before the count fixes it: between them and the points there may be 4 bytes of padding.
    for place in (points - 8, points - 4):
        if struct.unpack_from("<I", data, place) == (1,) and data[place - 4] in (0, 1):
            return place
    raise LayoutError("no element count before the points")
