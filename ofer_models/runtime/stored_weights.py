"""Weights that a file holds rounded, as float16 or as bytes with a scale for each channel, made float32 again.

ONNX Runtime does this itself when it loads a file. Needs onnx, as all of building does.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

_UNPACKING = frozenset({"Cast", "Mul"})


def unpacked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with the casts and products of stored tensors worked out; the model itself where it has none."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    made: dict[str, np.ndarray] = {}
    nodes = []
    for node in model.graph.node:
        if node.op_type not in _UNPACKING or not all(name in stored or name in made for name in node.input):
            nodes.append(node)
            continue
        given = [made[name] if name in made else numpy_helper.to_array(stored[name]) for name in node.input]
        if node.op_type == "Cast":
            made[node.output[0]] = given[0].astype(
                helper.tensor_dtype_to_np_dtype(helper.get_node_attr_value(node, "to"))
            )
        else:
            made[node.output[0]] = given[0] * given[1]
    if not made:
        return model
    used = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(tensor for name, tensor in stored.items() if name in used)
    copy.graph.initializer.extend(numpy_helper.from_array(made[name], name) for name in made if name in used)
    return copy
