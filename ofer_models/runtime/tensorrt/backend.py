"""Stages on engines that `ofer build` made: looked up, checked and refused here, never built.

    lane       a stream with its captured calls and their memory; one for frames, one for identities
    engine     an engine as a stage, and the sampler's loop over two of them
    context    TensorRT's execution contexts
    cuda_driver, api   the device and TensorRT themselves; tests put stand-ins that enforce their rules
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ofer_models.bundle.tensors import GraphSpec, StageError
from ofer_models.runtime import engine_cache
from ofer_models.runtime.engine_cache import Runtime
from ofer_models.runtime.interface import Backend
from ofer_models.runtime.tensorrt import api
from ofer_models.runtime.tensorrt.context import ContextMaker
from ofer_models.runtime.tensorrt.cuda_driver import CudaDevice, current_gpu
from ofer_models.runtime.tensorrt.engine import EngineSampler, EngineStage
from ofer_models.runtime.tensorrt.lane import Lane


class TensorRtBackend(Backend):
    """Engines of one bundle's folder on this machine's GPU."""

    name = "tensorrt"
    captures = True

    def __init__(
        self, folder: Path, here: Runtime, trt: Any, messages: Any, device: CudaDevice,
        deserialise: Callable[[Path], Any],
    ) -> None:  # fmt: skip
        """trt: the module; messages: its logger (`api.message_keeper`); deserialise: an engine's file to TensorRT's
        engine, None where TensorRT refuses it.
        """
        self._folder, self._here, self._trt, self._messages = folder, here, trt, messages
        self._device, self._deserialise = device, deserialise
        self._command = f"ofer build --bundle {folder}"
        self._lanes: dict[bool, Lane] = {}
        self._stages: list[EngineStage] = []
        self._weights = 0

    @classmethod
    def here(cls, folder: Path) -> TensorRtBackend:
        """On the real thing. Raises StageError where there is no TensorRT or no GPU."""
        trt = api.load()
        runtime = here()
        device, messages = CudaDevice(), api.message_keeper(trt)
        loader = trt.Runtime(messages)
        return cls(
            folder, runtime, trt, messages, device, lambda path: loader.deserialize_cuda_engine(path.read_bytes())
        )

    def load(self, graph: GraphSpec, urgent: bool = True) -> EngineStage:
        """The graph's engine. Raises StageError with the command that builds it, or naming what is wrong with it."""
        entry = engine_cache.find(self._folder, graph.path, self._here, self._command)
        self._device.activate()
        with self._device.gate.using():
            engine = self._deserialise(entry.path)
        if engine is None:
            said = f" ({self._messages.last})" if self._messages.last else ""
            raise StageError(f"{entry.path.name}: TensorRT refuses it{said}; run `{self._command} --all`")
        if urgent not in self._lanes:
            self._lanes[urgent] = Lane(self._device, urgent)
        contexts = ContextMaker(self._trt, entry.path.name, engine, self._messages, engine_cache.kernels_of(entry.path))
        stage = EngineStage(entry, graph, engine, contexts, self._lanes[urgent], self._command)
        self._stages.append(stage)
        self._weights += entry.size
        return stage

    def sampler(self, cond: GraphSpec, step: GraphSpec, urgent: bool = True) -> EngineSampler:
        """The whole loop as one captured graph."""
        return EngineSampler(self.load(cond, urgent), self.load(step, urgent))

    @property
    def memory(self) -> int:
        """Bytes on the GPU: buffers and scratch, and the engines by the size of their files."""
        return self._device.allocated + self._weights

    def settle(self) -> None:
        """Keep the kernels that were compiled for the next start."""
        for stage in self._stages:
            stage.contexts.save_kernels()

    def close(self) -> None:
        """Graphs, contexts and buffers, then engines, then the GPU."""
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            lane.close()
        for stage in self._stages:
            stage.contexts.close()
        self._stages, self._weights = [], 0
        if lanes:
            self._device.close()


def here() -> Runtime:
    """This machine's TensorRT and GPU. Raises StageError where one of them is missing, or does not know the other."""
    trt, gpu = api.load(), current_gpu()
    api.refuse_gpu(trt, gpu.capability)
    return Runtime(trt.__name__, trt.__version__, (gpu.capability, f"{gpu.capability} {gpu.name}"))
