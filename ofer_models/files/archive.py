"""Zip archives whose directory is looked at before anything of them is unpacked."""

from __future__ import annotations

import os
import struct
import zipfile
from typing import BinaryIO

from ofer_models.files.refusal import FileRefused, one_line

_MOST_DIRECTORY = 4 << 20  # bytes: some 40,000 entries
_END, _END64, _LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_END_SIZE, _LOCATOR64_SIZE, _END64_SIZE, _LONGEST_COMMENT = 22, 20, 56, 1 << 16
_LOCAL_SIZE, _ENCRYPTED = 30, 1


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """The archive in an open file. Raises FileRefused when it is none, encrypted, or lists too many entries, or one
    twice.

    Python's reader makes a large object of every entry it lists, so the length of the list is read first.
    """
    try:
        if _directory_size(file) > _MOST_DIRECTORY:
            raise FileRefused("lists more entries than any file that ofer reads")
        archive = zipfile.ZipFile(file)
    except FileRefused:
        raise
    except Exception as error:  # a damaged directory can raise nearly every type
        raise FileRefused(f"is damaged or cut short ({one_line(error)})") from None
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise FileRefused("holds two entries of one name")
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in archive.infolist()):
        raise FileRefused("is compressed in a way that numpy and torch do not use")
    if any(entry.flag_bits & _ENCRYPTED for entry in archive.infolist()):
        raise FileRefused("is encrypted")
    return archive


def stored_range(file: BinaryIO, entry: zipfile.ZipInfo) -> slice:
    """Where an uncompressed entry's bytes lie in the file. Raises FileRefused where it is compressed or outside."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise FileRefused(f"holds {one_line(entry.filename)!r} compressed")
    file.seek(max(0, entry.header_offset))
    header = file.read(_LOCAL_SIZE)
    if entry.header_offset < 0 or len(header) != _LOCAL_SIZE or header[:4] != b"PK\3\4":
        raise FileRefused(f"is damaged: {one_line(entry.filename)!r} is not where its directory says")
    name, extra = struct.unpack("<HH", header[26:])
    start = entry.header_offset + _LOCAL_SIZE + name + extra
    if start + entry.file_size > os.fstat(file.fileno()).st_size:
        raise FileRefused(f"is cut short: {one_line(entry.filename)!r} ends outside of it")
    return slice(start, start + entry.file_size)


def _directory_size(file: BinaryIO) -> int:
    """Bytes of the archive's directory as its last record tells; 0 where there is none (and no archive)."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _END_SIZE - _LONGEST_COMMENT - _LOCATOR64_SIZE)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + _END_SIZE:
        return 0
    (told,) = struct.unpack("<I", tail[at + 12 : at + 16])
    if told != 0xFFFFFFFF or tail[at - _LOCATOR64_SIZE : at - _LOCATOR64_SIZE + 4] != _LOCATOR64:
        return told
    (record,) = struct.unpack("<Q", tail[at - _LOCATOR64_SIZE + 8 : at - _LOCATOR64_SIZE + 16])
    file.seek(min(record, size))
    end = file.read(_END64_SIZE)
    return struct.unpack("<Q", end[40:48])[0] if len(end) == _END64_SIZE and end[:4] == _END64 else 0
