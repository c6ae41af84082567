"""ONNX graphs in mixed precision for strongly typed TensorRT, where a tensor's type is what the graph says.

Matrix products and convolutions, which are nearly all of the arithmetic, run in half precision with their biases, which
a kernel adds before it writes; so do operators that only move or clip their results. Everything else stays in float32:
normalizations, softmax, sums of residual branches, the time embedding and the sampler's accumulation. (All of a
denoiser in half precision loses 1.3e-3 a step, and the 1e-12 under its norm becomes 0, so that a zero vector gives NaN;
like this it loses 3e-4.)

Needs onnx, as all of building does.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ofer_models.runtime.stored_weights import unpacked

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
FOLLOWERS = frozenset({"PRelu", "Relu", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Split", "Slice"})
_KEPT_BY_DEFAULT = ("timesteps",)


def half_products(model: onnx.ModelProto, keep: tuple[str, ...] = _KEPT_BY_DEFAULT) -> onnx.ModelProto:
    """The same graph with its products in float16; inputs and outputs stay float32.

    keep: inputs from which on nothing is halved. Raises ValueError for a weight beyond float16.
    """
    return _Halving(unpacked(model), keep).model()


class _Halving:
    """One pass over the nodes in order. A tensor can exist as float32, under its own name, as float16, or as both."""

    def __init__(self, model: onnx.ModelProto, keep: tuple[str, ...]) -> None:
        self._source = model
        graph = model.graph
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._half: dict[str, str] = {}  # tensor -> name of its float16 form
        self._products: set[str] = set()  # halved ones
        self._full = {value.name for value in graph.input}
        self._float = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._float |= {name for name, tensor in self._stored.items() if tensor.data_type == TensorProto.FLOAT}
        kept = set(keep)
        for node in graph.node:
            if kept & set(node.input):
                kept.update(node.output)
            self._add(node, bool(kept & set(node.output)))
        for value in graph.output:
            self._as_full(value.name)

    def model(self) -> onnx.ModelProto:
        source = self._source.graph
        graph = helper.make_graph(
            self._nodes, source.name, source.input, source.output, list(self._initializers.values())
        )
        return helper.make_model(
            graph, opset_imports=self._source.opset_import, ir_version=self._source.ir_version,
            producer_name=self._source.producer_name,
        )  # fmt: skip

    def _add(self, node: onnx.NodeProto, kept: bool) -> None:
        halve = not kept and (
            node.op_type in PRODUCTS
            or self._adds_bias(node)
            or (node.op_type in FOLLOWERS and node.input[0] in self._half and node.input[0] not in self._stored)
        )
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if halve:
            if node.op_type in PRODUCTS:
                self._products.update(node.output)
            inputs = [self._as_half(name) if name in self._float else self._as_full(name) for name in node.input]
            outputs = [f"{name}_half" for name in node.output]
            self._half.update(zip(node.output, outputs, strict=True))
            copy.output[:] = outputs
        else:
            inputs = [self._as_full(name) for name in node.input]
            self._full.update(node.output)
        copy.input[:] = inputs
        self._nodes.append(copy)
        if node.op_type not in ("Shape", "Cast") or (
            node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == TensorProto.FLOAT
        ):
            integers = node.op_type in ("Gather", "Concat", "Slice", "Squeeze", "Unsqueeze", "Reshape")
            if not integers or any(name in self._float for name in node.input):
                self._float.update(node.output)

    def _adds_bias(self, node: onnx.NodeProto) -> bool:
        """Whether a node adds what is stored to a product's result, and nothing else needs that in float32."""
        return node.op_type == "Add" and any(
            name in self._products and other in self._stored for name, other in (node.input, reversed(node.input))
        )

    def _as_full(self, name: str) -> str:
        if not name or name in self._full:
            return name
        if name in self._stored:
            self._initializers[name] = self._stored[name]
        else:
            self._nodes.append(helper.make_node("Cast", [self._half[name]], [name], to=TensorProto.FLOAT))
        self._full.add(name)
        return name

    def _as_half(self, name: str) -> str:
        if not name or name in self._half:
            return self._half.get(name, name)
        half = f"{name}_half"
        if name in self._stored:
            array = numpy_helper.to_array(self._stored[name])
            largest = float(np.abs(array).max(initial=0))
            if largest > np.finfo(np.float16).max:
                raise ValueError(f"weight {name!r} of {largest:g} does not fit float16: build with --precision fp32")
            self._initializers[half] = numpy_helper.from_array(array.astype(np.float16), half)
        else:
            self._nodes.append(helper.make_node("Cast", [name], [half], to=TensorProto.FLOAT16))
        self._half[name] = half
        return half
