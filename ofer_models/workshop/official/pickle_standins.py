"""What a restricted pickle reader puts in the place of numpy's, scipy's and chumpy's own classes: they check,
keep numbers, and run nothing.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

_NUMBER_OR_TEXT = re.compile(r"[<>=|]?[biufc]\d{1,2}|[<>=|]?[SU]\d{1,4}|\?|[bBhHiIlLqQfd]")
_OBJECTS = re.compile(r"[<>=|]?O\d*")
_MAX_NESTING = 8  # of selections inside selections
_MAX_DENSE = 1 << 28  # numbers in a sparse matrix written out


class UnsafePickleError(ValueError):
    """A pickle is damaged or asks for something outside the table; the message names it."""


class Sealed(type):
    """Classes that a pickle can make objects of but not change."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise UnsafePickleError(f"tries to set '{name}' of a class")


class Record(metaclass=Sealed):
    """Stand-in for a class of another package: keeps the state that was stored for it and runs nothing."""

    state: dict[str, Any]

    def __new__(cls) -> Record:
        record = super().__new__(cls)
        record.state = {}  # here, because pickles may make objects without initialising them
        return record

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise UnsafePickleError(f"stores a {type(state).__name__} as the state of a {type(self).__name__}")
        self.state = state


class ChumpyArray(Record):
    """Stand-in for chumpy.ch.Ch: its array is the field `x`."""

    def array(self, depth: int = 0) -> np.ndarray:
        """The numbers; raises UnsafePickleError when the state holds none."""
        return numbers(self.state.get("x"), "chumpy field 'x'", depth)


class ChumpySelect(ChumpyArray):
    """Stand-in for chumpy.reordering.Select: entries `idxs` of the flattened array `a`, in `preferred_shape` if
    it has one.
    """

    def array(self, depth: int = 0) -> np.ndarray:
        source = numbers(self.state.get("a"), "chumpy field 'a'", depth + 1).ravel()
        indices = numbers(self.state.get("idxs"), "chumpy field 'idxs'", depth + 1)
        if indices.dtype.kind not in "iu" or (indices.size and not 0 <= indices.min() <= indices.max() < source.size):
            raise UnsafePickleError("a chumpy selection points outside its array")
        chosen = source[indices.ravel()]
        shape = self.state.get("preferred_shape")
        try:
            return chosen if shape is None else chosen.reshape(tuple(int(n) for n in shape))
        except (TypeError, ValueError):
            raise UnsafePickleError(f"a chumpy selection of {chosen.size} numbers has the shape {shape!r}") from None


class SparseMatrix(Record):
    """Stand-in for scipy.sparse matrices in compressed-column, compressed-row and coordinate form."""

    def array(self) -> np.ndarray:
        """The dense matrix; entries stored twice add up, as in scipy."""
        shape = self.state.get("_shape", self.state.get("shape"))
        if not (isinstance(shape, tuple) and len(shape) == 2 and all(isinstance(n, int) and n >= 0 for n in shape)):
            raise UnsafePickleError(f"a sparse matrix has the shape {shape!r}")
        if math.prod(shape) > _MAX_DENSE:
            raise UnsafePickleError(f"a sparse matrix of {shape[0]} x {shape[1]} is too large for a head model")
        data = self._part("data")
        rows, columns = self._places(shape, len(data))
        if not len(rows) == len(columns) == len(data):
            raise UnsafePickleError("a sparse matrix has unequal numbers of places and values")
        for places, size in ((rows, shape[0]), (columns, shape[1])):
            if len(places) and not 0 <= places.min() <= places.max() < size:
                raise UnsafePickleError("a sparse matrix has entries outside its shape")
        dense = np.zeros(shape, data.dtype)
        np.add.at(dense, (rows, columns), data)
        return dense

    def _part(self, name: str) -> np.ndarray:
        return numbers(self.state.get(name), f"sparse field '{name}'").ravel()

    def _places(self, shape: tuple[int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of every stored value."""
        if "row" in self.state:
            return self._part("row"), self._part("col")
        if "coords" in self.state:
            rows, columns = (numbers(part, "sparse field 'coords'").ravel() for part in self.state["coords"])
            return rows, columns
        minor, starts = self._part("indices"), self._part("indptr").astype(np.int64)
        by_row = self.by_row
        if len(starts) != shape[0 if by_row else 1] + 1 or (np.diff(starts) < 0).any() or starts[-1] != count:
            raise UnsafePickleError("a sparse matrix has inconsistent index pointers")
        major = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        return (major, minor) if by_row else (minor, major)

    by_row = False


class SparseRows(SparseMatrix):
    by_row = True


class Dtype(metaclass=Sealed):
    """Stand-in for numpy.dtype: a plain number or string type, never a structure."""

    def __init__(self, spec: Any, *_: Any) -> None:
        if isinstance(spec, str) and _OBJECTS.fullmatch(spec):
            self.real = np.dtype("O")
        elif isinstance(spec, str) and _NUMBER_OR_TEXT.fullmatch(spec):
            self.real = np.dtype(spec)
        else:
            raise UnsafePickleError(f"stores an array of type {spec!r}")

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) >= 5 and state[2:5] == (None, None, None)):
            raise UnsafePickleError("stores an array of a structured type")
        if state[1] in ("<", ">"):
            self.real = self.real.newbyteorder(state[1])


class CheckedArray(np.ndarray):
    """An array that checks the state a pickle gives it before numpy sees it."""

    objects_allowed = False

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], Dtype)):
            raise UnsafePickleError("stores an array in an unknown form")
        version, shape, dtype, fortran, raw = state
        check_shape(shape)
        if dtype.real.kind == "O":
            if not self.objects_allowed or shape != () or not (isinstance(raw, list) and len(raw) == 1):
                raise UnsafePickleError("stores a numpy array of Python objects")
        else:
            raw = raw.encode("latin1") if isinstance(raw, str) else raw
            if not isinstance(raw, bytes) or len(raw) != math.prod(shape) * dtype.real.itemsize:
                raise UnsafePickleError(f"stores an array of shape {shape} with the wrong number of bytes")
        super().__setstate__((version, shape, dtype.real, bool(fortran), raw))


class ObjectArray(CheckedArray):
    objects_allowed = True


def check_shape(shape: Any) -> None:
    if not (isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)):
        raise UnsafePickleError(f"stores an array of shape {shape!r}")


def numbers(value: Any, what: str, depth: int = 0) -> np.ndarray:
    """The array of numbers that one stored field holds, stand-ins resolved. Raises UnsafePickleError naming the
    field `what`.
    """
    if depth > _MAX_NESTING:
        raise UnsafePickleError(f"{what} is nested too deeply")
    if isinstance(value, ChumpyArray):
        value = value.array(depth)
    elif isinstance(value, SparseMatrix):
        value = value.array()
    elif isinstance(value, (list, tuple, int, float)):
        try:
            value = np.asarray(value)
        except ValueError:
            raise UnsafePickleError(f"{what} is not an array") from None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise UnsafePickleError(f"{what} holds no numbers")
    return np.asarray(value)
