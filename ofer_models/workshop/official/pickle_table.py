"""What a pickle may name, and what it gets for it: builders of our own that check and store.

Nothing is imported on a pickle's behalf. Packages moved their modules over the years: most things have several names.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ofer_models.files.refusal import one_line
from ofer_models.workshop.official import pickle_standins as standins
from ofer_models.workshop.official.pickle_machine import Budget, Builder, UnsafePickleError, checked_key

_ITEM = 128  # bytes that an entry of a dictionary or set costs
_CHUMPY = {
    "chumpy.ch.Ch": standins.Chumpy,
    "chumpy.reordering.Select": standins.ChumpySelect,
    "chumpy.reordering.Reshape": standins.ChumpyReshape,
    "chumpy.reordering.reshape": standins.ChumpyReshape,
    "chumpy.reordering.transpose": standins.ChumpyTranspose,
    "chumpy.reordering.swapaxes": standins.ChumpyTranspose,
    "chumpy.reordering.rollaxis": standins.ChumpyTranspose,
    "chumpy.reordering.Concatenate": standins.ChumpyConcatenate,
}
_TORCH_TYPES = (
    "float64", "float32", "float16", "bfloat16", "complex64", "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip


def pickle_table(budget: Budget, objects: bool = False) -> dict[str, Builder]:
    """The table of one file. objects: whether an array may be one Python object (as in `np.save`'s dictionaries)."""
    table: dict[str, Callable[..., Any]] = {
        **dict.fromkeys(("numpy.ndarray", "numpy.matrix"), _refuse("an array without its numbers")),
        "numpy.dtype": standins.Dtype,
        "collections.OrderedDict": lambda pairs=(): _dictionary(pairs, budget),
        "collections.Counter": lambda counts=(): _counter(counts),
        "_codecs.encode": lambda text, encoding="latin1", *_: _encoded(text, encoding, budget),
        "torch.storage._load_from_bytes": lambda raw: _storage(raw, budget),
        **_torch_builders(),
    }
    for module in ("numpy.matrixlib.defmatrix", "numpy.core.defmatrix"):
        table[f"{module}.matrix"] = table["numpy.matrix"]
    for package in ("numpy.core", "numpy._core"):
        table[f"{package}.multiarray._reconstruct"] = lambda *_: standins.StoredArray(objects)
        table[f"{package}.multiarray.scalar"] = lambda dtype, raw=b"": _scalar(dtype, raw, budget)
        table[f"{package}.numeric._frombuffer"] = lambda raw, dtype, shape, order="C", *_: standins.array_of(
            raw, _dtype(dtype), shape, order, budget
        )
    classes: dict[str, Callable[[], Any]] = dict(_CHUMPY)
    for form, kind in (("csc", standins.SparseMatrix), ("csr", standins.SparseRows), ("coo", standins.SparseMatrix)):
        for module in (f"scipy.sparse.{form}", f"scipy.sparse._{form}"):
            classes |= dict.fromkeys((f"{module}.{form}_matrix", f"{module}.{form}_array"), kind)
    table |= {name: lambda kind=kind: kind() for name, kind in classes.items()}
    for builtins in ("builtins", "__builtin__"):
        table[f"{builtins}.set"] = lambda items=(): set(_members(items, budget))
        table[f"{builtins}.frozenset"] = lambda items=(): frozenset(_members(items, budget))
        table[f"{builtins}.bytes"] = _no_bytes
        table[f"{builtins}.object"] = _refuse("a bare object")
    builders = {name: Builder(make) for name, make in table.items()}
    instances = {builders[name] for name in classes}
    for module in ("copyreg", "copy_reg"):
        builders[f"{module}._reconstructor"] = Builder(lambda kind, *_: _reconstructed(kind, instances))
    return builders


def torch_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> standins.StoredTensor:
    """A tensor of a storage. Raises UnsafePickleError where it reaches outside it or stands for more than it holds."""
    size, stride = standins.shape_of(size), standins.shape_of(stride)
    if not isinstance(storage, standins.Storage) or type(offset) is not int or len(size) != len(stride):
        raise UnsafePickleError("stores a tensor in an unknown form")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > storage.count or offset < 0 or (math.prod(size) and last >= storage.count):
        raise UnsafePickleError("stores a tensor that does not fit its storage")
    return standins.StoredTensor(storage, offset, size, stride)


def _torch_builders() -> dict[str, Callable[..., Any]]:
    kinds = {f"torch.{kind}": _refuse(f"a torch.{kind} without its numbers") for kind in standins.NUMPY_TYPES}
    types = {f"torch.{kind}": _refuse(f"torch.{kind}") for kind in _TORCH_TYPES}
    return kinds | types | {
        "torch._utils._rebuild_tensor_v2": torch_tensor,
        "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        "torch.Size": lambda sizes=(): standins.shape_of(tuple(sizes)),
        "torch.device": lambda *names: one_line(names),
    }


def _refuse(what: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise UnsafePickleError(f"makes {what}")

    return refuse


def _reconstructed(kind: Any, instances: set[Builder]) -> Any:
    """Python 2's way to make an object of a class."""
    if kind not in instances:
        raise UnsafePickleError("makes an object of something that is no class")
    return kind.make()


def _members(items: Any, budget: Budget) -> list[Any]:
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise UnsafePickleError("makes a set of something that is no list")
    budget.make(_ITEM * len(items))
    return [checked_key(item) for item in items]


def _dictionary(pairs: Any, budget: Budget) -> dict[Any, Any]:
    if not isinstance(pairs, (list, tuple)):
        raise UnsafePickleError("makes a dictionary of something that is no list")
    budget.make(_ITEM * len(pairs))
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise UnsafePickleError("makes a dictionary of something that is no list of pairs")
    return {checked_key(key): value for key, value in pairs}


def _counter(counts: Any) -> dict[Any, Any]:
    """A scheduler's milestones: nothing but the dictionary it is."""
    if type(counts) is not dict:
        raise UnsafePickleError("makes a counter of something that is no dictionary")
    return counts


def _no_bytes(*arguments: Any) -> bytes:
    """How Python 3 writes the bytes of an empty array into old pickles."""
    if arguments:
        raise UnsafePickleError("calls bytes with arguments")
    return b""


def _encoded(text: Any, encoding: Any, budget: Budget) -> bytes:
    """How Python 3 writes bytes into old pickles."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnsafePickleError("encodes text in another way than numpy does")
    budget.make(len(text))
    return text.encode("latin1")


def _dtype(dtype: Any) -> standins.Dtype:
    if not isinstance(dtype, standins.Dtype) or dtype.real is None:
        raise UnsafePickleError("stores numbers of an unknown type")
    return dtype


def _scalar(dtype: Any, raw: Any, budget: Budget) -> Any:
    real = _dtype(dtype).real
    if real.kind not in "biufc" or not isinstance(raw, (bytes, str)) or len(raw) != real.itemsize:
        raise UnsafePickleError("stores a number with the wrong number of bytes")
    return standins.array_of(raw, dtype, (), "C", budget)[()]


def _storage(raw: Any, budget: Budget) -> standins.Storage:
    """A torch storage inside an ordinary pickle: a file in torch's old format."""
    from ofer_models.workshop.official.torch_file import read_old_format

    if not isinstance(raw, bytes):
        raise UnsafePickleError("stores a tensor in an unknown form")
    storage = read_old_format(io.BytesIO(raw), np.frombuffer(raw, np.uint8), budget)
    if not isinstance(storage, standins.Storage):
        raise UnsafePickleError("stores a tensor in an unknown form")
    return storage
