"""A few lines around onnx.helper that make writing a graph by hand read like the formula.

By hand, because the fused forms in `export.py` are not what a tracing exporter would write, and because the same
weights must give the same bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ofer_models.runtime.stored_weights import unpacked

OPSET = 18
IR_VERSION = 9
SMALLEST_ROUNDED = 1024  # numbers; smaller tensors are gains and biases, not worth rounding
_STEPS = 127  # of a byte, either way

Dims = Sequence[int | str]


class Graph:
    """An ONNX graph under construction; values are the names of tensors."""

    def __init__(self, name: str) -> None:
        self._name = name
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
        array = np.ascontiguousarray(array, np.int64 if array.dtype.kind in "iu" else np.float32).reshape(array.shape)
        name = f"w_{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(array, name))
        return name

    def linear(self, x: str, weight: Any, bias: Any = None, name: str | None = None) -> str:
        """x W^T + b for a weight (out, in) and a bias (out,)."""
        product = self.op("MatMul", x, self.constant(np.asarray(weight).T), name=None if bias is not None else name)
        return product if bias is None else self.op("Add", product, self.constant(bias), name=name)

    def silu(self, x: str) -> str:
        """x sigmoid(x)."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def model(self) -> onnx.ModelProto:
        """The finished model."""
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._initializers)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="ofer_models")


def save_model(model: onnx.ModelProto, path: str | Path) -> None:
    """Write a model to a file; the same model gives the same bytes."""
    write_model(model, path)
    check_file(path)


def write_model(model: onnx.ModelProto, path: str | Path) -> None:
    """The first half of `save_model`, after which a large model can be forgotten before its file is checked."""
    Path(path).write_bytes(model.SerializeToString(deterministic=True))


def halve_last(model: onnx.ModelProto) -> None:
    """Rewrite each GELU, x (0.5 (1 + erf(x / sqrt 2))) as torch exports it, into (x (1 + erf(x / sqrt 2))) 0.5, which
    ONNX Runtime recognises and runs as one operator. Halving rounds nothing, so the two are equal to the bit.
    """
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)

    def halved(name: str) -> tuple[onnx.NodeProto, str, str] | None:
        """The product that makes 0.5 (1 + erf) of this name, for one reader alone, with its two factors."""
        product = made_by.get(name)
        if product is None or product.op_type != "Mul" or uses[name] != 1:
            return None
        for half, total in (product.input, reversed(product.input)):
            if half in stored and (numpy_helper.to_array(stored[half]) == 0.5).all() and _adds_erf(made_by, total):
                return product, half, total
        return None

    for node in graph.node:
        if node.op_type != "Mul":
            continue
        for x, name in (node.input, reversed(node.input)):
            if found := halved(name):
                product, half, total = found
                product.input[:], node.input[:] = [x, total], [name, half]
                break


def _adds_erf(made_by: Mapping[str, onnx.NodeProto], name: str) -> bool:
    node = made_by.get(name)
    if node is None or node.op_type != "Add":
        return False
    return any(made_by[other].op_type == "Erf" for other in node.input if other in made_by)


def store_bytes(path: str | Path) -> None:
    """Rewrite a file so that it holds the weights of convolutions and linear layers as bytes, each followed by a cast
    and a product with a scale for each output channel.

    Arithmetic stays float32, and runtimes work casts and products out when they load the file, so only its size changes
    (and the weights are rounded to 127 steps either way).
    """
    model = unpacked(onnx.load(path))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    axes = {node.input[1]: axis for node in model.graph.node if (axis := _output_axis(node)) is not None}
    unpacking = []
    for name, axis in axes.items():
        tensor = stored.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < SMALLEST_ROUNDED:
            continue
        array = numpy_helper.to_array(tensor)
        others = tuple(other for other in range(array.ndim) if other != axis % array.ndim)
        scale = np.abs(array).max(axis=others, keepdims=True) / _STEPS
        scale = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
        rounded, cast, factor = f"{name}_bytes", f"{name}_steps", f"{name}_scale"
        tensor.CopyFrom(numpy_helper.from_array(np.round(array / scale).astype(np.int8), rounded))
        model.graph.initializer.append(numpy_helper.from_array(scale, factor))
        unpacking += [
            helper.make_node("Cast", [rounded], [cast], name=cast, to=TensorProto.FLOAT),
            helper.make_node("Mul", [cast, factor], [name], name=name),
        ]
    _put_before(model.graph, unpacking)
    write_model(model, path)
    check_file(path)


def _output_axis(node: onnx.NodeProto) -> int | None:
    """The axis of a node's weight that its output channels are in; None where it has no such weight."""
    if node.op_type == "MatMul":
        return -1
    if node.op_type == "Conv" or (
        node.op_type == "Gemm" and any(a.name == "transB" and a.i == 1 for a in node.attribute)
    ):
        return 0
    return None


def check_file(path: str | Path) -> None:
    """The second half: the file, not the model, which would be copied twice more."""
    onnx.checker.check_model(str(path), full_check=True)


def _put_before(graph: onnx.GraphProto, first: Sequence[onnx.NodeProto]) -> None:
    nodes = [*first, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
