"""Stages on ONNX Runtime: one ONNX file, called with named arrays, checked by name and shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

Dims = Sequence[int | str]


class StageError(ValueError):
    """A graph is not what its manifest says, or was called with something else; the message names the tensor."""


class OnnxStage:
    """One ONNX graph with float32 inputs and outputs.

    inputs, outputs: tensor name -> shape as in the file; a string is a symbolic dimension.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int = 1,
        *,
        inputs: Mapping[str, Dims] | None = None,
        outputs: Mapping[str, Dims] | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        """Load a file and compare it with the `inputs` and `outputs` that its manifest promises, where given.

        Raises StageError if it cannot be loaded, or differs in a tensor's name, type, rank or fixed dimension.
        """
        self.path = Path(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Idle workers of several sessions would otherwise spin on the cores that the running session needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=list(providers))
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise StageError(f"{self.path.name}: ONNX Runtime cannot load it: {reason}") from error
        self.inputs = self._tensors(self._session.get_inputs())
        self.outputs = self._tensors(self._session.get_outputs())
        self._output_names = list(self.outputs)
        for kind, promised, found in (("input", inputs, self.inputs), ("output", outputs, self.outputs)):
            if promised is not None:
                self._compare(kind, promised, found)

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph on float32 arrays by input name; returns its outputs by name.

        Raises StageError, naming the tensor, for a missing, unknown, wrongly typed or wrongly shaped input.
        """
        if arrays.keys() != self.inputs.keys():
            self._refuse_names("input", self.inputs.keys(), arrays.keys())
        symbols: dict[str, int] = {}
        for name, dims in self.inputs.items():
            array = arrays[name]
            if array.dtype != np.float32:
                raise self._error(f"input {name!r} is {array.dtype}, should be float32")
            if len(dims) != array.ndim or not all(
                symbols.setdefault(dim, size) == size if isinstance(dim, str) else dim == size
                for dim, size in zip(dims, array.shape, strict=True)
            ):
                known = ", ".join(f"{dim} = {size}" for dim, size in symbols.items())
                raise self._error(f"input {name!r} is {array.shape}, should be {_text(dims)} ({known})")
        return dict(zip(self._output_names, self._session.run(self._output_names, arrays), strict=True))

    def _tensors(self, nodes: Sequence[onnxruntime.NodeArg]) -> dict[str, tuple[int | str, ...]]:
        for node in nodes:
            if node.type != "tensor(float)":
                raise self._error(f"{node.name!r} is {node.type}, should be tensor(float)")
        return {node.name: tuple(node.shape) for node in nodes}

    def _compare(self, kind: str, promised: Mapping[str, Dims], found: Mapping[str, Dims]) -> None:
        if promised.keys() != found.keys():
            self._refuse_names(kind, promised.keys(), found.keys())
        for name, dims in promised.items():
            fits = len(dims) == len(found[name]) and all(
                isinstance(a, str) == isinstance(b, str) and (isinstance(a, str) or a == b)
                for a, b in zip(dims, found[name], strict=True)
            )
            if not fits:
                raise self._error(f"{kind} {name!r} is {_text(found[name])}, the manifest says {_text(dims)}")

    def _refuse_names(self, kind: str, wanted: Sequence[str], given: Sequence[str]) -> None:
        missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
        parts = [f"{what} {', '.join(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
        raise self._error(f"{kind}s do not match: {'; '.join(parts)}")

    def _error(self, message: str) -> StageError:
        return StageError(f"{self.path.name}: {message}")


def _text(dims: Dims) -> str:
    return f"({', '.join(map(str, dims))})"
