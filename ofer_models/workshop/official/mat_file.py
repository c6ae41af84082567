"""MATLAB's `.mat` files (versions 5 to 7) under a budget: arrays of numbers and nothing else.

All headers are looked at before a number is unpacked. scipy's reader would not do: a header changed in a few bytes ends
the process in it (segmentation fault in scipy 1.17). Format: MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofer_models.files.arrays import check_unpacked
from ofer_models.files.refusal import FileRefused, one_line

_HEADER, _TAG = 128, 8
_MATRIX, _COMPRESSED = 14, 15
# Numbers by the type of their storage, and by the class of the variable that they are read as.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_LOOKED_AT = 4096  # bytes of a variable: its header is shorter
_MOST_VARIABLES, _MOST_DIMENSIONS = 1000, 8
_COMPLEX = 0x0800


@dataclass(frozen=True)
class _Variable:
    """A variable by its header. body: its bytes in the file, packed or not, of which all are `size` once unpacked; its
    numbers begin at `start` of those. kind is None for anything but numbers.
    """

    name: str
    kind: str | None
    stored: str = ""
    sides: tuple[int, ...] = ()
    start: int = 0
    size: int = 0
    body: np.ndarray | None = None
    packed: bool = False

    @property
    def in_memory(self) -> int:
        """Bytes of the array, and of what it is unpacked to."""
        return math.prod(self.sides) * np.dtype(self.kind).itemsize + self.packed * self.size

    def read(self) -> np.ndarray:
        raw = self.body
        if self.packed:
            unpacker = zlib.decompressobj()
            raw = np.frombuffer(unpacker.decompress(self.body, self.size + 1), np.uint8)
            if raw.size != self.size or not unpacker.eof:  # at its end the checksum is compared
                raise FileRefused(f"is damaged: {one_line(self.name)!r} unpacks to another size than told")
        count = math.prod(self.sides)
        numbers = raw[self.start : self.start + count * np.dtype(self.stored).itemsize]
        return numbers.view(f"<{self.stored}").astype(self.kind).reshape(self.sides, order="F")


def read_mat(path: str | Path, wanted: Collection[str], most: int = 4 << 30) -> dict[str, np.ndarray]:
    """Arrays of numbers by name, those of `wanted` that the file holds.

    Raises FileRefused with one line (the file's name first) when the file is damaged, of another format, holds one of
    them twice or as something else than numbers, or claims more than its size allows. OSError when there is no such
    file.
    """
    path = Path(path)
    with path.open("rb") as file:
        raw = np.memmap(file, np.uint8, "r") if os.fstat(file.fileno()).st_size else np.zeros(0, np.uint8)
    try:
        found = [variable for variable in _variables(raw) if variable.name in wanted]
        for variable in found:
            if variable.kind is None:
                raise FileRefused(f"refused: {one_line(variable.name)!r} is a structure or text, not numbers")
        if len({variable.name for variable in found}) != len(found):
            raise FileRefused("holds two variables of one name")
        check_unpacked(sum(variable.in_memory for variable in found), raw.size, most)
        return {variable.name: variable.read() for variable in found}
    except FileRefused as error:
        raise FileRefused(f"{path.name} {error}") from None
    except (struct.error, zlib.error, ValueError) as error:
        raise FileRefused(f"{path.name} is damaged or cut short ({one_line(error)})") from None


def _variables(raw: np.ndarray) -> list[_Variable]:
    """The headers of all variables."""
    head = bytes(raw[:_HEADER])
    if head.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise FileRefused("is a MAT file of version 7.3; save it with `save(..., '-v7')`")
    if len(head) < _HEADER or head[124:128] not in (b"\0\1IM", b"\1\0MI"):
        raise FileRefused("is no MAT file of version 5 to 7, or cut short")
    if head[126:128] != b"IM":
        raise FileRefused("was written on a big-endian machine")
    found, at = [], _HEADER
    while at < raw.size:
        kind, size = struct.unpack("<II", bytes(raw[at : at + _TAG]))
        body = raw[at + _TAG : at + _TAG + size]
        if kind not in (_MATRIX, _COMPRESSED) or body.size != size:
            raise FileRefused("is damaged or cut short: a variable ends outside of it")
        found.append(_packed(body) if kind == _COMPRESSED else _variable(bytes(body[:_LOOKED_AT]), 0, size, body))
        if len(found) > _MOST_VARIABLES:
            raise FileRefused(f"holds more than {_MOST_VARIABLES} variables")
        at += _TAG + size
    return found


def _packed(body: np.ndarray) -> _Variable:
    head = zlib.decompressobj().decompress(body[:_LOOKED_AT], _LOOKED_AT)
    kind, size = struct.unpack("<II", head[:_TAG])
    if kind != _MATRIX:
        raise FileRefused("holds something compressed that is no variable")
    return _variable(head, _TAG, _TAG + size, body, packed=True)


def _variable(head: bytes, at: int, size: int, body: np.ndarray, packed: bool = False) -> _Variable:
    """head: the first bytes of a variable of `size` bytes, whose parts begin at `at`."""
    flags, at = _element(head, at)
    dims, at = _element(head, at)
    name, at = _element(head, at)
    (word,) = struct.unpack("<I", flags[:4])
    text, sides = name.decode("ascii", "replace"), struct.unpack(f"<{len(dims) // 4}i", dims)
    if word & 0xFF not in _CLASSES or word & _COMPLEX:
        return _Variable(text, None)
    if not 2 <= len(sides) <= _MOST_DIMENSIONS or min(sides) < 0:
        raise FileRefused(f"has an array of shape {one_line(sides)}")
    kind, told = struct.unpack("<II", head[at : at + _TAG])
    small = kind >> 16  # that many bytes, four at most, lie in the tag itself
    stored, told, start = _STORED.get(kind & 0xFFFF, ""), small or told, at + (4 if small else _TAG)
    if not stored or np.dtype(stored).itemsize * math.prod(sides) != told or start + told > size:
        raise FileRefused(f"is damaged: {one_line(text)!r} has {told} bytes, its header tells an array {sides}")
    return _Variable(text, _CLASSES[word & 0xFF], stored, sides, start, size, body, packed)


def _element(head: bytes, at: int) -> tuple[bytes, int]:
    """The bytes of a small element, and where the next one begins."""
    kind, size = struct.unpack("<II", head[at : at + _TAG])
    if kind >> 16:
        return head[at + 4 : at + 4 + (kind >> 16)], at + _TAG
    if at + _TAG + size > len(head):
        raise FileRefused("is damaged: a variable's header is too long")
    return head[at + _TAG : at + _TAG + size], at + _TAG + size + -size % 8
