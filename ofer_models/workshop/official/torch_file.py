"""torch's files read without torch: today's zip archives and the old format, tensors mapped from the file.

Their pickles run on the pickle machine, so a file can name nothing but tensors, numbers and containers, and a tensor
can reach nothing but its own bytes. Facts of both formats: torch/serialization.py.
"""

from __future__ import annotations

import io
import os
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ofer_models.files.archive import open_archive, stored_range
from ofer_models.files.refusal import FileRefused, one_line
from ofer_models.workshop.official.pickle_machine import Budget, Builder, Machine, UnsafePickleError
from ofer_models.workshop.official.pickle_standins import NUMPY_TYPES, Storage
from ofer_models.workshop.official.pickle_table import pickle_table
from ofer_models.workshop.official.safe_pickle import run_pickle

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_NONE = "is damaged or cut short, or no checkpoint"
_LARGEST_PICKLE = 64 << 20  # of an archive; full-size checkpoints have one of half a megabyte


def read_torch(path: Path) -> Any:
    """What a file of `torch.save` holds: containers, and `StoredTensor`s that are mapped from it.

    Raises UnsafePickleError with one line, the file's name first.
    """
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise FileRefused("is damaged or cut short (it is empty)")
            raw = np.memmap(file, np.uint8, "c")
            if bytes(raw[:4]) == b"PK\3\4":
                return _read_archive(file, raw)
            file.seek(0)
            if tarfile.is_tarfile(path):
                raise FileRefused("is an archive, not torch's format")
            return _read_plain(file, raw)
    except UnsafePickleError as error:
        raise UnsafePickleError(one_line(f"{path.name} {error}")) from None
    except FileRefused as error:
        raise UnsafePickleError(f"{path.name} {error}; download it again") from None


def read_old_format(file: BinaryIO, raw: np.ndarray, budget: Budget) -> Any:
    """The object of a file in torch's old format: pickles one after the other, then the storages' bytes.

    raw: all bytes of the file. Raises UnsafePickleError, and for a damaged file nearly any error.
    """
    table, stored = pickle_table(budget), {}

    def pickled(outside: Any = None) -> Any:
        return Machine(file, table, budget, outside, "checkpoint").load()

    def outside(pid: Any) -> Storage:
        kind, key, count, *view = _storage_id(pid, table)
        if view not in ([], [None]):
            raise UnsafePickleError("holds views of storages, as torch wrote them before 2017")
        storage = stored.setdefault(key, Storage(kind, count))
        if storage.size > len(raw) or (storage.kind, storage.count) != (kind, count):
            raise UnsafePickleError("holds a tensor that does not fit the file")
        return storage

    if pickled() != _MAGIC or pickled() != _PROTOCOL or pickled().get("little_endian") is not True:
        raise UnsafePickleError("is not in torch's format")
    content, keys = pickled(outside), pickled()
    if type(keys) is not list or sorted(map(str, keys)) != sorted(stored):
        raise UnsafePickleError("lists other tensors than it holds")
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        start, storage = file.tell(), stored[key]
        if count != storage.count or start + storage.size > len(raw):
            raise EOFError("a tensor has another size than told")
        storage.raw = raw[start : start + storage.size]
        file.seek(start + storage.size)
    return content


def _read_plain(file: BinaryIO, raw: np.ndarray) -> Any:
    return run_pickle(lambda: read_old_format(file, raw, Budget(len(raw))), _NONE)


def _read_archive(file: BinaryIO, raw: np.ndarray) -> Any:
    archive = open_archive(file)
    entries = {entry.filename: entry for entry in archive.infolist()}
    roots = [name.removesuffix("/data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise FileRefused("has no data.pkl, or several")
    root = roots[0]
    pickled = entries[f"{root}/data.pkl"]
    if pickled.file_size > _LARGEST_PICKLE:
        raise FileRefused(f"has a pickle of {pickled.file_size >> 20} MiB beside its tensors")
    if f"{root}/byteorder" in entries and bytes(raw[stored_range(file, entries[f"{root}/byteorder"])]) != b"little":
        raise FileRefused("was written on a big-endian machine")
    budget = Budget(pickled.file_size)
    table, stored = pickle_table(budget), {}

    def outside(pid: Any) -> Storage:
        kind, key, count, *_ = _storage_id(pid, table)
        if key not in stored:
            entry = entries.get(f"{root}/data/{key}")
            if entry is None:
                raise UnsafePickleError("is cut short: the numbers of a tensor are missing")
            stored[key] = Storage(kind, count, raw[stored_range(file, entry)])
        storage = stored[key]
        if len(storage.raw) != storage.size or (storage.kind, storage.count) != (kind, count):
            raise UnsafePickleError("holds a tensor of another size or type than told")
        return storage

    source = io.BytesIO(raw[stored_range(file, pickled)].tobytes())
    return run_pickle(Machine(source, table, budget, outside, "checkpoint").load, _NONE)


def _storage_id(pid: Any, table: Mapping[str, Builder]) -> tuple[Any, ...]:
    """(type, key, count, ...) of a persistent id ('storage', class, key, device, count, ...)."""
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
        raise UnsafePickleError("refers to data outside the file")
    _, named, key, _, count, *view = pid
    kind = next((kind for kind in NUMPY_TYPES if table[f"torch.{kind}"] is named), None)
    if kind is None or type(key) is not str or type(count) is not int or not 0 <= count < 1 << 48:
        raise UnsafePickleError("holds numbers of an unknown type")
    return kind, key, count, *view
