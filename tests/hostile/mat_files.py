"""MATLAB files, as the Basel Face Model comes in."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hostile.parts import Case, Kind, raw


def _element(kind: int, content: bytes, told: int | None = None) -> bytes:
    """A part of a MAT file: type, size (or what is told for it), content to full eight bytes."""
    return struct.pack("<II", kind, len(content) if told is None else told) + content + bytes(-len(content) % 8)


def matrix(
    name: bytes = b"tri", sides: tuple[int, ...] = (2, 3), kind: int = 6, content: bytes = bytes(48), stored: int = 9,
    told: int | None = None,
) -> bytes:  # fmt: skip
    """A variable of class `kind`, its numbers of type `stored`, whose size may be told wrongly."""
    parts = (_element(6, struct.pack("<II", kind, 0)), _element(5, struct.pack(f"<{len(sides)}i", *sides)),
             _element(1, name), _element(stored, content, told))  # fmt: skip
    return _element(14, b"".join(parts))


def mat(*variables: bytes, head: bytes = b"MATLAB 5.0 MAT-file", version: bytes = b"\0\1IM") -> Case:
    return raw("model.mat", head.ljust(124) + version + b"".join(variables))


def packed(variable: bytes, keep: float = 1.0) -> bytes:
    squeezed = zlib.compress(variable)
    squeezed = squeezed[: int(keep * len(squeezed))]
    return struct.pack("<II", 15, len(squeezed)) + squeezed


_SOME = np.random.default_rng(5).bytes(480_000)
MATS: dict[str, Case] = {
    "version 7.3": mat(head=b"MATLAB 7.3 MAT-file"),
    "HDF5": raw("model.mat", b"\x89HDF\r\n\x1a\n" + bytes(500)),
    "version 4": raw("model.mat", struct.pack("<5i", 0, 2, 3, 0, 4) + b"tri\0" + bytes(48)),
    "big-endian": mat(version=b"\1\0MI"), "nothing": raw("model.mat", b""), "a beginning": raw("model.mat", b"MAT"),
    "a web page": raw("model.mat", b"<!DOCTYPE html>" + bytes(400)), "no variables": mat(),
    "random": raw("model.mat", np.random.default_rng(4).bytes(9000)), "zeros": mat(bytes(800)),
    "a folder": lambda folder: folder, "no file": lambda folder: folder / "model.mat",
    "1e18 numbers": mat(matrix(sides=(10**9, 10**9))), "a negative side": mat(matrix(sides=(-2, -3))),
    "one side": mat(matrix(sides=(6,))), "40 sides": mat(matrix(sides=(1,) * 40)),
    "4 GB told": mat(matrix(sides=(500_000_000, 1), told=4_000_000_000)),
    "4 GB told, packed": mat(packed(matrix(sides=(500_000_000, 1), told=4_000_000_000))),
    "8 GB of bytes as doubles": mat(packed(_element(14, matrix(
        sides=(1_000_000_000, 1), stored=2, told=1_000_000_000)[8:56], told=1_000_000_056))),
    "a bomb of 200 MB": mat(packed(matrix(sides=(25_000_000, 1), content=bytes(200_000_000)))),
    "a structure": mat(matrix(kind=2)), "a cell": mat(matrix(kind=1)), "an object": mat(matrix(kind=3)),
    "a function": mat(matrix(kind=16)), "opaque": mat(matrix(kind=17)), "sparse": mat(matrix(kind=5)),
    "text": mat(matrix(kind=4, stored=4, content=bytes(12))), "class 99": mat(matrix(kind=99)),
    "complex": mat(matrix(kind=6 | 0x800)), "numbers of type 77": mat(matrix(stored=77)),
    "fewer numbers than told": mat(matrix(sides=(2, 4))), "more numbers than told": mat(matrix(sides=(2, 2))),
    "two of one name": mat(matrix(), matrix()), "60,000 variables": mat(60_000 * matrix(b"x")),
    "a name of 1 MB": mat(matrix(b"a" * (1 << 20))), "a name of lines": mat(matrix(b"tri\n\x1b[2J")),
    "cut short": mat(matrix(content=_SOME, sides=(60_000, 1))[:300_000]),
    "cut short, packed": mat(packed(matrix(content=_SOME, sides=(60_000, 1)), 0.6)),
    "damaged, packed": mat(packed(matrix(content=_SOME, sides=(60_000, 1))).replace(_SOME[200_000:200_008], 8 * b"x")),
    "packed twice": mat(packed(packed(matrix()))), "packed noise": mat(_element(15, _SOME[:4000])),
    "a variable that ends outside": mat(_element(14, matrix()[8:], told=10**9)),
    "a small element in the tag": mat(
        _element(14, _element(6, struct.pack("<II", 6, 0)) + struct.pack("<I", 0xFFFF0005) + bytes(40))),
}  # fmt: skip


def _mat(path: Path) -> Any:
    from ofer_models.workshop.official.basel import read_basel

    return read_basel(path)


KINDS: dict[str, Kind] = {"mat": (_mat, MATS)}
