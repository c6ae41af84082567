"""ONNX graphs as TensorRT's parser likes them: the same function in fewer layers.

The parser makes a layer of every conversion, of every stored tensor, and of every difference in rank between the two
sides of an operator. All of that is known beforehand.

Needs onnx, as all of building does.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from ofer_models.runtime.stored_weights import unpacked

_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "Max", "MatMul", "LayerNormalization"})


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose stored tensors are converted, alike ones stored once, and of the rank of what they are used with."""
    copy = onnx.ModelProto()
    copy.CopyFrom(unpacked(model))
    graph = copy.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = list(graph.node)
    rank = _ranks(model)
    kept: dict[tuple, str] = {}
    tensors: dict[str, np.ndarray] = {}
    for node in nodes:
        most = max((rank.get(name, 0) for name in node.input if name not in stored), default=0)
        for place, name in enumerate(node.input):
            if name not in stored:
                continue
            array = stored[name]
            if node.op_type in _BROADCASTING and array.ndim < most:
                array = array.reshape((1,) * (most - array.ndim) + array.shape)
            key = array.dtype.str, array.shape, array.tobytes()
            node.input[place] = kept.setdefault(key, f"{name}_{len(kept)}")
            tensors[node.input[place]] = array
    for value in graph.output:  # one that is stored and nothing else
        if value.name in stored:
            tensors[value.name] = stored[value.name]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    return copy


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values}
