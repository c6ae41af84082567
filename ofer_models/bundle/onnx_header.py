"""Which files outside of it an ONNX graph takes its weights from, read from the protobuf without the onnx package.

Only lengths and the few fields on the way to a tensor's `external_data` are looked at; weights are skipped. Field
numbers: onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from ofer_models.files.refusal import FileRefused

# Message -> field number -> message in that field; the leaves are handled by name.
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
    "external": {},
}
_MOST_FIELDS, _DEEPEST = 2_000_000, 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH = 7  # of a model


def external_files(path: Path) -> set[str]:
    """The file names that the graph's tensors name. Raises FileRefused when the file is no ONNX graph."""
    with path.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise FileRefused("is empty") from None
    with content:
        return _Reader(content).external()


class _Reader:
    """One walk over a file, with the count of what it has looked at."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._left = content, _MOST_FIELDS
        self._found: set[str] = set()

    def external(self) -> set[str]:
        size = len(self._content)
        if not any(number == _GRAPH for number, _, _ in self._fields(0, size)):
            raise FileRefused("is no ONNX graph")
        self._walk("model", 0, size, 0)
        return self._found

    def _walk(self, message: str, start: int, end: int, depth: int) -> None:
        if depth > _DEEPEST:
            raise FileRefused("is no ONNX graph that can be read: it is nested too deeply")
        key, value = "", ""
        for number, begin, stop in self._fields(start, end):
            inside = _INSIDE[message].get(number)
            if inside:
                self._walk(inside, begin, stop, depth + 1)
            elif message == "external" and number in (1, 2):
                part = self._content[begin : min(stop, begin + 4096)].decode("utf-8", "replace")
                key, value = (part, value) if number == 1 else (key, part)
        if message == "external" and key == "location":
            self._found.add(value)

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Field number, begin and end of every field that is a message, a text or bytes."""
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise FileRefused("is no ONNX graph that can be read: it has too many parts")
            tag, at = self._varint(at, end)
            number, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                _, at = self._varint(at, end)
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            elif kind == _BYTES:
                length, at = self._varint(at, end)
                if at + length <= end:
                    yield number, at, at + length
                at += length
            else:
                raise FileRefused("is no ONNX graph")
            if at > end:
                raise FileRefused("is no ONNX graph, or cut short")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self._content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise FileRefused("is no ONNX graph, or cut short")
