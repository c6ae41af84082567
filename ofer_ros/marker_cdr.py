"""MarkerArrays of coloured triangle lists as bytes, from a template that is filled by numpy.

Ten thousand triangles cost about 70 ms as Python objects and well under one as an array. The template is not written
by hand: ROS serialises a MarkerArray with one marked point and colour per marker, and the places of the marks tell
where the blocks lie. A MarkerArray laid out differently from what is expected is noticed (LayoutError), and then
`marker_array` makes the message from objects.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point
from rclpy.serialization import serialize_message
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

_TEMPLATES_KEPT = 8
# Bit patterns that no other field of the template holds. Padding is not written by the serialiser and may hold pieces
# of an earlier message: a mark must be longer than padding (7 bytes) to be unmistakable.
_STAMP_MARK = (1234554321, 987654321)
_ID_MARK = 1357986420
_POINT_MARK = (1.2345e-3, 2.3456e-3, 3.4567e-3)
_COLOR_MARK = (0.12345, 0.23456, 0.34567, 0.45678)


class LayoutError(RuntimeError):
    """The serialised MarkerArray does not look as this module expects."""


@dataclass(frozen=True)
class TriangleMarker:
    """One triangle list: id, points (3 F, 3) metres in the camera optical frame, colors (3 F, 4) RGBA 0..1."""

    id: int
    points: np.ndarray
    colors: np.ndarray


@dataclass(frozen=True)
class MarkerStyle:
    """What all markers of a layer share."""

    namespace: str
    lifetime: float  # seconds; a backstop, deletion is explicit


def _marker(style: MarkerStyle, frame_id: str, stamp: Time, number: int, action: int) -> Marker:
    marker = Marker(ns=style.namespace, id=number, type=Marker.TRIANGLE_LIST, action=action)
    marker.header.frame_id = frame_id
    marker.header.stamp = stamp
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = 1.0
    marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
    whole = int(style.lifetime)
    marker.lifetime = Duration(sec=whole, nanosec=round((style.lifetime - whole) * 1e9))
    return marker


def marker_array(
    style: MarkerStyle, frame_id: str, stamp: Time, meshes: list[TriangleMarker], deleted: list[int]
) -> MarkerArray:
    """The message from Python objects: the reference for the fast path and its fallback."""
    message = MarkerArray()
    for mesh in meshes:
        marker = _marker(style, frame_id, stamp, mesh.id, Marker.ADD)
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in mesh.points.astype(np.float64).tolist()]
        marker.colors = [ColorRGBA(r=r, g=g, b=b, a=a) for r, g, b, a in mesh.colors.astype(np.float32).tolist()]
        message.markers.append(marker)
    message.markers += [_marker(style, frame_id, stamp, number, Marker.DELETE) for number in deleted]
    return message


class _Template:
    """Bytes of a MarkerArray with one triangle list of each size in `counts`, then `n_deleted` DELETE markers."""

    def __init__(self, style: MarkerStyle, frame_id: str, counts: tuple[int, ...], n_deleted: int) -> None:
        stamp = Time(sec=_STAMP_MARK[0], nanosec=_STAMP_MARK[1])
        message = MarkerArray()
        for _ in counts:
            marker = _marker(style, frame_id, stamp, _ID_MARK, Marker.ADD)
            marker.points = [Point(x=_POINT_MARK[0], y=_POINT_MARK[1], z=_POINT_MARK[2])]
            marker.colors = [ColorRGBA(**dict(zip("rgba", _COLOR_MARK, strict=True)))]
            message.markers.append(marker)
        message.markers += [_marker(style, frame_id, stamp, _ID_MARK, Marker.DELETE) for _ in range(n_deleted)]
        small = serialize_message(message)

        total = len(counts) + n_deleted
        stamps = _places(small, struct.pack("<iI", *_STAMP_MARK), total)
        ids = _places(small, struct.pack("<ii", _ID_MARK, Marker.TRIANGLE_LIST), total)
        points = _places(small, struct.pack("<3d", *_POINT_MARK), len(counts))
        colors = _places(small, struct.pack("<4f", *_COLOR_MARK), len(counts))

        # Blocks of points (24 bytes each) and colours (16) are multiples of the largest alignment, so growing them
        # moves what follows without changing any padding.
        pieces: list[bytes] = []
        done = 0
        for point, color, count in zip(points, colors, counts, strict=True):
            point_count = _count_before(small, point)
            if color != point + 28 or struct.unpack_from("<I", small, color - 4) != (1,):
                raise LayoutError("colours do not follow points")
            filled = struct.pack("<I", count)
            pieces += [small[done:point_count], filled, small[point_count + 4 : point], bytes(24 * count)]
            pieces += [filled, bytes(16 * count)]
            done = color + 16
        pieces.append(small[done:])
        full = b"".join(pieces)
        # CDR aligns behind its 4-byte header; with the same 4 bytes of slack here, numpy's views are aligned as well.
        self._buffer = np.zeros(len(full) + 4, np.uint8)[4:]
        self._buffer[:] = np.frombuffer(full, np.uint8)

        def place(position: int) -> int:
            """Where something outside the blocks, or the first point of a block, has moved to."""
            before = zip(colors, counts, strict=True)
            return position + sum(40 * (count - 1) for color, count in before if color < position)

        self._stamps = [self._view(place(position), np.uint32, 2) for position in stamps]
        self._ids = [self._view(place(position), np.int32, 1) for position in ids]
        self._points, self._colors = [], []
        for position, count in zip(points, counts, strict=True):
            start = place(position)
            self._points.append(self._view(start, np.float64, 3 * count).reshape(-1, 3))
            self._colors.append(self._view(start + 24 * count + 4, np.float32, 4 * count).reshape(-1, 4))

    def _view(self, start: int, dtype: type, count: int) -> np.ndarray:
        return self._buffer[start : start + count * np.dtype(dtype).itemsize].view(dtype)

    def fill(self, stamp: Time, meshes: list[TriangleMarker], deleted: list[int]) -> bytes:
        for view in self._stamps:
            view[:] = stamp.sec, stamp.nanosec
        for view, number in zip(self._ids, [*(mesh.id for mesh in meshes), *deleted], strict=True):
            view[0] = number
        for points, colors, mesh in zip(self._points, self._colors, meshes, strict=True):
            points[:] = mesh.points
            colors[:] = mesh.colors
        return self._buffer.tobytes()


class MarkerEncoder:
    """Serialises the markers of one layer; remembers the templates of the few shapes a stream alternates between."""

    def __init__(self, style: MarkerStyle) -> None:
        self.style = style
        self._templates: OrderedDict[tuple, _Template] = OrderedDict()

    def encode(self, frame_id: str, stamp: Time, meshes: list[TriangleMarker], deleted: list[int]) -> bytes:
        """Serialised visualization_msgs/MarkerArray. Raises LayoutError where `marker_array` must be used instead."""
        key = (frame_id, tuple(len(mesh.points) for mesh in meshes), len(deleted))
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = _Template(self.style, *key)
            if len(self._templates) > _TEMPLATES_KEPT:
                self._templates.popitem(last=False)
        self._templates.move_to_end(key)
        return template.fill(stamp, meshes, deleted)


def _places(data: bytes, mark: bytes, expected: int) -> list[int]:
    found, start = [], data.find(mark)
    while start >= 0:
        found.append(start)
        start = data.find(mark, start + len(mark))
    if len(found) != expected:
        raise LayoutError(f"found {len(found)} of {expected} marks")
    return found


def _count_before(data: bytes, points: int) -> int:
    """Place of the element count of the sequence whose first element, 8-aligned, lies at `points`."""
    # The bool before the count fixes it: between them and the points there may be 4 bytes of padding.
    for place in (points - 8, points - 4):
        if struct.unpack_from("<I", data, place) == (1,) and data[place - 4] in (0, 1):
            return place
    raise LayoutError("no element count before the points")
