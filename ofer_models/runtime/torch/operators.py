"""ONNX operators in torch: those that the project's graphs use. Shapes and axes are read on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
import torch.nn.functional as F

from ofer_models.bundle.tensors import StageError

Attributes = dict[str, Any]
_TYPES = {
    onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.INT64: torch.int64, onnx.TensorProto.BOOL: torch.bool,
}  # fmt: skip


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


def _max_pool(a: Attributes, x: torch.Tensor) -> torch.Tensor:
    pads, rank = a.get("pads", [0] * 2 * (x.ndim - 2)), x.ndim - 2
    plain = a.get("auto_pad", b"NOTSET") == b"NOTSET" and not a.get("storage_order", 0)
    if pads[:rank] != pads[rank:] or rank != 2 or not plain:
        raise StageError("a maximum over windows is not two-dimensional with equal padding")
    return F.max_pool2d(
        x, a["kernel_shape"], a.get("strides", [1, 1]), pads[:rank], a.get("dilations", [1, 1]),
        bool(a.get("ceil_mode", 0)),
    )  # fmt: skip


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
        x = torch.ops.aten.slice.Tensor(x, axis, start, end, step)  # which clips "to the end", the largest integer
    return x


def _gather(a: Attributes, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    axis = a.get("axis", 0) % x.ndim
    if index.ndim == 0:  # on a GPU the index would be on the wrong side
        return x.select(axis, int(index))
    index = torch.where(index < 0, index + x.shape[axis], index)
    taken = x.index_select(axis, index.flatten())
    return taken.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _resize(a: Attributes, x: torch.Tensor) -> torch.Tensor:
    """Every cell of a map (B, C, H, W) so many times along each side, by the attribute `scales` that `TorchGraph` makes
    of the stored input. Raises StageError for any other enlargement."""
    factors = a["scales"]
    whole = len(factors) == 4 and factors[:2] == [1, 1] and all(factor == int(factor) for factor in factors)
    if not whole or a.get("mode", b"nearest") != b"nearest":
        raise StageError("a map is not enlarged by repeating its cells")
    return F.interpolate(x, scale_factor=factors[2:])


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
    "Min": lambda a, x, y: torch.minimum(x, y),
    "Floor": lambda a, x: x.floor(),
    "Neg": lambda a, x: -x,
    "MatMul": lambda a, x, y: x @ y,
    "Gemm": _gemm,
    "Conv": _conv,
    "MaxPool": _max_pool,
    "GlobalAveragePool": lambda a, x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "PRelu": _prelu,
    "Selu": lambda a, x: F.selu(x),
    "Relu": lambda a, x: x.relu(),
    "Sigmoid": lambda a, x: x.sigmoid(),
    "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
    "Erf": lambda a, x: x.erf(),
    "Sqrt": lambda a, x: x.sqrt(),
    "Exp": lambda a, x: x.exp(),
    "Sin": lambda a, x: x.sin(),
    "Cos": lambda a, x: x.cos(),
    "Clip": lambda a, x, low=None, high=None: x.clamp(low, high),
    "Cast": lambda a, x: x.to(_TYPES[a["to"]]),
    "Concat": lambda a, *xs: torch.cat(xs, a["axis"]),
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": lambda a, x, index: x.gather(a.get("axis", 0), index),
    "Resize": _resize,
    "Reshape": _reshape,
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)) if a.get("axis", 1) == 1 else x.flatten(),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Expand": lambda a, x, shape: x.broadcast_to(torch.broadcast_shapes(x.shape, _ints(shape))),
    "Shape": lambda a, x: torch.tensor(x.shape[a.get("start", 0) : a.get("end")]),
    "ReduceL2": _reduce(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keep)),
    "Identity": lambda a, x: x,
}
