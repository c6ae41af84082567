"""Pictures."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hostile.parts import Case, Kind, raw


def jpeg() -> bytes:
    import cv2

    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


PICTURES: dict[str, Case] = {
    "nothing": raw("a.jpg", b""), "text": raw("a.jpg", b"not a picture"),
    "cut short": raw("a.jpg", lambda: jpeg()[:900]),
    "60,000 x 60,000": raw("a.png", _png(60_000, 60_000)), "2^31 wide": raw("a.png", _png((1 << 31) - 1, 1)),
    "no pixels": raw("a.png", _png(0, 0)), "a header alone": raw("a.png", b"\x89PNG\r\n\x1a\n"),
    "random": raw("a.jpg", np.random.default_rng(4).bytes(4000)), "zeros": raw("a.bmp", b"BM" + bytes(2000)),
    "a PNM of 1e9 pixels": raw("a.ppm", b"P6 40000 40000 255\n"), "a GIF": raw("a.jpg", b"GIF89a" + bytes(50)),
    "a folder": lambda folder: folder, "no file": lambda folder: folder / "a.jpg",
}  # fmt: skip


def _picture(path: Path) -> Any:
    from ofer_models.perception.pictures import read_picture

    return read_picture(path)


KINDS: dict[str, Kind] = {"picture": (_picture, PICTURES)}
