"""What the pickle machine makes in the place of numpy's, scipy's, chumpy's and torch's own objects: they check, keep
numbers, and run nothing. `numbers` turns them into arrays.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from ofer_models.files.refusal import one_line
from ofer_models.workshop.official.pickle_machine import Budget, Record, UnsafePickleError

_NUMBER_OR_TEXT = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,3})|\?|[bBhHiIlLqQfd]")
_OBJECTS = re.compile(r"[<>=|]?O\d{0,2}")
_MOST_DIMENSIONS, _LONGEST_SIDE = 8, 1 << 32
# torch's names for the types of a storage's numbers, and numpy's types for them (it has no bfloat16).
NUMPY_TYPES = {
    "DoubleStorage": np.dtype("<f8"), "FloatStorage": np.dtype("<f4"), "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"), "IntStorage": np.dtype("<i4"), "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"), "ByteStorage": np.dtype("u1"), "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("<c8"), "ComplexDoubleStorage": np.dtype("<c16"), "BFloat16Storage": None,
}  # fmt: skip


class Stored(Record):
    """An object whose state is a dictionary of fields."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def set_state(self, state: Any, budget: Budget) -> None:
        if type(state) is not dict:
            raise UnsafePickleError(f"stores a {type(state).__name__} as the state of a {type(self).__name__}")
        self.state = state


class Chumpy(Stored):
    """chumpy.ch.Ch: its array is the field `x`."""


class ChumpySelect(Stored):
    """chumpy.reordering.Select: entries `idxs` of the flattened array `a`, in `preferred_shape` if it has one."""


class ChumpyReshape(Stored):
    """chumpy.reordering.Reshape: the array `a` in the shape `newshape`."""


class ChumpyTranspose(Stored):
    """chumpy.reordering.transpose, swapaxes and rollaxis: the array `a` with its axes in another order."""


class ChumpyConcatenate(Stored):
    """chumpy.reordering.Concatenate: the fields that `dterms` names, joined along `axis`."""


class SparseMatrix(Stored):
    """scipy.sparse in compressed-column and coordinate form."""


class SparseRows(SparseMatrix):
    """scipy.sparse in compressed-row form."""


class Dtype(Record):
    """numpy.dtype: a plain number or string type, never a structure; `real` is None for Python objects."""

    def __init__(self, spec: Any, *_: Any) -> None:
        self.real: np.dtype | None = None
        if not isinstance(spec, str) or not (_OBJECTS.fullmatch(spec) or _NUMBER_OR_TEXT.fullmatch(spec)):
            raise UnsafePickleError(f"stores an array of type {one_line(repr(spec)[:100])}")
        if not _OBJECTS.fullmatch(spec):
            self.real = np.dtype(spec)

    def set_state(self, state: Any, budget: Budget) -> None:
        """numpy's own state is not given to numpy: only its byte order is taken."""
        if not (type(state) is tuple and len(state) >= 5 and state[2:5] == (None, None, None)):
            raise UnsafePickleError("stores an array of a structured type")
        if self.real is not None and state[1] in ("<", ">"):
            self.real = self.real.newbyteorder(state[1])


class StoredArray(Record):
    """numpy.ndarray and numpy.matrix: `value` is a view of the stored bytes, made anew, never numpy's own state.

    objects: whether it may be one Python object without a shape (as `np.save` stores a dictionary), which is `value`.
    """

    def __init__(self, objects: bool) -> None:
        self._objects = objects
        self.value: Any = np.zeros(0, np.int8)

    def __array__(self, *arguments: Any, **options: Any) -> np.ndarray:
        return np.asarray(self.value, *arguments)

    def set_state(self, state: Any, budget: Budget) -> None:
        if not (type(state) is tuple and len(state) == 5 and isinstance(state[2], Dtype)):
            raise UnsafePickleError("stores an array in an unknown form")
        _, shape, dtype, fortran, raw = state
        if dtype.real is None:
            if not self._objects or shape != () or not (type(raw) is list and len(raw) == 1):
                raise UnsafePickleError("stores a numpy array of Python objects")
            self.value = raw[0]
        else:
            self.value = array_of(raw, dtype, shape, "F" if fortran else "C", budget)


@dataclass
class Storage:
    """A torch storage: torch's name for the type of its numbers, how many there are, and their bytes in the file, which
    the old format tells last.
    """

    kind: str
    count: int
    raw: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        dtype = NUMPY_TYPES[self.kind]
        return self.count * (dtype.itemsize if dtype else 2)


@dataclass(frozen=True)
class StoredTensor:
    """A torch tensor: part of a storage, offset and stride in numbers."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> np.ndarray:
        """A view of the numbers. Raises UnsafePickleError for a type that numpy does not have."""
        dtype, raw = NUMPY_TYPES[self.storage.kind], self.storage.raw
        if dtype is None or raw is None:
            raise UnsafePickleError(f"stores a tensor of type {self.storage.kind}")
        flat = np.frombuffer(raw.data, dtype) if raw.size else np.zeros(0, dtype)
        stride = tuple(step * dtype.itemsize for step in self.stride)
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.size, stride, writeable=False)


def shape_of(shape: Any) -> tuple[int, ...]:
    """A stored shape as plain numbers. Raises UnsafePickleError."""
    if not (type(shape) is tuple and len(shape) <= _MOST_DIMENSIONS
            and all(isinstance(n, (Integral, np.integer)) and 0 <= n < _LONGEST_SIDE for n in shape)):  # fmt: skip
        raise UnsafePickleError(f"stores an array of a shape that is none ({type(shape).__name__})")
    return tuple(int(n) for n in shape)


def array_of(raw: Any, dtype: Dtype, shape: Any, order: Any, budget: Budget) -> np.ndarray:
    """The array in stored bytes, as a view of them. Raises UnsafePickleError when the two do not fit."""
    shape = shape_of(shape)
    if isinstance(raw, str):
        budget.make(len(raw))
        raw = raw.encode("latin1")
    if dtype.real is None or not isinstance(raw, bytes) or len(raw) != math.prod(shape) * dtype.real.itemsize:
        raise UnsafePickleError(f"stores an array of shape {shape} with the wrong number of bytes")
    if not raw:
        return np.zeros(shape, dtype.real)
    return np.frombuffer(raw, dtype.real).reshape(shape, order="F" if order == "F" else "C")

