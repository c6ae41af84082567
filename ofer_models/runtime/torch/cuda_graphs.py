"""Torch on an NVIDIA GPU: functions of tensors compiled for one signature and captured as CUDA graphs.

A denoiser's step is some 300 small operations, whose launches take longer than their arithmetic. So a function is
flattened for the shapes it is called with, fused by torch's compiler where that works, and captured: one launch a call.
Where one of these fails, the function runs as it is, and a warning says so once.

Only `CudaGraphs` touches a device; tests put a stand-in in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]
_log = logging.getLogger(__name__)
_told: set[tuple[str, str]] = set()


class Graphs(Protocol):
    """Captured graphs on one stream of one device."""

    device: torch.device

    def pinned(self, shape: Sequence[int]) -> Tensor:
        """Float32 in page-locked host memory."""

    def queue(self) -> AbstractContextManager:
        """Inside, work is queued on the stream."""

    def capture(self, work: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        """A launch that repeats what `work` queues, and the tensors into which it writes its results every time."""

    def synchronize(self) -> None:
        """Wait until everything queued is done."""


class CudaGraphs:
    """The real thing, on torch's current GPU."""

    def __init__(self) -> None:
        self.device = torch.device("cuda")
        self._stream = torch.cuda.Stream()

    def pinned(self, shape: Sequence[int]) -> Tensor:
        return torch.empty(tuple(shape), pin_memory=True)

    def queue(self) -> AbstractContextManager:
        return torch.cuda.stream(self._stream)

    def capture(self, work: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        torch.cuda.synchronize()  # weights and inputs come from another stream
        with self.queue():
            for _ in range(3):  # libraries choose and allocate at first, which a capture forbids
                work()
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            results = work()
        return graph.replay, results

    def synchronize(self) -> None:
        self._stream.synchronize()


class CapturedCall:
    """A function at one signature: pinned host memory, copies to the device, its graph, copies back."""

    def __init__(self, function: Function, shapes: Sequence[Sequence[int]], graphs: Graphs) -> None:
        """Raises what the device says where the function cannot be captured."""
        self._graphs = graphs
        self._sources = [graphs.pinned(shape) for shape in shapes]
        for source in self._sources:
            source.zero_()
        self._inputs = [source.to(graphs.device, copy=True) for source in self._sources]
        with torch.inference_mode():
            self._launch, self._results = graphs.capture(lambda: function(*self._inputs))
        self._targets = [graphs.pinned(result.shape) for result in self._results]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Results for float32 arrays of the signature; they are the caller's own."""
        for source, array in zip(self._sources, arrays, strict=True):
            source.numpy()[...] = array
        with torch.inference_mode(), self._graphs.queue():
            for target, source in zip(self._inputs, self._sources, strict=True):
                target.copy_(source, non_blocking=True)
            self._launch()
            for target, result in zip(self._targets, self._results, strict=True):
                target.copy_(result, non_blocking=True)
        self._graphs.synchronize()
        return [target.numpy().copy() for target in self._targets]


def compiled(function: Function, examples: Sequence[Tensor], name: str) -> Function:
    """The function for tensors of the examples' shapes, fused by torch's compiler; itself where that fails."""
    try:
        flat = flattened(function, examples)
        fused = torch.compile(flat, dynamic=False)
        with torch.inference_mode():
            fused(*examples)  # compiles now, not inside a capture
        return fused
    except Exception as error:  # no compiler, no triton, an operator it does not know: many types
        _warn(name, "is not fused", error)
        return function


def flattened(function: Function, examples: Sequence[Tensor]) -> Function:
    """The tensor operations that a function does at these shapes, all arithmetic on shapes done once and for all."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.inference_mode():
        module = make_fx(function)(*examples)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def captured(function: Function, shapes: Sequence[Sequence[int]], graphs: Graphs, name: str) -> CapturedCall | None:
    """The function captured, None (and a warning) where that fails."""
    try:
        return CapturedCall(function, shapes, graphs)
    except Exception as error:
        _warn(name, "is not captured", error)
        return None


def _warn(name: str, what: str, error: Exception) -> None:
    if (name, what) in _told:  # it will be the same for every signature
        return
    _told.add((name, what))
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    _log.warning("%s %s on this GPU and runs operator by operator, which is slower (%s)", name, what, reason)
