"""Reading pickles of unknown origin: numbers, containers and a few named array types, and nothing else.

A pickle can name the entries of one table, all of them builders of our own that only check and store; any other name
ends the reading with that name in the message. Neither scipy nor chumpy is needed, and Python-2 files (latin1 strings)
are read too.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ofer_models.files.arrays import read_header
from ofer_models.files.refusal import FileRefused, one_line
from ofer_models.workshop.official.pickle_machine import Budget, Machine, UnsafePickleError
from ofer_models.workshop.official.pickle_standins import Dtype, StoredArray, StoredTensor, array_of
from ofer_models.workshop.official.pickle_table import pickle_table

_LARGEST = 1 << 30  # FLAME's own are of 60 MB


def read_pickle(path: str | Path) -> Any:
    """The content of a pickle file: plain containers, and stand-ins for arrays, chumpy and scipy.sparse, which
    `pickle_numbers.numbers` turns into arrays.

    Raises UnsafePickleError with one line when the file is no pickle, is damaged, swells, or names anything outside the
    table.
    """
    path = Path(path)
    return _load(io.BytesIO(_content(path)), path.name)


def read_object_npy(path: str | Path) -> Any:
    """The object in an .npy file: a plain array, or one pickled dictionary (numpy's 0-d object array) whose arrays and
    tensors are plain arrays, and the rest as `read_pickle` gives it.

    Raises UnsafePickleError as `read_pickle` does.
    """
    path = Path(path)
    content = _content(path)
    file = io.BytesIO(content)
    try:
        header = read_header(file)
    except FileRefused as error:
        raise UnsafePickleError(f"{path.name} is not an .npy file: it {error}; download it again") from None
    if not header.dtype.hasobject:
        try:
            raw = content[header.start : header.start + header.size]
            return array_of(raw, Dtype(header.dtype.str), header.shape, "CF"[header.fortran], Budget(len(content)))
        except UnsafePickleError as error:
            raise UnsafePickleError(f"{path.name} is damaged: it {error}; download it again") from None
    if header.shape != ():
        raise UnsafePickleError(f"{path.name} refused: it stores a numpy array of Python objects; nothing was run")
    found = _load(file, path.name, objects=True)
    found = _plain(found)
    return {name: _plain(value) for name, value in found.items()} if isinstance(found, dict) else found


def _plain(value: Any) -> Any:
    if isinstance(value, StoredTensor):
        return value.array()
    return value.value if isinstance(value, StoredArray) else value


def run_pickle(load: Callable[[], Any], otherwise: str = "is not a readable pickle") -> Any:
    """What a machine loads. Raises UnsafePickleError with what follows the file's name in a message.

    otherwise: how it begins where the file is no such thing at all.
    """
    try:
        return load()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"refused: it {error}; nothing of it was run") from None
    except Exception as error:  # a damaged pickle can raise nearly every type
        raise UnsafePickleError(f"{otherwise} ({one_line(error)}); download it again") from None


def _load(file: io.BytesIO, name: str, objects: bool = False) -> Any:
    budget = Budget(file.getbuffer().nbytes)
    try:
        return run_pickle(Machine(file, pickle_table(budget, objects), budget).load)
    except UnsafePickleError as error:
        raise UnsafePickleError(one_line(f"{name} {error}")) from None


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise UnsafePickleError(f"{path.name} refused: it is larger than {_LARGEST >> 20} MiB, which no head model is")
    return content
