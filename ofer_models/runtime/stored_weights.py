"""Graphs whose files hold rounded weights, or tell how to calculate in 8 bits, as plain float32 graphs.

ONNX Runtime reads such files as they are. Needs onnx, as all of building does.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

_UNPACKING = frozenset({"Cast", "Mul", "DequantizeLinear"})


def unpacked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with what only unpacks stored tensors worked out, and with nothing rounded to 8 bits on the way;
    the model itself where it has neither."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    made: dict[str, np.ndarray] = {}
    rounded: dict[str, str] = {}  # what a tensor is that has gone through 8 bits
    nodes = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            rounded[node.output[0]] = rounded.get(node.input[0], node.input[0])
        elif node.op_type == "DequantizeLinear" and node.input[0] in rounded:
            rounded[node.output[0]] = rounded[node.input[0]]
        elif node.op_type in _UNPACKING and all(name in stored or name in made for name in node.input):
            given = [made[name] if name in made else numpy_helper.to_array(stored[name]) for name in node.input]
            made[node.output[0]] = _worked_out(node, given)
        else:
            nodes.append(node)
    if not made and not rounded:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(nodes)
    for node in copy.graph.node:
        node.input[:] = [rounded.get(name, name) for name in node.input]
    used = {name for node in copy.graph.node for name in node.input} | {value.name for value in model.graph.output}
    copy.graph.initializer.extend(tensor for name, tensor in stored.items() if name in used)
    copy.graph.initializer.extend(numpy_helper.from_array(made[name], name) for name in made if name in used)
    return copy


def _worked_out(node: onnx.NodeProto, given: list[np.ndarray]) -> np.ndarray:
    if node.op_type == "Cast":
        return given[0].astype(helper.tensor_dtype_to_np_dtype(helper.get_node_attr_value(node, "to")))
    if node.op_type == "Mul":
        return given[0] * given[1]
    values, scale, *zero = given
    if scale.ndim:  # one for each channel
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        wide = [-1 if i == axis % values.ndim else 1 for i in range(values.ndim)]
        scale, zero = scale.reshape(wide), [one.reshape(wide) for one in zero]
    shifted = values.astype(np.float32) - zero[0].astype(np.float32) if zero else values.astype(np.float32)
    return shifted * scale
