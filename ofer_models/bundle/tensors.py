"""Names and shapes of a graph's tensors: what a manifest promises, what a file has, and what a caller brings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Dims = Sequence[int | str]
ANY = "*"  # a dimension that the manifest leaves to the file


class StageError(ValueError):
    """A graph is not what its manifest says, or was called with something else; the message names the tensor."""


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX file of a bundle and the float32 tensors (name -> shape, strings are free) that its manifest promises.

    None promises nothing.
    """

    path: Path
    inputs: Mapping[str, Dims] | None = None
    outputs: Mapping[str, Dims] | None = None

    def compare(self, file: str, inputs: Mapping[str, Dims], outputs: Mapping[str, Dims]) -> None:
        """Refuse tensors found in `file` that differ from the promise in name, rank or a fixed dimension (StageError).

        A dimension that is promised free must be free, unless it is ANY; two that both sides name must not have changed
        places.
        """
        for kind, promised, found in (("input", self.inputs, inputs), ("output", self.outputs, outputs)):
            if promised is None:
                continue
            refuse_other_names(file, kind, promised, found)
            for name, dims in promised.items():
                fits = len(dims) == len(found[name]) and all(
                    a == ANY or (isinstance(a, str) == isinstance(b, str) and (isinstance(a, str) or a == b))
                    for a, b in zip(dims, found[name], strict=True)
                ) and not _swapped(dims, found[name])
                if not fits:
                    raise StageError(f"{file}: {kind} {name!r} is {text(found[name])}, the manifest says {text(dims)}")


def _swapped(promised: Dims, found: Dims) -> bool:
    free = [[dim for dim in dims if isinstance(dim, str) and dim != ANY] for dims in (promised, found)]
    return free[0] != free[1] and sorted(free[0]) == sorted(free[1])


def check_call(file: str, wanted: Mapping[str, Dims], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Sizes of the free dimensions in a call; StageError names a missing, unknown, wrongly typed or shaped input."""
    if arrays.keys() != wanted.keys():
        refuse_other_names(file, "input", wanted, arrays)
    symbols: dict[str, int] = {}
    for name, dims in wanted.items():
        array = arrays[name]
        if array.dtype != np.float32:
            raise StageError(f"{file}: input {name!r} is {array.dtype}, should be float32")
        if len(dims) != array.ndim or not all(
            symbols.setdefault(dim, size) == size if isinstance(dim, str) else dim == size
            for dim, size in zip(dims, array.shape, strict=True)
        ):
            known = ", ".join(f"{dim} = {size}" for dim, size in symbols.items())
            raise StageError(f"{file}: input {name!r} is {array.shape}, should be {text(dims)} ({known})")
    return symbols


def refuse_other_names(file: str, kind: str, wanted: Iterable[str], given: Iterable[str]) -> None:
    """StageError that tells missing and unknown names apart, if there are any."""
    missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    parts = [f"{what} {', '.join(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
    if parts:
        raise StageError(f"{file}: {kind}s do not match: {'; '.join(parts)}")


def text(dims: Dims) -> str:
    """A shape as messages show it: (F, N, 53)."""
    return f"({', '.join(map(str, dims))})"
