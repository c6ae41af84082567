"""From what a pickle holds to arrays of numbers: lists, sparse matrices and chumpy's expressions.

All that one field stands for is counted before any of it is written out: a few bytes can stand for more numbers than
there is memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ofer_models.files.refusal import one_line
from ofer_models.workshop.official import pickle_standins as standins
from ofer_models.workshop.official.pickle_machine import UnsafePickleError

_MOST_NESTING = 16  # of things inside things
_MOST_PARTS = 1 << 20  # of all that one field is made of
_MOST_LISTED = 1 << 20  # numbers that lists and sparse matrices may be written out to: 8 MB as float64
_MOST_CHOSEN = 1 << 23  # that expressions may: FLAME's directions are 6 million


def numbers(value: Any, what: str) -> np.ndarray:
    """The array of numbers that one stored field holds, stand-ins resolved. Raises UnsafePickleError naming the
    field `what`.
    """
    return _Field(what).array(value)


class _Field:
    """One field being resolved, with the count of what it has cost."""

    def __init__(self, what: str) -> None:
        self._what, self._parts, self._listed, self._chosen = what, 0, 0, 0

    def array(self, value: Any, depth: int = 0) -> np.ndarray:
        self._enter(depth)
        if isinstance(value, standins.StoredArray):
            value = value.value
        elif isinstance(value, standins.StoredTensor):
            value = value.array()
        elif isinstance(value, standins.SparseMatrix):
            value = self._sparse(value, depth)
        elif isinstance(value, standins.Stored):
            value = self._chumpy(value, depth)
        elif isinstance(value, (list, tuple, int, float)):
            self._count_list(value, depth)
            try:
                value = np.asarray(value)
            except (ValueError, OverflowError, TypeError):
                raise UnsafePickleError(f"{self._what} is not an array") from None
        if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind not in "biuf":
            raise UnsafePickleError(f"{self._what} holds no numbers")
        return np.asarray(value)

    def _enter(self, depth: int) -> None:
        self._parts += 1
        if depth > _MOST_NESTING:
            raise UnsafePickleError(f"{self._what} is nested too deeply")
        if self._parts > _MOST_PARTS:
            raise UnsafePickleError(f"{self._what} is made of too many parts for a head model")

    def _count(self, listed: int = 0, chosen: int = 0) -> None:
        self._listed, self._chosen = self._listed + listed, self._chosen + chosen
        if self._listed > _MOST_LISTED or self._chosen > _MOST_CHOSEN:
            raise UnsafePickleError(f"{self._what} is too large for a head model")

    def _count_list(self, value: Any, depth: int) -> None:
        """Walk nested lists; nothing but plain numbers and small arrays in them is written out."""
        self._enter(depth)
        if isinstance(value, (list, tuple)):
            for part in value:
                self._count_list(part, depth + 1)
        elif isinstance(value, (np.ndarray, np.generic)):
            self._count(value.size)
        elif isinstance(value, (int, float)):
            self._count(1)
        elif isinstance(value, standins.StoredArray) and isinstance(value.value, np.ndarray):
            self._count(value.value.size)
        else:
            raise UnsafePickleError(f"{self._what} is not an array")

    def _sparse(self, matrix: standins.SparseMatrix, depth: int) -> np.ndarray:
        """The dense matrix; entries stored twice add up, as in scipy."""
        state = matrix.state
        shape = standins.shape_of(state.get("_shape", state.get("shape")))
        if len(shape) != 2:
            raise UnsafePickleError(f"{self._what}: a sparse matrix has the shape {shape}")
        self._count(math.prod(shape))

        def part(name: str, value: Any = None) -> np.ndarray:
            found = self.array(state.get(name) if value is None else value, depth + 1)
            if found.ndim > 2:
                raise UnsafePickleError(f"{self._what}: a sparse matrix's {name} is no list")
            return found.ravel()

        data = part("data")
        if "row" in state:
            rows, columns = part("row"), part("col")
        elif "coords" in state:
            coords = state["coords"]
            if not isinstance(coords, (list, tuple)) or len(coords) != 2:
                raise UnsafePickleError(f"{self._what}: a sparse matrix's coords are no pair")
            rows, columns = (part("coords", one) for one in coords)
        else:
            by_row = isinstance(matrix, standins.SparseRows)
            minor, starts = part("indices"), part("indptr")
            steps = np.diff(starts.astype(np.int64))
            whole = len(starts) == shape[0 if by_row else 1] + 1 and starts[0] == 0 and starts[-1] == len(data)
            if not whole or (steps < 0).any():
                raise UnsafePickleError(f"{self._what}: a sparse matrix has inconsistent index pointers")
            major = np.repeat(np.arange(len(steps)), steps)
            rows, columns = (major, minor) if by_row else (minor, major)
        if not len(rows) == len(columns) == len(data):
            raise UnsafePickleError(f"{self._what}: a sparse matrix has unequal numbers of places and values")
        for places, size in ((rows, shape[0]), (columns, shape[1])):
            if places.dtype.kind not in "iu" and len(places):
                raise UnsafePickleError(f"{self._what}: a sparse matrix has places that are no whole numbers")
            if len(places) and not 0 <= places.min() <= places.max() < size:
                raise UnsafePickleError(f"{self._what}: a sparse matrix has entries outside its shape")
        dense = np.zeros(shape, data.dtype)
        np.add.at(dense, (rows, columns), data)
        return dense

    def _chumpy(self, expression: standins.Stored, depth: int) -> np.ndarray:
        """What a chumpy expression amounts to: only those that reorder are read."""
        state, kind = expression.state, type(expression)
        if kind is standins.Chumpy:
            return self.array(state.get("x"), depth + 1)
        try:
            if kind is standins.ChumpyConcatenate:
                return self._joined(state, depth)
            source = self.array(state.get("a"), depth + 1)
            if kind is standins.ChumpyTranspose:
                return self._turned(source, state)
            if kind is standins.ChumpyReshape:
                return source.reshape(self._integers(state.get("newshape"), depth))
            indices = self.array(state.get("idxs"), depth + 1).ravel()
            inside = not len(indices) or 0 <= indices.min() <= indices.max() < source.size
            if indices.dtype.kind not in "iu" or not inside:
                raise UnsafePickleError(f"{self._what}: a chumpy selection is outside its array")
            self._count(chosen=indices.size)
            chosen, shape = source.ravel()[indices], state.get("preferred_shape")
            return chosen if shape is None else chosen.reshape(self._integers(shape, depth))
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            if isinstance(error, UnsafePickleError):
                raise
            reason = f"a chumpy expression does not fit its array ({one_line(error)})"
            raise UnsafePickleError(f"{self._what}: {reason}") from None

    def _joined(self, state: dict[str, Any], depth: int) -> np.ndarray:
        names = state.get("dterms")
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise UnsafePickleError(f"{self._what}: a chumpy concatenation names no parts")
        parts = [self.array(state.get(name), depth + 1) for name in names]
        self._count(chosen=sum(part.size for part in parts))
        return np.concatenate(parts, axis=int(state.get("axis", 0)))

    def _turned(self, source: np.ndarray, state: dict[str, Any]) -> np.ndarray:
        if "axis1" in state:
            return np.swapaxes(source, int(state["axis1"]), int(state["axis2"]))
        if "axis" in state:
            return np.rollaxis(source, int(state["axis"]), int(state.get("start", 0)))
        axes = state.get("axes")
        return np.transpose(source, None if axes is None else self._integers(axes, 0))

    def _integers(self, value: Any, depth: int) -> tuple[int, ...]:
        return tuple(int(n) for n in self.array(value, depth + 1).ravel()[:16])
