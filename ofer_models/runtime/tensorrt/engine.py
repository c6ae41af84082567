"""One engine as a stage, and the sampler's loop over two engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ofer_models.bundle.tensors import Dims, GraphSpec, StageError, check_call
from ofer_models.runtime.batches import batch_for
from ofer_models.runtime.engine_cache import Entry
from ofer_models.runtime.sampler import Sampler
from ofer_models.runtime.solvers import SolverTable
from ofer_models.runtime.tensorrt.context import ContextMaker
from ofer_models.runtime.tensorrt.cuda_driver import ALIGNED, CudaStream
from ofer_models.runtime.tensorrt.lane import Lane, Program

FACES, SAMPLES, STEPS = "F", "N", "K"  # names of free dimensions
_ROW = ALIGNED // 4  # numbers between two steps' coefficients, so that each begins at an aligned address


class EngineStage:
    """One engine with float32 inputs and outputs; inputs, outputs: name -> shape, strings are free.

    A call runs on a batch of a power of two faces, whose graph is captured at the first one.
    """

    def __init__(
        self, entry: Entry, graph: GraphSpec, engine: Any, contexts: ContextMaker, lane: Lane, rebuild: str
    ) -> None:
        """engine: TensorRT's. Raises StageError, naming the tensor, when its tensors differ from the manifest's."""
        self.name, self.lane, self.contexts = entry.path.name, lane, contexts
        self._profile, self._rebuild = entry.key.profile, rebuild
        self.inputs, self.outputs = {}, {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name).name == "INPUT"
            if engine.get_tensor_dtype(name).name != "FLOAT":
                raise StageError(f"{self.name}: {name!r} is {engine.get_tensor_dtype(name)}, should be float32")
            promised = ((graph.inputs if is_input else graph.outputs) or {}).get(name, ())
            dims = _named(tuple(engine.get_tensor_shape(name)), promised)
            (self.inputs if is_input else self.outputs)[name] = dims
        graph.compare(self.name, self.inputs, self.outputs)

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Run on float32 arrays by input name. Raises StageError for an input that does not fit the engine."""
        sizes = self.check(arrays)
        batch = self.batch(sizes)
        found = self.lane.run((self.name, *sorted(batch.items())), lambda: self._program(batch), arrays)
        return {
            name: array[tuple(slice(sizes[FACES] if dim == FACES else None) for dim in self.outputs[name])]
            for name, array in found.items()
        }

    def check(self, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Sizes of the free dimensions in a call; StageError where the engine was not built for them."""
        sizes = check_call(self.name, self.inputs, arrays)
        for name, (low, _, high) in self._profile.items():
            if name in sizes and not (1 if name == FACES else low) <= sizes[name] <= high:
                raise StageError(
                    f"{self.name} was built for {name} = {low}..{high}, asked for {sizes[name]}; "
                    f"see `{self._rebuild} --help`"
                )
        return sizes

    def batch(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The sizes with the number of faces that the networks really run on."""
        low, _, high = self._profile.get(FACES, (1, 1, None))
        return {name: batch_for(size, low, high) if name == FACES else size for name, size in sizes.items()}

    def context_at(self, sizes: Mapping[str, int]) -> Any:
        """A context for these sizes."""
        shapes = {name: shape_of(dims, sizes) for name, dims in self.inputs.items()}
        return self.contexts.context(shapes, self.lane.stream)

    def _program(self, sizes: Mapping[str, int]) -> Program:
        context = self.context_at(sizes)
        inputs, outputs = (
            {name: shape_of(dims, sizes) for name, dims in part.items()} for part in (self.inputs, self.outputs)
        )
        return Program(self.name, inputs, outputs, [context], lambda at, stream: context.enqueue(stream, at))


class EngineSampler(Sampler):
    """`cond` once and `step` K times in one captured graph; solvers that add noise go step by step over the host."""

    def __init__(self, cond: EngineStage, step: EngineStage) -> None:
        super().__init__(cond, step)
        self._stages = cond, step

    def sample(
        self, context: np.ndarray, noise: np.ndarray, table: SolverTable, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """As `Sampler.sample`."""
        if table.needs_noise:
            return super().sample(context, noise, table, rng)
        cond, step = self._stages
        faces, samples, steps = *noise.shape[:2], len(table.timesteps)
        timesteps = table.timesteps.astype(np.float32)
        cond.check({"context": context, "timesteps": timesteps})
        coefficients = np.zeros((steps, _ROW), np.float32)
        coefficients[:, :5] = table.coefficients
        modulation = np.empty((faces, int(step.inputs["modulation"][-1])), np.float32)
        step.check({"x": noise, "x0_prev": noise, "modulation": modulation, "coefficients": coefficients[0, :5]})
        sizes = step.batch({FACES: faces, SAMPLES: samples, STEPS: steps})
        arrays = {"context": context, "timesteps": timesteps, "coefficients": coefficients, "noise": noise}
        key = (step.name, *sorted(sizes.items()))
        return cond.lane.run(key, lambda: self._program(sizes), arrays)["result"][:faces]

    def _program(self, sizes: Mapping[str, int]) -> Program:
        """Two buffers each for x and x0 take turns; the first x is the noise, the last one the result."""
        cond, step = self._stages
        steps, samples = sizes[STEPS], shape_of(step.inputs["x"], sizes)
        size = 4 * int(np.prod(samples))
        a_step = 4 * int(np.prod(shape_of(step.inputs["modulation"], sizes)))
        if a_step % ALIGNED:
            raise StageError(f"{step.name}: its 'modulation' is no multiple of {ALIGNED} bytes wide, export it anew")
        first = cond.context_at(sizes)
        later = step.context_at(sizes)

        def queue(at: Mapping[str, int], stream: CudaStream) -> None:
            first.enqueue(stream, {name: at[name] for name in ("context", "timesteps", "modulation")})
            for k in range(steps):
                x = at["noise"] if k == 0 else at[f"x_{k % 2}"]
                x_next = at["result"] if k == steps - 1 else at[f"x_{(k + 1) % 2}"]
                later.enqueue(stream, {
                    "x": x, "x0_prev": at["zeros"] if k == 0 else at[f"x0_{k % 2}"], "x_next": x_next,
                    "x0": at[f"x0_{(k + 1) % 2}"], "modulation": at["modulation"] + k * a_step,
                    "coefficients": at["coefficients"] + k * ALIGNED,
                })  # fmt: skip

        internal = {"modulation": steps * a_step} | dict.fromkeys(("x_0", "x_1", "x0_0", "x0_1", "zeros"), size)
        inputs = {
            "context": shape_of(cond.inputs["context"], sizes), "timesteps": (steps,), "coefficients": (steps, _ROW),
            "noise": samples,
        }  # fmt: skip
        return Program(step.name, inputs, {"result": samples}, [first, later], queue, internal)


def shape_of(dims: Dims, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A shape with its free dimensions filled in."""
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims)


def _named(shape: tuple[int, ...], promised: Dims) -> tuple[int | str, ...]:
    """Free dimensions (-1) under the names that the manifest gives them."""
    names = promised if len(promised) == len(shape) else ["?"] * len(shape)
    return tuple(
        size if size >= 0 else name if isinstance(name, str) else "?" for size, name in zip(shape, names, strict=True)
    )
