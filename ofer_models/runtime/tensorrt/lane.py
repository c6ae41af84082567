"""Lanes on the GPU: one for what a frame needs, one for identities, which may take their time beside it.

A lane is a stream, scratch memory that all its networks share, and a bounded number of calls captured for their sizes.
Calls of one lane come one after the other; those of two lanes run side by side.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ofer_models.bundle.tensors import StageError
from ofer_models.runtime.bounded_cache import BoundedCache
from ofer_models.runtime.tensorrt.context import Context
from ofer_models.runtime.tensorrt.cuda_driver import ALIGNED, CudaDevice, CudaStream

MOST_CALLS = 64  # captured calls that a lane keeps; the one that was used longest ago goes first
_log = logging.getLogger(__name__)

Shape = tuple[int, ...]


@dataclass
class Program:
    """What a call does at one size.

    inputs, outputs: name -> shape of float32 arrays; internal: name -> bytes of device memory of its own, zeroed;
    contexts: TensorRT's, with their shapes set; queue: queues the networks on a stream, given every tensor's address.
    """

    name: str
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    contexts: Sequence[Context]
    queue: Callable[[Mapping[str, int], CudaStream], None]
    internal: Mapping[str, int] = field(default_factory=dict)


class Lane:
    """One stream with all that runs on it. Safe to use from several threads."""

    def __init__(self, device: CudaDevice, urgent: bool, most: int = MOST_CALLS) -> None:
        self.device = device
        self._lock = threading.Lock()
        self._calls: BoundedCache[_Call] = BoundedCache(most, _Call.close)
        self._scratch = self._scratch_size = 0
        self._uncaptured: set[str] = set()
        self._closed = False
        device.activate()
        with device.gate.using():
            self.stream = device.stream(urgent)

    def run(
        self, key: Hashable, program: Callable[[], Program], arrays: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Outputs for input arrays, which may have fewer rows than the program: the rest is left as it is.

        key: of the program, which is made and captured at the first call. Raises StageError.
        """
        with self._lock:
            if self._closed:
                raise StageError("the GPU was given back")
            self.device.activate()
            return self._calls.get(key, lambda: _Call(self, program)).run(arrays)

    def close(self) -> None:
        """Give everything back."""
        with self._lock:
            self._closed = True
            self.device.activate()
            self._calls.clear()
            with self.device.gate.using():
                if self._scratch:
                    self.device.free(self._scratch)
                    self._scratch = self._scratch_size = 0
                self.stream.close()

    def scratch(self, size: int) -> int:
        """Address of at least `size` bytes, which networks on this stream use in turn.

        Graphs know the old address by heart: where it has to grow, they go, and are captured anew when they are called.
        """
        if size > self._scratch_size:
            self._calls.clear()
            with self.device.gate.using():
                if self._scratch:
                    self.device.free(self._scratch)
                    self._scratch = self._scratch_size = 0
                self._scratch, self._scratch_size = self.device.allocate(size), size
        return self._scratch

    @property
    def scratch_size(self) -> int:
        return self._scratch_size

    def uncaptured(self, name: str, error: Exception) -> None:
        """Note that a program runs call by call; told once."""
        if name not in self._uncaptured:
            self._uncaptured.add(name)
            _log.warning("%s is not captured on this GPU and runs call by call, which is slower (%s)", name, error)


class _Call:
    """A program with its buffers on both sides, and its graph where it can be captured."""

    def __init__(self, lane: Lane, program: Callable[[], Program]) -> None:
        self._lane, device = lane, lane.device
        self._host: dict[str, np.ndarray] = {}
        self._addresses: dict[str, int] = {}
        self._graph: object | None = None
        try:
            with device.gate.using():
                self._program = program()
            memory = lane.scratch(max(ALIGNED, *(context.memory for context in self._program.contexts)))
            with device.gate.using():
                self._allocate(memory)
                self._queue()  # first runs compile and allocate, which a capture forbids
                lane.stream.mark()
            lane.stream.wait()
            self._capture()
        except BaseException:
            self.close()
            raise

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name, array in arrays.items():
            self._host[name][: len(array)] = array
        stream = self._lane.stream
        with self._lane.device.gate.using():
            if self._graph is None:
                self._queue()
            else:
                stream.launch(self._graph)
            stream.mark()
        stream.wait()
        return {name: self._host[name].copy() for name in self._program.outputs}

    def close(self) -> None:
        """The graph first, then the contexts that it runs, then the memory that both use."""
        device = self._lane.device
        with device.gate.using():
            if self._graph is not None:
                self._lane.stream.destroy(self._graph)
                self._graph = None
            self._program = None
            for address in self._addresses.values():
                device.free(address)
            for array in self._host.values():
                device.free_pinned(array)
            self._addresses, self._host = {}, {}

    def _allocate(self, memory: int) -> None:
        program, device = self._program, self._lane.device
        for context in program.contexts:
            context.set_memory(memory, self._lane.scratch_size)
        for name, shape in {**program.inputs, **program.outputs}.items():
            self._host[name] = device.pinned(shape)
            self._addresses[name] = device.allocate(self._host[name].nbytes)
        for name, size in program.internal.items():
            self._addresses[name] = device.allocate(size)
            self._lane.stream.zero(self._addresses[name], size)

    def _queue(self) -> None:
        stream = self._lane.stream
        for name in self._program.inputs:
            stream.upload(self._addresses[name], self._host[name])
        self._program.queue(self._addresses, stream)
        for name in self._program.outputs:
            stream.download(self._host[name], self._addresses[name])

    def _capture(self) -> None:
        program, lane = self._program, self._lane
        try:
            with lane.device.gate.capturing():
                if not all(context.capturable(lane.stream) for context in program.contexts):
                    raise StageError("TensorRT says that it cannot be")
                self._graph = lane.stream.capture(self._queue)
        except StageError as error:
            lane.uncaptured(program.name, error)
