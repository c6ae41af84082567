"""Stages in torch: the reference that other runtimes are compared with, and a way onto GPUs that they do not know.

Reads the bundle's own ONNX files and evaluates them node by node, so it shares the weights with the other runtimes and
none of their arithmetic. On a GPU a stage is compiled and captured for each signature, a sampler's whole loop in one
graph (`cuda_graphs`). Needs torch and onnx, which the run time otherwise does without.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ofer_models.bundle.tensors import Dims, GraphSpec, StageError, check_call
from ofer_models.runtime.batches import batch_for
from ofer_models.runtime.capture_gate import CaptureGate
from ofer_models.runtime.interface import Backend
from ofer_models.runtime.sampler import Sampler
from ofer_models.runtime.solvers import SolverTable

try:
    import onnx
    import torch
    from torch import Tensor

    from ofer_models.runtime.stored_weights import unpacked
    from ofer_models.runtime.torch import cuda_graphs as torch_cuda
    from ofer_models.runtime.torch.cuda_graphs import CudaGpu, Function, Gpu, TorchLane
    from ofer_models.runtime.torch.graph import TorchGraph
except ImportError as error:
    what = f"the torch backend needs {error.name}"
    raise StageError(f"{what}: run `make train-env`, or use backend onnxruntime") from None


class TorchStage:
    """One ONNX graph evaluated in torch; inputs and outputs: name -> shape as in the file, strings are free."""

    def __init__(self, graph: GraphSpec, lane: TorchLane | None = None, half: bool = False) -> None:
        """lane: run on its device and captured, without on the CPU and operator by operator. half: products in half
        precision (`mixed_precision.half_products`).

        Raises StageError for a file that is no graph, an operator that is not known, or tensors that differ from the
        spec.
        """
        self.path, self.lane = graph.path, lane
        self._device = lane.device if lane else torch.device("cpu")
        try:
            model = onnx.load(graph.path)
        except Exception as error:  # the parser raises many types
            raise StageError(f"{graph.path.name}: cannot be read as ONNX ({str(error).splitlines()[0]})") from None
        self.inputs, self.outputs = (
            {value.name: self._dims(value) for value in values} for values in (model.graph.input, model.graph.output)
        )
        graph.compare(self.path.name, self.inputs, self.outputs)
        model = unpacked(model)
        if half:
            from ofer_models.runtime.mixed_precision import half_products

            model = half_products(model)
        self._graph = TorchGraph(model, self._constant, self.path.name)

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Run on float32 arrays by input name. Raises StageError naming an input that does not fit."""
        sizes = check_call(self.path.name, self.inputs, arrays)
        if self.lane is None:
            return dict(zip(self.outputs, self._by_operator(arrays), strict=True))
        batch = batched(sizes)
        shapes = [[batch[dim] if isinstance(dim, str) else dim for dim in dims] for dims in self.inputs.values()]
        given = [arrays[name] for name in self.inputs]
        key = (self.path, *sorted(batch.items()))
        found = self.lane.run(key, self.path.name, lambda: self.compiled(batch), shapes, given)
        if found is None:
            found = self.lane.alone(lambda: self._by_operator(arrays))
        return {
            name: array[tuple(slice(sizes["F"] if dim == "F" else None) for dim in dims)]
            for (name, dims), array in zip(self.outputs.items(), found, strict=True)
        }

    def _by_operator(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        given = {name: torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for name, array in arrays.items()}
        return [value.cpu().numpy() for value in self.run(given).values()]

    @torch.inference_mode()
    def run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs for input tensors on this stage's device, left there."""
        return self._graph(tensors)

    def compiled(self, sizes: Mapping[str, int]) -> Function:
        """`run` for these sizes of the free dimensions, tensors in the file's order, fused where that works."""

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.run(dict(zip(self.inputs, tensors, strict=True))).values())

        examples = [
            torch.zeros([sizes[d] if isinstance(d, str) else d for d in dims], device=self._device)
            for dims in self.inputs.values()
        ]
        if self.lane is None:
            return torch_cuda.compiled(function, examples, self.path.name)
        with self.lane.gate.using():  # it runs what it compiled
            return torch_cuda.compiled(function, examples, self.path.name)

    def _constant(self, array: np.ndarray) -> Tensor:
        """Numbers on the device; shapes and axes stay on the host, where they are read."""
        tensor = torch.from_numpy(array.copy())
        return tensor.to(self._device) if tensor.is_floating_point() else tensor

    def _dims(self, value: onnx.ValueInfoProto) -> Dims:
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise StageError(f"{self.path.name}: {value.name!r} should be tensor(float)")
        return tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)


class CapturedSampler(Sampler):
    """cond and all steps in one captured graph; solvers that add noise go step by step over the host."""

    def __init__(self, cond: TorchStage, step: TorchStage, lane: TorchLane) -> None:
        super().__init__(cond, step)
        self._lane = lane

    def sample(
        self, context: np.ndarray, noise: np.ndarray, table: SolverTable, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """As `Sampler.sample`."""
        if table.needs_noise:
            return super().sample(context, noise, table, rng)
        timesteps, coefficients = (array.astype(np.float32) for array in (table.timesteps, table.coefficients))
        check_call(self._cond.path.name, self._cond.inputs, {"context": context, "timesteps": timesteps})
        (faces, samples, width), steps = noise.shape, len(timesteps)
        batch = batched({"F": faces, "N": samples, "K": steps})
        shapes = [(batch["F"], context.shape[1]), timesteps.shape, coefficients.shape, (batch["F"], samples, width)]
        arrays = [context, timesteps, coefficients, noise]
        key = (self._step.path, *batch.values())
        found = self._lane.run(key, self._step.path.name, lambda: self._loop(batch), shapes, arrays)
        return super().sample(context, noise, table, rng) if found is None else found[0][:faces]

    def _loop(self, sizes: Mapping[str, int]) -> Function:
        """(context, timesteps, coefficients, noise) -> (samples,), all on the device."""
        steps = sizes["K"]
        cond = self._cond.compiled({"F": sizes["F"], "K": steps})
        step = self._step.compiled({"F": sizes["F"], "N": sizes["N"]})
        order = [list(self._step.outputs).index(name) for name in ("x_next", "x0")]

        def loop(context: Tensor, timesteps: Tensor, coefficients: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
            modulation = cond(*_in_order(self._cond, context=context, timesteps=timesteps))[0]
            x, x0 = noise, torch.zeros_like(noise)
            for k in range(steps):
                given = _in_order(self._step, x=x, x0_prev=x0, modulation=modulation[k], coefficients=coefficients[k])
                results = step(*given)
                x, x0 = (results[place] for place in order)
            return (x,)

        return loop


class TorchBackend(Backend):
    """Graphs in torch, on the GPU where torch finds one."""

    def __init__(self, threads: int = 1, half: bool = False, gpu: Gpu | None = None) -> None:
        """threads: of torch's whole process. half: products in half precision, which on a CPU is slow. gpu: by default
        torch's own, where it finds one.
        """
        torch.set_num_threads(threads)
        self.name = "torch fp16" if half else "torch"
        self._half = half
        self._gpu = gpu or (CudaGpu() if torch.cuda.is_available() else None)
        self._gate = CaptureGate()
        self._lanes: dict[bool, TorchLane] = {}
        self.captures = self._gpu is not None
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32; matrix products keep to it by default

    def load(self, graph: GraphSpec, urgent: bool = True) -> TorchStage:
        """The graph, ready to call. Raises StageError."""
        return TorchStage(graph, self._lane(urgent), self._half)

    def sampler(self, cond: GraphSpec, step: GraphSpec, urgent: bool = True) -> Sampler:
        """The loop over both graphs, captured as a whole on a GPU."""
        stages, lane = (self.load(cond, urgent), self.load(step, urgent)), self._lane(urgent)
        return CapturedSampler(*stages, lane) if lane else Sampler(*stages)

    @property
    def memory(self) -> int:
        """Bytes that torch holds on the GPU."""
        return self._gpu.memory if self._gpu else 0

    def close(self) -> None:
        """Graphs and their memory; weights go with the stages."""
        for lane in self._lanes.values():
            lane.close()
        self._lanes = {}
        if self._gpu:
            self._gpu.release()

    def _lane(self, urgent: bool) -> TorchLane | None:
        if self._gpu is None:
            return None
        if urgent not in self._lanes:
            self._lanes[urgent] = TorchLane(self._gpu, self._gate, urgent)
        return self._lanes[urgent]


def batched(sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes with the number of faces that is really computed."""
    return {name: batch_for(size) if name == "F" else size for name, size in sizes.items()}


def _in_order(stage: TorchStage, **tensors: Tensor) -> list[Tensor]:
    return [tensors[name] for name in stage.inputs]
