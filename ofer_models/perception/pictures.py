"""Encoded pictures to RGB arrays: the one reader for files, messages and bags.

What a header claims is checked before anything is decoded, so a small file cannot ask for gigabytes. Pillow reads the
headers, OpenCV the pixels. A picture that breaks off is refused, whatever its end was filled with.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ofer_models.files.refusal import FileRefused, one_line

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MAX_SIDE = 32_766  # px; OpenCV's warps count pixels in 16 bits

_FORMATS = {  # how each begins, and Pillow's name for it
    "JPEG": (rb"\xff\xd8\xff", "Jpeg"),
    "PNG": (rb"\x89PNG\r\n\x1a\n", "Png"),
    "BMP": (rb"BM", "Bmp"),
    "TIFF": (rb"II\x2a\0|MM\0\x2a", "Tiff"),
    "WebP": (rb"RIFF....WEBP", "WebP"),
    "JPEG 2000": (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "Jpeg2K"),
    "PNM": (rb"P[1-7]\s", "Ppm"),
}
_ORIENTATION = 0x0112  # EXIF tag
# EXIF orientation: quarter turns counterclockwise, and whether left and right are exchanged before them.
_TURNS = {1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (3, False), 7: (3, True),
          8: (1, False)}  # fmt: skip

_JPEG_END = b"\xff\xd9"
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)  # not a stuffed byte, filling or a restart
_JPEG_SCAN, _JPEG_PROGRESSIVE = 0xDA, (0xC2, 0xC6, 0xCA, 0xCE)
_LAST_BYTES = re.compile(rb"(?:\xff\0)*\0{0,8}")  # of zeros and ones that may still belong to the data: stuffed, or few
_OTHER_END = b"\x5b\xc6\x39\xa7" * 16
_MOST_SCANS = 100  # cameras send one, progressive files ten; thousands are there to take time
_UNDECODED = 128  # every channel, where libjpeg had no data


class PictureError(FileRefused):
    """A picture is not there or cannot be used; one line says why."""


@dataclass(frozen=True)
class Limits:
    """What is read at most: pixels as a header states them, and bytes before they are decoded."""

    pixels: int
    bytes: int = 256 * 2**20


FILES = Limits(pixels=2**27)  # more than medium format cameras give


def read_picture(path: Path, limits: Limits = FILES) -> np.ndarray:
    """The picture in a file of any name as (H, W, 3) uint8 RGB, turned as its EXIF says. Raises PictureError."""
    return decode_picture(_content(path, limits), limits, turned=True)


def decode_picture(data: bytes, limits: Limits = FILES, turned: bool = False) -> np.ndarray:
    """An encoded picture as (H, W, 3) uint8 RGB; JPEG, PNG, BMP, TIFF, WebP, JPEG 2000 or PNM.

    turned: as its EXIF says; else as the pixels are stored, which is what a camera's calibration is about.
    Raises PictureError, before decoding for what is beyond the limits, and for data that breaks off.
    """
    if not data:
        raise PictureError("empty")
    if len(data) > limits.bytes:
        raise PictureError(f"{len(data) / 2**20:.0f} MiB of data, at most {limits.bytes / 2**20:.0f} are decoded")
    header, kind = _header(data, limits)
    quarters, mirrored = _turn(header, kind) if turned else (0, False)
    del header  # for a note at a file's end Pillow may have decoded it
    pixels = _decode_jpeg(data) if kind == "JPEG" else _decode(data)
    if pixels is None:
        raise PictureError(f"damaged or truncated: a {kind} of {len(data)} bytes")
    if mirrored:
        pixels = pixels[:, ::-1]
    return cv2.cvtColor(np.ascontiguousarray(np.rot90(pixels, quarters)), cv2.COLOR_BGR2RGB)


def write_picture(path: Path, bgr: np.ndarray) -> None:
    """Write (H, W, 3) uint8 BGR to a file of any name, in the format of its suffix. Raises PictureError for a suffix
    of none, OSError where the file cannot be written."""
    try:
        good, data = cv2.imencode(path.suffix, bgr)
    except cv2.error:
        good = False
    if not good:
        raise PictureError(f"{printable(path)} cannot be written: end its name in one of {', '.join(SUFFIXES)}")
    path.write_bytes(data.tobytes())


def check_size(width: int, height: int, limits: Limits) -> None:
    """Raise PictureError for a size of nothing or beyond the limits."""
    if width < 1 or height < 1:
        raise PictureError(f"empty: {width} x {height}")
    if width * height > limits.pixels:
        raise PictureError(
            f"too large: {width} x {height} are {width * height / 1e6:.1f} million pixels, at most "
            f"{limits.pixels / 1e6:.1f} million are decoded"
        )
    if max(width, height) > MAX_SIDE:
        raise PictureError(f"too large: {width} x {height}, at most {MAX_SIDE} px a side are handled")


def pictures_in(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Of the entries of a folder: the picture files by their names, 2 before 10, and the hidden ones among them.

    What only looks like one, as a link that leads nowhere does, is among them too: whoever reads it is told. Hidden
    ones (`.x.jpg`, and the `._x.jpg` that macOS leaves beside x.jpg) are for nobody to look at.
    """
    named = (file for file in files if file.suffix.lower() in SUFFIXES and not file.is_dir())
    pictures = sorted(named, key=natural_key)
    return [p for p in pictures if p.name[0] != "."], [p for p in pictures if p.name[0] == "."]


def natural_key(path: Path) -> tuple[list[str | int], ...]:
    """Sorts paths with numbers in their names as a person would: img_2 before img_10."""
    return tuple(
        [int(part) if odd % 2 else part for odd, part in enumerate(re.split("([0-9]+)", name))] for name in path.parts
    )


def printable(path: Path | str) -> str:
    """A path's name for people: bytes that are no UTF-8, which no terminal or log takes, as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _content(path: Path, limits: Limits) -> bytes:
    try:
        # Not to wait for a writer where the name is a pipe's.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise PictureError("cannot be read (not a file)")
            if found.st_size > limits.bytes:
                raise PictureError(
                    f"too large: {found.st_size / 2**20:.0f} MiB, at most {limits.bytes / 2**20:.0f} are read"
                )
            return file.read(limits.bytes)
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror})") from None


def _header(data: bytes, limits: Limits) -> tuple[Image.Image, str]:
    """Pillow's image, of which nothing is decoded, and the format."""
    kind = next((kind for kind, (start, _) in _FORMATS.items() if re.match(start, data, re.DOTALL)), None)
    if kind is None:
        raise PictureError(f"not a picture in a format that is read: {', '.join(_FORMATS)}")
    try:
        header = _pillow(kind, data)
    except Exception as error:  # whatever a header that somebody made up can provoke
        raise PictureError(f"damaged or truncated: the {kind}'s header cannot be read ({one_line(error)})") from None
    check_size(*header.size, limits)
    return header, kind


def _pillow(kind: str, data: bytes) -> Image.Image:
    """Pillow's image, imported with the first of its kind: cameras whose images come unencoded need none of it."""
    name = f"{_FORMATS[kind][1]}Image"
    return getattr(import_module(f"PIL.{name}Plugin"), f"{name}File")(io.BytesIO(data))


def _turn(header: Image.Image, kind: str) -> tuple[int, bool]:
    if kind == "TIFF":  # OpenCV turns these by itself
        return _TURNS[1]
    try:
        note = header.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged note says nothing
        note = 1
    return _TURNS.get(note, _TURNS[1])


def _decode(data: bytes) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """BGR pixels; None for data that cannot be decoded, or that ends before the picture does.

    libjpeg makes up what is missing, so that only the end is known to tell. Where it may be missing, another one is put
    in its place: a picture that is complete does not depend on what follows it.
    """
    end, marked, progressive = _jpeg_end(data)
    if not marked:
        return None if progressive else _whole(_unfilled(data))
    body = data[: end - len(_JPEG_END)].rstrip(b"\xff")
    pixels = _decode(body + _JPEG_END)
    if pixels is not None and (progressive or (pixels[-1, -1] == _UNDECODED).all()):
        return pixels if _whole(body) is not None else None
    return pixels


def _whole(body: bytes) -> np.ndarray | None:
    """BGR pixels of JPEG data without its end mark, where they do not depend on what follows; else None."""
    one, other = (_quietly(body + end) for end in (_JPEG_END, _OTHER_END + _JPEG_END))
    return one if one is not None and other is not None and np.array_equal(one, other) else None


def _quietly(data: bytes) -> np.ndarray | None:
    """A JPEG's BGR pixels by Pillow: it says nothing on stderr of what is odd, and a camera may send many such."""
    try:
        rgb = _pillow("JPEG", data).convert("RGB")
        return np.ascontiguousarray(np.asarray(rgb)[..., ::-1])
    except (OSError, SyntaxError, ValueError):
        return None


def _unfilled(data: bytes) -> bytes:
    """JPEG data without end mark, and without what a camera filled its buffer up with."""
    body = data.rstrip(b"\0\xff")
    return body + _LAST_BYTES.match(data, len(body))[0]


def _jpeg_end(data: bytes) -> tuple[int, bool, bool]:
    """Where a JPEG ends, whether an end mark is there, and whether it comes in progressive scans. Raises PictureError
    for one in very many."""
    at, progressive = 2, False
    scans = 0
    while (found := _JPEG_MARKER.search(data, at)) is not None:
        marker, at = found[1][0], found.end()
        scans += marker == _JPEG_SCAN
        if scans > _MOST_SCANS:
            raise PictureError(f"not decoded: a JPEG in more than {_MOST_SCANS} scans, each of which costs a pass")
        if marker == _JPEG_END[1]:
            return at, True, progressive
        progressive |= marker in _JPEG_PROGRESSIVE
        if marker not in (0x01, 0xD8):  # these two stand alone, every other one has a length
            at += int.from_bytes(data[at : at + 2], "big")
    return len(data), False, progressive
