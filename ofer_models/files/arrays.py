"""Archives of arrays (`.npz`) and single arrays (`.npy`), checked by their headers before a number is read."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ofer_models.files.archive import open_archive
from ofer_models.files.refusal import FileRefused, one_line

_KINDS = "biufUS"  # numbers and text: never Python objects, never structures
_MOST_DIMENSIONS, _LONGEST_SIDE = 8, 1 << 40
_RATIO, _SPARE = 4, 64 << 20  # how much more than its file a compressed archive may hold
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class ArrayHeader:
    """What an array's header says of it, and where its numbers begin."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int

    @property
    def size(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npz(
    path: str | Path,
    known: Callable[[str], bool] = lambda name: True,
    most: int = 4 << 30,
    only: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name, numbers and text only.

    known: which names may be there; most: bytes of all arrays; only: read no others than these. Raises FileRefused with
    one line (the file's name first) when the archive is damaged, holds something else, or more than its size allows:
    nothing is unpacked before all headers have been compared with the archive's directory. OSError when there is no
    such file.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            return read_open_npz(file, known, most, only)
        except FileRefused as error:
            raise FileRefused(f"{path.name} {error}") from None


def read_open_npz(
    file: BinaryIO,
    known: Callable[[str], bool] = lambda name: True,
    most: int = 4 << 30,
    only: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """As `read_npz`, of a file that is open; messages begin after the file's name."""
    try:
        return _read(file, known, most, only)
    except FileRefused:
        raise
    except Exception as error:  # zipfile and numpy raise many types for a damaged archive
        raise FileRefused(f"is damaged or cut short ({one_line(error)})") from None


def read_npy(path: str | Path, most: int = 1 << 30) -> np.ndarray:
    """The array of an .npy file, numbers and text only. Raises as `read_npz`."""
    path = Path(path)
    with path.open("rb") as file:
        try:
            header = read_header(file)
            if header.dtype.kind not in _KINDS or header.dtype.hasobject:
                raise FileRefused("refused: it holds Python objects or structures, not numbers")
            size = os.fstat(file.fileno()).st_size
            if header.start + header.size != size or size > most:
                raise FileRefused(f"is damaged, cut short or too large: {size} bytes, its header tells {header.size}")
            file.seek(0)
            return _array(file, header)
        except FileRefused as error:
            raise FileRefused(f"{path.name} {error}") from None


def check_unpacked(total: int, packed: int, most: int) -> None:
    """Raise FileRefused where a file of `packed` bytes claims to hold more than `most`, or than one of its size may."""
    limit = min(most, _RATIO * packed + _SPARE)
    if total > limit:
        raise FileRefused(f"refused: it unpacks to {total} bytes, at most {limit} are believed of it")


def read_header(file: BinaryIO) -> ArrayHeader:
    """The header of an .npy file at the file's position. Raises FileRefused when it is none, or makes no sense."""
    begin = file.tell()
    try:
        reader = _HEADER_READERS[np.lib.format.read_magic(file)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of Python 2
            shape, fortran, dtype = reader(file)
    except Exception as error:  # a damaged header can raise nearly every type
        raise FileRefused(f"has no readable array header ({one_line(error)})") from None
    if len(shape) > _MOST_DIMENSIONS or not all(type(n) is int and 0 <= n < _LONGEST_SIDE for n in shape):
        raise FileRefused(f"has an array of shape {one_line(shape)}")
    return ArrayHeader(shape, fortran, dtype, file.tell() - begin)


def _read(
    file: BinaryIO, known: Callable[[str], bool], most: int, only: Collection[str] | None
) -> dict[str, np.ndarray]:
    archive = open_archive(file)
    headers: dict[str, ArrayHeader] = {}
    for entry in archive.infolist():
        name = entry.filename.removesuffix(".npy")
        if name == entry.filename:
            raise FileRefused(f"holds {one_line(name)!r}, which is no array")
        if not known(name):
            raise FileRefused(f"holds an array {one_line(name)!r} that does not belong into it")
        with archive.open(entry) as stream:
            try:
                header = read_header(stream)
            except FileRefused as error:
                raise FileRefused(f"is damaged: {one_line(name)!r} {error}") from None
        if header.dtype.kind not in _KINDS or header.dtype.hasobject:
            raise FileRefused(f"refused: {one_line(name)!r} holds Python objects or structures, not numbers")
        if header.start + header.size != entry.file_size:
            raise FileRefused(f"is damaged: {one_line(name)!r} has {entry.file_size - header.start} bytes of numbers, "
                              f"its header tells {header.size}")  # fmt: skip
        headers[entry.filename] = header
    total = sum(header.size for header in headers.values())
    check_unpacked(total, os.fstat(file.fileno()).st_size, most)
    names = {entry: entry.removesuffix(".npy") for entry in headers}
    wanted = [entry for entry, name in names.items() if only is None or name in only]
    return {names[entry]: _array(archive.open(entry), headers[entry]) for entry in wanted}


def _array(stream: BinaryIO, header: ArrayHeader) -> np.ndarray:
    with stream:
        stream.read(header.start)
        if not header.size:
            return np.zeros(header.shape, header.dtype)
        raw = bytearray(header.size)
        view, filled = memoryview(raw), 0
        while filled < header.size:
            part = stream.read(min(1 << 24, header.size - filled))
            if not part:
                raise FileRefused("is cut short")
            view[filled : filled + len(part)] = part
            filled += len(part)
        stream.read(1)  # the end, where the archive's checksum is compared
    return np.frombuffer(raw, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
