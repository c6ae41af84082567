"""Stages on engines that `ofer build` made: looked up, checked and refused here, never built.

A stage's whole call (copy in, network, copy out) is one captured CUDA graph for each batch size; a sampler's is `cond`
once and `step` K times in one graph, its samples never leaving the GPU. Buffers are made once for a size and reused.
The device itself is `cuda_driver.CudaDevice`; tests put stand-ins for it and for TensorRT's objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ofer_models.bundle.tensors import Dims, GraphSpec, StageError, check_call
from ofer_models.runtime import engine_cache
from ofer_models.runtime.engine_cache import Entry, Runtime
from ofer_models.runtime.sampler import Sampler
from ofer_models.runtime.solvers import SolverTable
from ofer_models.runtime.tensorrt import api as tensorrt_api

_ALIGNED = 256  # bytes to which TensorRT wants its tensors' addresses aligned


class EngineStage:
    """One engine with float32 inputs and outputs; inputs, outputs: name -> shape, strings are free."""

    def __init__(self, entry: Entry, graph: GraphSpec, engine: Any, device: Any, rebuild: str) -> None:
        """engine: TensorRT's. Raises StageError, naming the tensor, when its tensors differ from the manifest's."""
        self.entry, self.device, self._engine, self._rebuild = entry, device, engine, rebuild
        self.inputs, self.outputs = {}, {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name).name == "INPUT"
            if engine.get_tensor_dtype(name).name != "FLOAT":
                raise StageError(f"{entry.path.name}: {name!r} is {engine.get_tensor_dtype(name)}, should be float32")
            promised = ((graph.inputs if is_input else graph.outputs) or {}).get(name, ())
            dims = _named(tuple(engine.get_tensor_shape(name)), promised)
            (self.inputs if is_input else self.outputs)[name] = dims
        graph.compare(entry.path.name, self.inputs, self.outputs)
        self._calls: dict[tuple[tuple[str, int], ...], _CapturedCall] = {}

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Run on float32 arrays by input name. Raises StageError for an input that does not fit the engine."""
        sizes = self.check(arrays)
        key = tuple(sorted(sizes.items()))
        if key not in self._calls:
            self.device.activate()
            self._calls[key] = _CapturedCall(self, sizes)
        return self._calls[key].run(arrays)

    def check(self, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Sizes of the free dimensions in a call; StageError where the engine was not built for them."""
        sizes = check_call(self.entry.path.name, self.inputs, arrays)
        for name, (low, _, high) in self.entry.key.profile.items():
            if name in sizes and not low <= sizes[name] <= high:
                raise StageError(
                    f"{self.entry.path.name} was built for {name} = {low}..{high}, asked for {sizes[name]}; "
                    f"see `{self._rebuild} --help`"
                )
        return sizes

    def context(self, sizes: Mapping[str, int]) -> Any:
        """An execution context for these sizes: one for each captured graph, so that none outdates another's."""
        context = self._engine.create_execution_context()
        for name, dims in self.inputs.items():
            if not context.set_input_shape(name, shape_of(dims, sizes)):
                raise StageError(f"{self.entry.path.name}: the engine refuses {name!r} as {shape_of(dims, sizes)}")
        return context

    def enqueue(self, context: Any) -> None:
        """Queue one run of the network on the device's stream."""
        if not context.execute_async_v3(self.device.stream):
            raise StageError(f"{self.entry.path.name}: TensorRT cannot run it; see its messages above")


class _CapturedCall:
    """A stage's call at one size: buffers on both sides and the graph between them."""

    def __init__(self, stage: EngineStage, sizes: Mapping[str, int]) -> None:
        device, context = stage.device, stage.context(sizes)
        self._device = device
        self._host, addresses = {}, {}
        for name, dims in (stage.inputs | stage.outputs).items():
            self._host[name] = device.pinned(shape_of(dims, sizes))
            addresses[name] = device.allocate(self._host[name].nbytes)
            context.set_tensor_address(name, addresses[name])
        self._inputs, self._outputs = list(stage.inputs), list(stage.outputs)

        def work() -> None:
            for name in self._inputs:
                device.upload(addresses[name], self._host[name])
            stage.enqueue(context)
            for name in self._outputs:
                device.download(self._host[name], addresses[name])

        self._graph = captured(device, work)
        self._context = context  # must outlive the graph

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name in self._inputs:
            self._host[name][...] = arrays[name]
        self._device.activate()
        self._device.launch(self._graph)
        self._device.synchronize()
        return {name: self._host[name].copy() for name in self._outputs}


class EngineSampler(Sampler):
    """The sampler's loop in one captured graph; solvers that add noise go step by step over the host."""

    def __init__(self, cond: EngineStage, step: EngineStage) -> None:
        super().__init__(cond, step)
        self._loops: dict[tuple[int, int, int], _CapturedLoop] = {}

    def sample(
        self, context: np.ndarray, noise: np.ndarray, table: SolverTable, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """As `Sampler.sample`."""
        if table.needs_noise:
            return super().sample(context, noise, table, rng)
        faces, samples, _ = noise.shape
        key = faces, samples, len(table.timesteps)
        if key not in self._loops:
            self._cond.device.activate()
            self._loops[key] = _CapturedLoop(self._cond, self._step, *key)
        return self._loops[key].run(context, noise, table)


class _CapturedLoop:
    """cond, then K times step, for F faces with N samples; two buffers each for x and x0 take turns."""

    def __init__(self, cond: EngineStage, step: EngineStage, faces: int, samples: int, steps: int) -> None:
        device = cond.device
        self._device, self._cond, self._step = device, cond, step
        sizes = {"F": faces, "N": samples, "K": steps}
        modulation = int(step.inputs["modulation"][-1])
        shape = shape_of(step.inputs["x"], sizes)
        self._context = device.pinned(shape_of(cond.inputs["context"], sizes))
        self._timesteps = device.pinned((steps,))
        self._coefficients = device.pinned((steps, _ALIGNED // 4))
        self._noise, self._zeros, self._out = (device.pinned(shape) for _ in range(3))
        self._zeros[...] = 0
        of_context, of_timesteps = (device.allocate(a.nbytes) for a in (self._context, self._timesteps))
        of_coefficients = device.allocate(self._coefficients.nbytes)
        all_steps = device.allocate(4 * faces * steps * modulation)
        one_step = device.allocate(4 * faces * modulation)
        x, x0 = ([device.allocate(self._noise.nbytes) for _ in range(2)] for _ in range(2))
        first, later = cond.context(sizes), step.context(sizes)
        self._contexts = first, later  # must outlive the graph
        addresses = {"context": of_context, "timesteps": of_timesteps, "modulation": all_steps}
        for name, address in addresses.items():
            first.set_tensor_address(name, address)
        later.set_tensor_address("modulation", one_step)

        def work() -> None:
            uploads = (
                (of_context, self._context), (of_timesteps, self._timesteps), (of_coefficients, self._coefficients),
                (x[0], self._noise), (x0[0], self._zeros),
            )  # fmt: skip
            for target, source in uploads:
                device.upload(target, source)
            cond.enqueue(first)
            for k in range(steps):
                device.gather_rows(one_step, all_steps + 4 * k * modulation, faces, 4 * modulation,
                                   4 * steps * modulation)  # fmt: skip
                now, then = k % 2, (k + 1) % 2
                turns = {"x": x[now], "x0_prev": x0[now], "x_next": x[then], "x0": x0[then],
                         "coefficients": of_coefficients + k * _ALIGNED}  # fmt: skip
                for name, address in turns.items():
                    later.set_tensor_address(name, address)
                step.enqueue(later)
            device.download(self._out, x[steps % 2])

        self._graph = captured(device, work)

    def run(self, context: np.ndarray, noise: np.ndarray, table: SolverTable) -> np.ndarray:
        self._cond.check({"context": context, "timesteps": table.timesteps.astype(np.float32)})
        if noise.shape != self._noise.shape or noise.dtype != np.float32:
            raise StageError(f"noise is {noise.dtype} {noise.shape}, should be float32 {self._noise.shape}")
        self._context[...], self._noise[...] = context, noise
        self._timesteps[...] = table.timesteps
        self._coefficients[:, :5] = table.coefficients
        self._device.activate()
        self._device.launch(self._graph)
        self._device.synchronize()
        return self._out.copy()


class TensorRtBackend:
    """Engines of one bundle's folder on this machine's GPU."""

    name = "tensorrt"

    def __init__(self, folder: Path, here: Runtime, device: Any, deserialise: Callable[[Path], Any]) -> None:
        """deserialise: an engine's file to TensorRT's engine, None where TensorRT refuses it."""
        self._folder, self._here, self._device, self._deserialise = folder, here, device, deserialise
        self._command = f"ofer build --bundle {folder}"

    @classmethod
    def here(cls, folder: Path) -> TensorRtBackend:
        """On the real thing. Raises StageError where there is no TensorRT or no GPU."""
        from ofer_models.runtime.tensorrt.cuda_driver import CudaDevice
        trt = tensorrt_api.load()
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        return cls(folder, here(), CudaDevice(), lambda path: runtime.deserialize_cuda_engine(path.read_bytes()))

    def load(self, graph: GraphSpec) -> EngineStage:
        """The graph's engine. Raises StageError with the command that builds it, or naming what is wrong with it."""
        entry = engine_cache.find(self._folder, graph.path, self._here, self._command)
        self._device.activate()
        engine = self._deserialise(entry.path)
        if engine is None:
            raise StageError(f"{entry.path.name}: TensorRT refuses it; run `{self._command} --all`")
        return EngineStage(entry, graph, engine, self._device, self._command)

    def sampler(self, cond: GraphSpec, step: GraphSpec) -> EngineSampler:
        """The whole loop as one captured graph."""
        return EngineSampler(self.load(cond), self.load(step))


def captured(device: Any, work: Callable[[], None]) -> object:
    """The graph of `work`, which runs once before: first runs allocate, which a capture forbids."""
    work()
    device.synchronize()
    return device.capture(work)


def shape_of(dims: Dims, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A shape with its free dimensions filled in."""
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims)


def _named(shape: tuple[int, ...], promised: Dims) -> tuple[int | str, ...]:
    """Free dimensions (-1) under the names that the manifest gives them."""
    names = promised if len(promised) == len(shape) else ["?"] * len(shape)
    return tuple(
        size if size >= 0 else name if isinstance(name, str) else "?" for size, name in zip(shape, names, strict=True)
    )


def here() -> Runtime:
    """This machine's TensorRT and GPU. Raises StageError where one of them is missing."""
    from ofer_models.runtime.tensorrt.cuda_driver import current_gpu

    trt = tensorrt_api.load()
    gpu = current_gpu()
    return Runtime(trt.__name__, trt.__version__, (gpu.capability, f"{gpu.capability} {gpu.name}"))
