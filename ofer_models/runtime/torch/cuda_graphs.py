"""Torch on an NVIDIA GPU: functions of tensors compiled for one signature and captured as CUDA graphs.

A denoiser's step is some 300 small operations, whose launches take longer than their arithmetic. So a function is
flattened for the shapes it is called with, fused by torch's compiler where that works, and captured: one launch a call.
Where one of these fails, the function runs as it is, and a warning says so once.

As with TensorRT, frames and identities have a lane each, and nobody speaks to the GPU while a lane captures. Only
`CudaGraphs` and `CudaGpu` touch a device; tests put stand-ins in their place.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ofer_models.runtime.bounded_cache import BoundedCache
from ofer_models.runtime.capture_gate import CaptureGate

MOST_CALLS = 64  # captured calls that a lane keeps; the one that was used longest ago goes first
_PAUSE = 0.001  # s between two looks of who waits without holding others up
Function = Callable[..., tuple[Tensor, ...]]
_log = logging.getLogger(__name__)
_told: set[tuple[str, str]] = set()


class Graphs(Protocol):
    """Captured graphs on one stream of one device. Calls are to be made within the gate that each names."""

    device: torch.device

    def pinned(self, shape: Sequence[int]) -> Tensor:
        """Zeros in float32, in page-locked host memory. using."""

    def queue(self) -> AbstractContextManager:
        """Inside, work is queued on the stream. using."""

    def capture(self, work: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        """A launch that repeats what `work` queues, and the tensors into which it writes its results every time.
        capturing."""

    def mark(self) -> None:
        """What is queued until here is what `wait` and `done` are about. using."""

    def wait(self) -> None:
        """Until it is done. using."""

    def done(self) -> bool:
        """Whether it is. using."""


class Gpu(Protocol):
    """A device with streams. memory: bytes held on it."""

    device: torch.device
    memory: int

    def graphs(self, urgent: bool) -> Graphs:
        """A stream of its own. urgent: its work goes before that of others."""

    def release(self) -> None:
        """Give memory back that nobody uses."""


class CudaGraphs:
    """The real thing, on torch's current GPU."""

    def __init__(self, urgent: bool) -> None:
        self.device = torch.device("cuda")
        self._stream = torch.cuda.Stream(priority=-1 if urgent else 0)
        self._done = torch.cuda.Event(blocking=True)  # who waits for it does not spin on a core
        # Memory of all graphs of the stream: they run one after the other, and results are read before the next.
        self._pool = torch.cuda.graph_pool_handle()

    def pinned(self, shape: Sequence[int]) -> Tensor:
        return torch.zeros(tuple(shape), pin_memory=True)

    @contextlib.contextmanager
    def queue(self):
        self._stream.wait_stream(torch.cuda.default_stream())  # on which weights are copied and functions compiled
        with torch.cuda.stream(self._stream):
            yield

    def capture(self, work: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            # Not `torch.cuda.graph`, which waits for the whole device: for identities, where a frame captures.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                results = work()
            except BaseException:
                with contextlib.suppress(Exception):  # the capture is spoiled; what spoiled it says more
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph.replay, results

    def mark(self) -> None:
        self._done.record(self._stream)

    def wait(self) -> None:
        self._done.synchronize()

    def done(self) -> bool:
        return self._done.query()


class CudaGpu:
    """Torch's current GPU."""

    def __init__(self) -> None:
        self.device = torch.device("cuda")

    @property
    def memory(self) -> int:
        return torch.cuda.memory_reserved()

    def graphs(self, urgent: bool) -> CudaGraphs:
        return CudaGraphs(urgent)

    def release(self) -> None:
        torch.cuda.empty_cache()


class TorchLane:
    """A stream with its captured calls. Safe to use from several threads."""

    def __init__(self, gpu: Gpu, gate: CaptureGate, urgent: bool) -> None:
        self.device, self.gate, self._urgent = gpu.device, gate, urgent
        with gate.using():
            self.graphs = gpu.graphs(urgent)
        self._lock = threading.Lock()
        self._calls: BoundedCache[_CapturedCall | None] = BoundedCache(MOST_CALLS, lambda call: call and call.close())

    def run(
        self, key: Hashable, name: str, function: Callable[[], Function], shapes: Sequence[Sequence[int]],
        arrays: Sequence[np.ndarray],
    ) -> list[np.ndarray] | None:  # fmt: skip
        """Results of a function for float32 arrays, which may have fewer rows than `shapes`; they are the caller's own.

        key: of the function, which is made and captured at the first call. None, and a warning, where it cannot be.
        """

        def make() -> _CapturedCall | None:
            try:
                return _CapturedCall(self, function(), shapes)
            except Exception as error:
                _warn(name, "is not captured", error)
                return None

        with self._lock:
            call = self._calls.get(key, make)
            return call(*arrays) if call else None

    def alone(self, work: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
        """Do work that was not captured, operator by operator, on the lane's stream."""
        with self._lock, self.gate.using(), self.graphs.queue():
            return work()

    def finish(self) -> None:
        """Wait until all that is marked is done. One that is not urgent may take long, in which no capture could begin
        if it held the gate: it only looks in now and then."""
        if self._urgent:
            with self.gate.using():
                self.graphs.wait()
            return
        while True:
            with self.gate.using():
                if self.graphs.done():
                    return
            time.sleep(_PAUSE)

    def close(self) -> None:
        """Give all graphs and their memory back."""
        with self._lock:
            self._calls.clear()


class _CapturedCall:
    """A function at one signature: pinned host memory, copies to the device, its graph, copies back."""

    def __init__(self, lane: TorchLane, function: Function, shapes: Sequence[Sequence[int]]) -> None:
        """Raises what the device says where the function cannot be captured."""
        self._lane, graphs = lane, lane.graphs
        with torch.inference_mode():
            with lane.gate.using(), graphs.queue():
                self._sources = [graphs.pinned(shape) for shape in shapes]
                self._inputs = [source.to(lane.device, copy=True) for source in self._sources]
                for _ in range(3):  # libraries choose and allocate at first, which a capture forbids
                    function(*self._inputs)
                graphs.mark()
            lane.finish()
            with lane.gate.capturing():
                self._launch, self._results = graphs.capture(lambda: function(*self._inputs))
            with lane.gate.using():
                self._targets = [graphs.pinned(result.shape) for result in self._results]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        for source, array in zip(self._sources, arrays, strict=True):
            source.numpy()[: len(array)] = array
        graphs = self._lane.graphs
        with torch.inference_mode(), self._lane.gate.using():
            with graphs.queue():
                for target, source in zip(self._inputs, self._sources, strict=True):
                    target.copy_(source, non_blocking=True)
                self._launch()
                for target, result in zip(self._targets, self._results, strict=True):
                    target.copy_(result, non_blocking=True)
            graphs.mark()
        self._lane.finish()
        return [target.numpy().copy() for target in self._targets]

    def close(self) -> None:
        """The graph first, then the tensors that it uses; freeing speaks to the GPU."""
        with self._lane.gate.using():
            self._launch = None
            self._inputs, self._results, self._sources, self._targets = [], (), [], []


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


def _warn(name: str, what: str, error: Exception) -> None:
    if (name, what) in _told:  # it will be the same for every signature
        return
    _told.add((name, what))
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    _log.warning("%s %s on this GPU and runs operator by operator, which is slower (%s)", name, what, reason)
