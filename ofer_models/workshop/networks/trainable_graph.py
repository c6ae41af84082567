"""A graph of a bundle that learns on from the weights in its file, and goes back into a file of the same form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from ofer_models.runtime.torch.graph import TorchGraph
from ofer_models.workshop.networks.onnx_graph import check_file

# What is learned enters these; other stored numbers (frequencies, halves, limits) are part of formulas.
_LEARNED_BY = {"MatMul", "Add", "LayerNormalization"}


class TrainableGraph(nn.Module):
    """An ONNX graph evaluated in torch, operator by operator, with the numbers in its file as parameters.

    Those that the file holds halved are float32 here, and are rounded again when it is saved.
    """

    def __init__(self, path: Path) -> None:
        """Raises StageError for an operator that is not known."""
        super().__init__()
        self._model = onnx.load(path)
        self._graph = TorchGraph(self._model, lambda array: torch.from_numpy(array.copy()), path.name)
        learned = {name for kind, _, inputs, _ in self._graph.nodes if kind in _LEARNED_BY for name in inputs}
        constants = self._graph.constants
        self._names = [name for name in self._graph.stored if constants[name].is_floating_point()]
        values = [(constants.pop(name), name in learned) for name in self._names]
        self.numbers = nn.ParameterList(nn.Parameter(value, known and value.ndim > 0) for value, known in values)

    def forward(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Outputs by name for inputs by name."""
        return self._graph({**dict(zip(self._names, self.numbers, strict=True)), **tensors})

    def save(self, path: Path) -> None:
        """Write the graph with its numbers of now."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        stored = {one.name: one for one in model.graph.initializer}
        for name, number in zip(self._names, self.numbers, strict=True):
            one = stored[self._graph.stored[name]]
            kind = onnx.helper.tensor_dtype_to_np_dtype(one.data_type)
            array = number.detach().cpu().numpy()
            one.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array, kind).reshape(array.shape), one.name))
        path.write_bytes(model.SerializeToString(deterministic=True))
        check_file(path)
