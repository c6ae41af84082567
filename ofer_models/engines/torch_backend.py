"""Stages in torch: the reference that other runtimes are compared with, and a way onto GPUs that they do not know.

Reads the bundle's own ONNX files and evaluates them node by node, so it shares the weights with the other runtimes and
none of their arithmetic. Needs torch and onnx, which the run time otherwise does without. Operators: those that the
project's graphs use; any other is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ofer_models.engines.sampler import Sampler
from ofer_models.engines.tensors import Dims, GraphSpec, StageError, check_call

try:
    import onnx
    import torch
    import torch.nn.functional as F
    from onnx import numpy_helper
except ImportError as error:
    what = f"the torch backend needs {error.name}"
    raise StageError(f"{what}: run `make train-env`, or use backend onnxruntime") from None

Attributes = dict[str, Any]
_FLOATS = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16}
_TYPES = _FLOATS | {onnx.TensorProto.INT64: torch.int64, onnx.TensorProto.BOOL: torch.bool}


def _ints(tensor: torch.Tensor | None) -> list[int] | None:
    return None if tensor is None else [int(v) for v in tensor.flatten().tolist()]


def _axes(a: Attributes, given: torch.Tensor | None) -> list[int] | None:
    """Axes as an input (newer operator sets) or as an attribute."""
    return _ints(given) if given is not None else a.get("axes")


def _reshape(a: Attributes, x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    wanted = _ints(shape) or []
    return x.reshape([x.shape[i] if size == 0 and not a.get("allowzero") else size for i, size in enumerate(wanted)])


def _unsqueeze(a: Attributes, x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
    for axis in sorted(_axes(a, axes) or []):
        x = x.unsqueeze(axis)
    return x


def _squeeze(a: Attributes, x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
    chosen = _axes(a, axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def _split(a: Attributes, x: torch.Tensor, sizes: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    axis = a.get("axis", 0)
    return x.split(_ints(sizes), axis) if sizes is not None else x.chunk(a["num_outputs"], axis)


def _layer_norm(a: Attributes, x: torch.Tensor, gain: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
    return F.layer_norm(x, x.shape[a.get("axis", -1) :], gain, offset, a.get("epsilon", 1e-5))


def _gemm(a: Attributes, x: torch.Tensor, y: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
    product = (x.T if a.get("transA") else x) @ (y.T if a.get("transB") else y) * a.get("alpha", 1.0)
    return product if offset is None else product + a.get("beta", 1.0) * offset


def _conv(a: Attributes, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    pads, rank = a.get("pads", [0] * 2 * (weight.ndim - 2)), weight.ndim - 2
    if pads[:rank] != pads[rank:] or rank != 2 or a.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise StageError("a convolution is not two-dimensional with equal padding")
    return F.conv2d(
        x, weight, bias, a.get("strides", [1, 1]), pads[:rank], a.get("dilations", [1, 1]), a.get("group", 1)
    )


def _reduce(kind: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def run(a: Attributes, x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
        chosen = _axes(a, axes)
        return kind(x, tuple(range(x.ndim)) if chosen is None else tuple(chosen), bool(a.get("keepdims", 1)))

    return run


def _slice(
    a: Attributes, x: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor,
    axes: torch.Tensor | None = None, steps: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    first, last = _ints(starts) or [], _ints(ends) or []
    strides = _ints(steps) or [1] * len(first)
    for axis, start, end, step in zip(_ints(axes) or range(len(first)), first, last, strides, strict=True):
        inside = slice(start, end, step).indices(x.shape[axis])  # "to the end" comes as the largest integer
        x = x[(slice(None),) * (axis % x.ndim) + (slice(*inside),)]
    return x


def _gather(a: Attributes, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    axis = a.get("axis", 0) % x.ndim
    index = torch.where(index < 0, index + x.shape[axis], index)
    taken = x.index_select(axis, index.flatten())
    return taken.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _batch_norm(a: Attributes, x: torch.Tensor, *p: torch.Tensor) -> torch.Tensor:
    gain, offset, mean, variance = p
    return F.batch_norm(x, mean, variance, gain, offset, False, 0.0, a.get("epsilon", 1e-5))


def _instance_norm(a: Attributes, x: torch.Tensor, gain: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    return F.instance_norm(x, weight=gain, bias=offset, eps=a.get("epsilon", 1e-5))


def _prelu(a: Attributes, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, x * slope, x)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": lambda a, x, y: x + y,
    "Sub": lambda a, x, y: x - y,
    "Mul": lambda a, x, y: x * y,
    "Div": lambda a, x, y: x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc"),
    "Pow": lambda a, x, y: x**y,
    "Max": lambda a, x, y: torch.maximum(x, y),
    "MatMul": lambda a, x, y: x @ y,
    "Gemm": _gemm,
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "PRelu": _prelu,
    "Selu": lambda a, x: F.selu(x),
    "Sigmoid": lambda a, x: x.sigmoid(),
    "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
    "Erf": lambda a, x: x.erf(),
    "Sqrt": lambda a, x: x.sqrt(),
    "Sin": lambda a, x: x.sin(),
    "Cos": lambda a, x: x.cos(),
    "Clip": lambda a, x, low=None, high=None: x.clamp(low, high),
    "Cast": lambda a, x: x.to(_TYPES[a["to"]]),
    "Concat": lambda a, *xs: torch.cat(xs, a["axis"]),
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Reshape": _reshape,
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)) if a.get("axis", 1) == 1 else x.flatten(),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Expand": lambda a, x, shape: x.broadcast_to(torch.broadcast_shapes(x.shape, _ints(shape))),
    "Shape": lambda a, x: torch.tensor(x.shape[a.get("start", 0) : a.get("end")]),
    "ReduceL2": _reduce(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keep)),
    "Identity": lambda a, x: x,
}


class TorchStage:
    """One ONNX graph evaluated in torch; inputs and outputs: name -> shape as in the file, strings are free."""

    def __init__(self, graph: GraphSpec, device: str = "cpu") -> None:
        """Raises StageError for a file that is no graph, an operator that is not known, or tensors that differ from
        the spec.
        """
        self.path, self._device = graph.path, torch.device(device)
        try:
            model = onnx.load(graph.path).graph
        except Exception as error:  # the parser raises many types
            raise StageError(f"{graph.path.name}: cannot be read as ONNX ({str(error).splitlines()[0]})") from None
        self.inputs, self.outputs = (
            {value.name: self._dims(value) for value in values} for values in (model.input, model.output)
        )
        graph.compare(self.path.name, self.inputs, self.outputs)
        unknown = sorted({node.op_type for node in model.node} - OPERATORS.keys() - {"Constant"})
        if unknown:
            raise StageError(f"{self.path.name}: the torch backend does not know the operator {', '.join(unknown)}")
        self._constants = {stored.name: self._constant(numpy_helper.to_array(stored)) for stored in model.initializer}
        self._nodes = []
        for node in model.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self._constants[node.output[0]] = self._constant(numpy_helper.to_array(attributes["value"]))
            else:
                self._nodes.append((OPERATORS[node.op_type], attributes, list(node.input), list(node.output)))

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Run on float32 arrays by input name. Raises StageError naming an input that does not fit."""
        check_call(self.path.name, self.inputs, arrays)
        given = {name: torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for name, array in arrays.items()}
        return {name: value.cpu().numpy() for name, value in self.run(given).items()}

    @torch.inference_mode()
    def run(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The outputs for input tensors on this stage's device, left there."""
        values: dict[str, Any] = self._constants | tensors
        for operator, attributes, inputs, outputs in self._nodes:
            result = operator(attributes, *(values[name] if name else None for name in inputs))
            values.update(zip(outputs, result if isinstance(result, tuple) else (result,), strict=True))
        return {name: values[name] for name in self.outputs}

    def _constant(self, array: np.ndarray) -> torch.Tensor:
        """Numbers on the device; shapes and axes stay on the host, where they are read."""
        tensor = torch.from_numpy(array.copy())
        return tensor.to(self._device) if tensor.is_floating_point() else tensor

    def _dims(self, value: onnx.ValueInfoProto) -> Dims:
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise StageError(f"{self.path.name}: {value.name!r} should be tensor(float)")
        return tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)


class TorchBackend:
    """Graphs in torch, on the GPU where torch finds one."""

    name = "torch"

    def __init__(self, threads: int = 1, device: str | None = None) -> None:
        """threads: of torch's whole process. device: cuda where present by default, else cpu."""
        torch.set_num_threads(threads)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")

    def load(self, graph: GraphSpec) -> TorchStage:
        """The graph, ready to call. Raises StageError."""
        return TorchStage(graph, self.device)

    def sampler(self, cond: GraphSpec, step: GraphSpec) -> Sampler:
        """The loop over both graphs."""
        return Sampler(self.load(cond), self.load(step))
