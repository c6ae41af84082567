"""TensorRT's execution contexts at one size each, and how an engine makes them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofer_models.bundle.tensors import StageError
from ofer_models.runtime.engine_cache import write_whole
from ofer_models.runtime.tensorrt import api
from ofer_models.runtime.tensorrt.cuda_driver import CudaStream

_log = logging.getLogger(__name__)


class Context:
    """A context with shapes set and no memory yet. memory: bytes of scratch that it needs."""

    def __init__(self, name: str, context: Any, messages: Any) -> None:
        self._name, self._context, self._messages = name, context, messages
        self.memory = int(context.update_device_memory_size_for_shapes())

    def set_memory(self, address: int, size: int) -> None:
        """Scratch to use, at least `memory` bytes; may be shared with contexts that never run at the same time."""
        self._context.set_device_memory(address, size)

    def enqueue(self, stream: CudaStream, addresses: Mapping[str, int]) -> None:
        """Queue one run with these tensors' addresses. Raises StageError with what TensorRT says."""
        for tensor, address in addresses.items():
            if not self._context.set_tensor_address(tensor, address):
                raise StageError(f"{self._name}: TensorRT refuses the address of {tensor!r}: {self._said()}")
        if not self._context.execute_async_v3(stream.handle):
            raise StageError(f"{self._name}: TensorRT cannot run it: {self._said()}")

    def capturable(self, stream: CudaStream) -> bool:
        """Whether a graph of it can be captured (native TensorRT does not say, and a capture tells)."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(stream.handle))

    def _said(self) -> str:
        return self._messages.last or "no reason given"


class ContextMaker:
    """Contexts of one engine, with memory that the caller manages.

    TensorRT-RTX compiles kernels for a size when it first runs: at once, not behind fallback kernels which a capture
    would keep for ever, and with a cache beside the engine, so that the next start finds them.
    """

    def __init__(self, trt: Any, name: str, engine: Any, messages: Any, kernels: Path) -> None:
        """kernels: file of TensorRT-RTX's cache."""
        self._trt, self._name, self._engine, self._messages, self._kernels = trt, name, engine, messages, kernels
        self._config = self._cache = None
        if trt.__name__ == api.RTX:
            self._config = config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # captured here, with the copies
            self._cache = config.create_runtime_cache()
            if kernels.is_file() and not self._cache.deserialize(kernels.read_bytes()):
                _log.info("%s is of another driver or GPU: kernels are compiled anew", kernels.name)
            config.set_runtime_cache(self._cache)

    def context(self, shapes: Mapping[str, tuple[int, ...]], stream: CudaStream) -> Context:
        """A context for these input shapes, of the first optimization profile that has them. Raises StageError."""
        context = self._engine.create_execution_context(
            self._config or self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise StageError(f"{self._name}: TensorRT makes no context: {self._messages.last or 'no reason given'}")
        profile = self._profile_of(shapes)
        if not context.set_optimization_profile_async(profile, stream.handle):
            raise StageError(f"{self._name}: TensorRT refuses profile {profile}: {self._messages.last}")
        for tensor, shape in shapes.items():
            if not context.set_input_shape(tensor, shape):
                raise StageError(f"{self._name}: the engine refuses {tensor!r} as {shape}: {self._messages.last}")
        return Context(self._name, context, self._messages)

    def close(self) -> None:
        """Let go of the engine; its contexts must be gone."""
        self._config = self._cache = self._engine = None

    def save_kernels(self) -> None:
        """Write compiled kernels beside the engine; where that is not allowed, they are compiled at every start."""
        if self._cache is None:
            return
        try:
            write_whole(self._kernels, bytes(memoryview(self._cache.serialize())))
        except OSError as error:
            reason = f"{self._kernels} cannot be written ({error.strerror})"
            _log.warning("%s: kernels are compiled at every start", reason)

    def _profile_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        for profile in range(self._engine.num_optimization_profiles):
            ranges = {tensor: self._engine.get_tensor_profile_shape(tensor, profile) for tensor in shapes}
            if all(
                all(low <= size <= high for low, size, high in zip(ranges[t][0], shape, ranges[t][2], strict=True))
                for t, shape in shapes.items()
            ):
                return profile
        raise StageError(f"{self._name} was not built for {dict(shapes)}")
