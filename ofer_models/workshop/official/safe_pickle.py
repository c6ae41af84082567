"""Reading pickles of unknown origin: numbers, containers and a few named array types, and nothing else.

A pickle is a program that may call whatever it can name. Here it can name the entries of one table, all of them
builders of our own that only check and store; any other name ends the reading with that name in the message.
Nothing is imported on a pickle's behalf, neither scipy nor chumpy is needed, and Python-2 files (latin1 strings)
are read too.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ofer_models.workshop.official.pickle_standins import (
    CheckedArray,
    ChumpyArray,
    ChumpySelect,
    Dtype,
    ObjectArray,
    Record,
    SparseMatrix,
    SparseRows,
    UnsafePickleError,
    check_shape,
)


class _Builder:
    """A callable that a pickle can call but not change: no attributes, and its own state is refused."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise UnsafePickleError(f"tries to set '{name}' of a builder")

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickleError("tries to change a builder")


def read_pickle(path: str | Path) -> Any:
    """The content of a pickle file: plain containers, numpy arrays, and stand-ins for chumpy and scipy.sparse,
    which `pickle_standins.numbers` turns into arrays.

    Raises UnsafePickleError with one line when the file is no pickle, is damaged, or names anything outside the table.
    """
    path = Path(path)
    with path.open("rb") as file:
        return _load(file, path.name)


def read_object_npy(path: str | Path) -> Any:
    """The object in an .npy file: a plain array, or one pickled dictionary (numpy's 0-d object array), tensors
    as arrays.

    Raises UnsafePickleError as `read_pickle` does.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(file)
        except Exception as error:  # a damaged header can raise nearly every type
            raise UnsafePickleError(f"{path.name} is not an .npy file ({_line(error)}); download it again") from None
        if not dtype.hasobject:
            file.seek(0)
            try:
                return np.load(file, allow_pickle=False)
            except Exception as error:
                raise UnsafePickleError(f"{path.name} is damaged ({_line(error)}); download it again") from None
        if shape != ():
            raise UnsafePickleError(f"{path.name} refused: it stores a numpy array of Python objects; nothing was run")
        content = _load(file, path.name, objects_allowed=True)
    return content.item() if isinstance(content, np.ndarray) and content.shape == () else content


def _load(file: BinaryIO, name: str, objects_allowed: bool = False) -> Any:
    try:
        return _Unpickler(file, objects_allowed).load()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{name} refused: it {error}; nothing of it was run") from None
    except Exception as error:  # a damaged pickle can raise nearly every type
        raise UnsafePickleError(f"{name} is not a readable pickle ({_line(error)}); download it again") from None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, objects_allowed: bool) -> None:
        super().__init__(file, encoding="latin1")
        self._table = _table(ObjectArray if objects_allowed else CheckedArray)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._table[f"{module}.{name}"]
        except KeyError:
            raise UnsafePickleError(f"asks for {module}.{name}, which no head model needs") from None

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError("refers to data outside the file")


def _table(array_type: type[CheckedArray]) -> dict[str, Any]:
    """What a pickle may name. Packages moved their modules over the years, so most things have several names."""
    reconstruct = _Builder(lambda *_: np.ndarray.__new__(array_type, (0,), np.int8))
    table: dict[str, Any] = {
        "numpy.ndarray": _Builder(_refuse_call("numpy.ndarray")),
        "numpy.dtype": Dtype,
        "chumpy.ch.Ch": ChumpyArray,
        "chumpy.reordering.Select": ChumpySelect,
        "collections.OrderedDict": _Builder(lambda pairs=(): dict(pairs)),
        "_codecs.encode": _Builder(_encode),
        "torch._utils._rebuild_tensor_v2": _Builder(_tensor),
        "torch.storage._load_from_bytes": _Builder(_storage),
    }
    for package in ("numpy.core", "numpy._core"):
        table[f"{package}.multiarray._reconstruct"] = reconstruct
        table[f"{package}.multiarray.scalar"] = _Builder(_scalar)
        table[f"{package}.numeric._frombuffer"] = _Builder(_from_buffer)
    for form, kind in (("csc", SparseMatrix), ("csr", SparseRows), ("coo", SparseMatrix)):
        for module in (f"scipy.sparse.{form}", f"scipy.sparse._{form}"):
            table[f"{module}.{form}_matrix"] = table[f"{module}.{form}_array"] = kind
    for builtins in ("builtins", "__builtin__"):
        table[f"{builtins}.set"] = _Builder(lambda items=(): set(items))
        table[f"{builtins}.frozenset"] = _Builder(lambda items=(): frozenset(items))
        table[f"{builtins}.bytes"] = _Builder(_no_bytes)
        table[f"{builtins}.object"] = _Builder(_refuse_call("object"))
    for module in ("copyreg", "copy_reg"):
        table[f"{module}._reconstructor"] = _Builder(_reconstructor)
    return table


def _refuse_call(name: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise UnsafePickleError(f"calls {name}")

    return refuse


def _reconstructor(kind: Any, *_: Any) -> Record:
    """Python 2's way to make an object of a class."""
    if not (isinstance(kind, type) and issubclass(kind, Record)):
        raise UnsafePickleError("makes an object of something that is no class")
    return kind()


def _no_bytes(*arguments: Any) -> bytes:
    """How Python 3 writes the bytes of an empty array into old pickles."""
    if arguments:
        raise UnsafePickleError("calls bytes with arguments")
    return b""


def _encode(text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
    """How Python 3 writes bytes into old pickles."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnsafePickleError(f"encodes text as {encoding!r}")
    return text.encode("latin1")


def _plain(dtype: Any) -> np.dtype:
    if not isinstance(dtype, Dtype) or dtype.real.kind == "O":
        raise UnsafePickleError("stores numbers of an unknown type")
    return dtype.real


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(raw, bytes) or len(raw) != _plain(dtype).itemsize:
        raise UnsafePickleError("stores a number with the wrong number of bytes")
    return np.frombuffer(raw, _plain(dtype))[0]


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> np.ndarray:
    check_shape(shape)
    if not isinstance(raw, (bytes, bytearray)) or len(raw) != math.prod(shape) * _plain(dtype).itemsize:
        raise UnsafePickleError(f"stores an array of shape {shape} with the wrong number of bytes")
    return np.frombuffer(bytes(raw), _plain(dtype)).reshape(shape, order="F" if order == "F" else "C")


def _storage(raw: Any) -> np.ndarray:
    """A torch storage inside an ordinary pickle, read by torch's own restricted reader: its numbers (n,)."""
    import torch

    if not isinstance(raw, bytes):
        raise UnsafePickleError("stores a tensor in an unknown form")
    try:
        storage = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
        return torch.tensor([], dtype=storage.dtype).set_(storage).numpy().copy()
    except Exception as error:
        raise UnsafePickleError(f"stores a tensor that torch refuses: {refused_name(error)}") from None


def refused_name(error: Exception) -> str:
    """What torch's restricted reader objected to, in one line: the name it refused, if that was the reason."""
    found = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"class: ?(\S+)", str(error))
    return found.group(1) if found else (str(error).strip().splitlines() or [type(error).__name__])[0]


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """A contiguous tensor of a storage, as an array."""
    check_shape(size)
    count = math.prod(size)
    contiguous = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
    if not isinstance(storage, np.ndarray) or tuple(stride) != contiguous or not 0 <= offset <= len(storage) - count:
        raise UnsafePickleError("stores a tensor that does not fit its storage")
    return storage[offset : offset + count].reshape(size)
