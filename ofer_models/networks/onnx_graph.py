"""A few lines around onnx.helper that make writing a graph by hand read like the formula.

By hand, because the fused forms in `export.py` are not what a tracing exporter would write, and because the same
weights must give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 9

Dims = Sequence[int | str]


class Graph:
    """An ONNX graph under construction; values are the names of tensors.

    half_weights: keep matrices as float16 in the file, each followed by a cast. Arithmetic stays float32, and runtimes
    fold the cast when they load the file, so only its size changes (and weights are rounded to 11 bits).
    """

    def __init__(self, name: str, half_weights: bool = False) -> None:
        self._name, self._half_weights = name, half_weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dims: Dims) -> str:
        """Declare a float32 input; strings in dims are symbolic."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)))
        return name

    def output(self, name: str, dims: Dims) -> None:
        """Declare the float32 value `name` an output."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)))

    def op(self, kind: str, *inputs: str, name: str | None = None, outputs: int = 1, **attributes: Any) -> Any:
        """Append a node. Returns the name of its output, or a list of names if it has several."""
        stem = name or f"{kind}_{len(self._nodes)}"
        names = [stem] if outputs == 1 else [f"{stem}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, names, name=stem, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, values: Any) -> str:
        """A stored tensor: integers as int64, everything else as float32."""
        array = np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        return self._store(array)

    def matrix(self, values: Any) -> str:
        """A stored float32 weight matrix, in float16 if the graph keeps half weights."""
        array = np.ascontiguousarray(values, np.float32)
        if not self._half_weights:
            return self._store(array)
        largest = float(np.abs(array).max(initial=0))
        if largest > np.finfo(np.float16).max:
            raise ValueError(f"a weight of {largest:g} does not fit float16: export with half_weights=False")
        return self.op("Cast", self._store(array.astype(np.float16)), to=TensorProto.FLOAT)

    def linear(self, x: str, weight: Any, bias: Any = None, name: str | None = None) -> str:
        """x W^T + b for a weight (out, in) and a bias (out,)."""
        product = self.op("MatMul", x, self.matrix(np.asarray(weight).T), name=None if bias is not None else name)
        return product if bias is None else self.op("Add", product, self.constant(bias), name=name)

    def silu(self, x: str) -> str:
        """x sigmoid(x)."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def model(self) -> onnx.ModelProto:
        """The finished, checked model."""
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._initializers)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="ofer_models"
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def save(self, path: str | Path) -> None:
        """Write the finished model to a file; the same weights give the same bytes."""
        Path(path).write_bytes(self.model().SerializeToString(deterministic=True))

    def _store(self, array: np.ndarray) -> str:
        name = f"w_{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(array, name))
        return name
