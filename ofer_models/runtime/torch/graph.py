"""An ONNX graph as torch operators, node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from torch import Tensor

from ofer_models.bundle.tensors import StageError
from ofer_models.runtime.torch.operators import OPERATORS


class TorchGraph:
    """Operators in the file's order, and what the file stores for them.

    constants: the stored tensors by the name under which operators read them: weights that the file holds halved are
    widened here, once. stored: of those, the name under which the file has them.
    """

    def __init__(self, model: onnx.ModelProto, constant: Callable[[np.ndarray], Tensor], file: str) -> None:
        """constant: makes a tensor of a stored array. Raises StageError naming `file` for an unknown operator."""
        unknown = sorted({node.op_type for node in model.graph.node} - OPERATORS.keys() - {"Constant"})
        if unknown:
            raise StageError(f"{file}: the torch backend does not know the operator {', '.join(unknown)}")
        self.outputs = [value.name for value in model.graph.output]
        stored = {s.name: numpy_helper.to_array(s) for s in model.graph.initializer}
        self.constants = {name: constant(array) for name, array in stored.items()}
        self.stored = {name: name for name in self.constants}
        self.nodes: list[tuple[str, dict[str, Any], list[str], list[str]]] = []
        for node in model.graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Resize":  # by how much is known here; a GPU would have to be waited for to tell
                attributes["scales"] = [float(scale) for scale in stored.get("".join(node.input[2:3]), ())]
                self.nodes.append((node.op_type, attributes, list(node.input[:1]), list(node.output)))
            elif node.op_type == "Constant":
                self.constants[node.output[0]] = constant(numpy_helper.to_array(attributes["value"]))
            elif node.op_type == "Cast" and node.input[0] in self.constants:
                self.constants[node.output[0]] = OPERATORS["Cast"](attributes, self.constants[node.input[0]])
                self.stored[node.output[0]] = self.stored.pop(node.input[0], node.input[0])
            else:
                self.nodes.append((node.op_type, attributes, list(node.input), list(node.output)))

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs for input tensors; a tensor of a constant's name takes its place."""
        values: dict[str, Any] = self.constants | tensors
        for kind, attributes, inputs, outputs in self.nodes:
            result = OPERATORS[kind](attributes, *(values[name] if name else None for name in inputs))
            values.update(zip(outputs, result if isinstance(result, tuple) else (result,), strict=True))
        return {name: values[name] for name in self.outputs}
