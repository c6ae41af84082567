"""Stages on ONNX Runtime: one ONNX file, called with named arrays, checked by name and shape."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime import OrtValue

from ofer_models.bundle.onnx_header import external_files
from ofer_models.bundle.tensors import Dims, GraphSpec, StageError, check_call
from ofer_models.files.refusal import FileRefused, one_line
from ofer_models.runtime import engine_cache
from ofer_models.runtime.engine_cache import Runtime
from ofer_models.runtime.interface import Backend
from ofer_models.runtime.sampler import Sampler
from ofer_models.runtime.solvers import SolverTable

__all__ = ["OnnxRuntimeBackend", "OnnxStage", "StageError"]
_ROW = 64
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
PREFERRED = (CUDA, "OpenVINOExecutionProvider", CPU)
_log = logging.getLogger(__name__)
# As /proc/cpuinfo calls them: what makes 8-bit products fast, and on x86 exact (without, sums of two may saturate).
_INT8_FEATURES = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "i8mm")


class OnnxStage:
    """One ONNX graph with float32 inputs and outputs.

    inputs, outputs: tensor name -> shape as in the file; a string is a symbolic dimension.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int = 1,
        *,
        inputs: Mapping[str, Dims] | None = None,
        outputs: Mapping[str, Dims] | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        """Load a file and compare it with the `inputs` and `outputs` that its manifest promises, where given.

        Raises StageError if it cannot be loaded, or differs in a tensor's name, type, rank or fixed dimension.
        """
        self.path = Path(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Otherwise every session keeps room of its own for all that a run needs, and one block for each number of faces
        # there has been: 50 MB with eight. The C library lends the same memory to one session after the other.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        # Idle workers of several sessions would otherwise spin on the cores that the running session needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            outside = [name for name in external_files(self.path) if Path(name).name != name or name in ("", "..")]
            if outside:
                raise FileRefused(f"takes weights from outside of its folder ({one_line(outside[0])})")
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=list(providers))
        except (FileRefused, OSError) as error:
            raise StageError(f"{self.path.name}: ONNX Runtime cannot load it: it {one_line(error)}") from None
        except Exception as error:
            raise StageError(f"{self.path.name}: ONNX Runtime cannot load it: {one_line(error)}") from error
        # ONNX Runtime goes on without a provider that it cannot start, and says nothing.
        self.provider = self._session.get_providers()[0]
        self.device = "cuda" if self.provider == CUDA else "cpu"  # where its tensors are at home
        self.inputs = self._tensors(self._session.get_inputs())
        self.outputs = self._tensors(self._session.get_outputs())
        self._output_names = list(self.outputs)
        GraphSpec(self.path, inputs, outputs).compare(self.path.name, self.inputs, self.outputs)

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph on float32 arrays by input name; returns its outputs by name.

        Raises StageError, naming the tensor, for a missing, unknown, wrongly typed or wrongly shaped input.
        """
        check_call(self.path.name, self.inputs, arrays)
        return dict(zip(self._output_names, self._session.run(self._output_names, arrays), strict=True))

    def bound(self) -> OnnxCall:
        """A call whose tensors stay where they are."""
        return OnnxCall(self._session)

    def _tensors(self, nodes: Sequence[onnxruntime.NodeArg]) -> dict[str, tuple[int | str, ...]]:
        for node in nodes:
            if node.type != "tensor(float)":
                raise StageError(f"{self.path.name}: {node.name!r} is {node.type}, should be tensor(float)")
        return {node.name: tuple(node.shape) for node in nodes}


class OnnxCall:
    """One run of a session on memory that is given to it, on the session's device."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session, self._binding = session, session.io_binding()
        self._used: list[OrtValue] = []  # the binding does not keep them

    def use(self, kind: str, name: str, memory: OrtValue, shape: Sequence[int], first: int = 0) -> None:
        """Tensor `name` (kind: input or output) is `shape` float32 numbers of `memory`, from number `first` on."""
        self._used.append(memory)
        bind = getattr(self._binding, f"bind_{kind}")
        bind(name, memory.device_name(), 0, np.float32, list(shape), memory.data_ptr() + 4 * first)

    def __call__(self) -> None:
        """Run; the outputs' memory holds the results afterwards."""
        self._session.run_with_iobinding(self._binding)


class OnnxDeviceSampler(Sampler):
    """The loop with all tensors on the sessions' device: contexts and noise go there once, samples come back once."""

    def __init__(self, cond: OnnxStage, step: OnnxStage) -> None:
        super().__init__(cond, step)
        self._stages, self._device = (cond, step), step.device

    def sample(
        self, context: np.ndarray, noise: np.ndarray, table: SolverTable, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """As `Sampler.sample`; solvers that add noise do that on the host."""
        if table.needs_noise:
            return super().sample(context, noise, table, rng)
        cond, step = self._stages
        timesteps = table.timesteps.astype(np.float32)
        check_call(cond.path.name, cond.inputs, {"context": context, "timesteps": timesteps})
        if noise.dtype != np.float32 or noise.shape[0] != len(context) or noise.shape[2] != self.n_coefficients:
            raise StageError(f"{step.path.name}: noise is {noise.dtype} {noise.shape}")
        faces, steps, width = len(context), len(timesteps), int(step.inputs["modulation"][-1])
        modulation = self._room((steps, faces, width))
        first = cond.bound()
        for name, array in (("context", context), ("timesteps", timesteps)):
            first.use("input", name, self._moved(array), array.shape)
        first.use("output", "modulation", modulation, (steps, faces, width))
        first()
        # A row of 256 bytes each, as the modulation's: kernels read several numbers at once.
        coefficients = self._moved(np.pad(table.coefficients, ((0, 0), (0, _ROW - 5))))
        x, x_next = self._moved(noise), self._room(noise.shape)
        x0, x0_next = self._moved(np.zeros_like(noise)), self._room(noise.shape)
        for k in range(steps):
            call = step.bound()
            call.use("input", "x", x, noise.shape)
            call.use("input", "x0_prev", x0, noise.shape)
            call.use("input", "modulation", modulation, (faces, width), k * faces * width)
            call.use("input", "coefficients", coefficients, (5,), k * _ROW)
            call.use("output", "x_next", x_next, noise.shape)
            call.use("output", "x0", x0_next, noise.shape)
            call()
            x, x_next, x0, x0_next = x_next, x, x0_next, x0
        return x.numpy().copy()  # on the host it is a view of what goes with x

    def _moved(self, array: np.ndarray) -> OrtValue:
        # A copy also on the host: the loop writes into it.
        return OrtValue.ortvalue_from_numpy(np.array(array, np.float32, order="C"), self._device, 0)

    def _room(self, shape: Sequence[int]) -> OrtValue:
        return OrtValue.ortvalue_from_shape_and_type(list(shape), np.float32, self._device, 0)


class OnnxRuntimeBackend(Backend):
    """The default: every graph a session, on the best provider that the installed build has.

    name: says the provider that runs, where it is not the CPU, and int8 where encoders are quantized.
    """

    def __init__(
        self,
        threads: int = 1,
        providers: Sequence[str] | None = None,
        int8_from: Path | None = None,
        int8_optional: bool = False,
    ) -> None:
        """threads per stage; providers in order of preference, by default those of PREFERRED that are installed.
        int8_from: a bundle's folder, whose quantized graphs take the place of those they were made from, on the CPU.
        int8_optional: one that cannot be used is left aside, with a warning, and its graph runs in fp32.
        """
        self._threads = threads
        self.providers = tuple(providers or preferred_providers(onnxruntime.get_available_providers()))
        on_cpu = self.providers == (CPU,)
        self._int8_from = int8_from if on_cpu else None
        has_int8 = int8_from and not on_cpu and engine_cache.entries(int8_from, [engine_cache.INT8_SUFFIX])
        self._int8_unused = int8_from if has_int8 else None
        self._int8_optional = int8_optional
        self.name = "onnxruntime"
        self._told: set[str] = set()

    def load(self, graph: GraphSpec, urgent: bool = True) -> OnnxStage:
        """The graph, ready to call. Raises StageError, also where its quantized form is there, cannot be used and is
        not optional."""
        stage = self._quantized(graph) if self._int8_from else None
        if self._int8_unused and "int8" not in self._told:
            self._told.add("int8")
            _log.info("8-bit encoders of %s are for the CPU and not used with %s", self._int8_unused, self.providers[0])
        stage = stage or self._stage(graph, graph.path)
        self._tell(stage)
        return stage

    def _stage(self, graph: GraphSpec, path: Path) -> OnnxStage:
        return OnnxStage(path, self._threads, inputs=graph.inputs, outputs=graph.outputs, providers=self.providers)

    def _quantized(self, graph: GraphSpec) -> OnnxStage | None:
        """The graph's quantized form; None where there is none, or where it is optional and cannot be used."""
        folder = self._int8_from
        command = (
            f"ofer build --prune --bundle {folder}` for fp32, or "
            f"`ofer build --backend onnxruntime --precision int8 --pictures FOLDER --bundle {folder}"
        )
        try:
            entry = engine_cache.find_int8(folder, graph.path, here(), command)
            if entry is None:
                return None
            if weights := external_files(entry.path):  # which no record lists
                raise StageError(f"{entry.path.name} takes weights from {one_line(min(weights))}; run `{command}`")
            stage = self._stage(graph, entry.path)
        except FileRefused as error:
            refused = StageError(f"{entry.path.name} {one_line(error)}; run `{command}`")
        except (StageError, OSError) as error:
            refused = error
        else:
            self.name = "onnxruntime int8"
            return stage
        if not self._int8_optional:
            raise refused
        _log.warning("%s in fp32 meanwhile: %s", graph.path.name, refused)
        return None

    def _tell(self, stage: OnnxStage) -> None:
        """Name what runs; a provider that was wanted and does not run is told once."""
        if stage.provider == self.providers[0]:
            if stage.provider != CPU and self.name == "onnxruntime":
                self.name = f"onnxruntime {stage.provider.removesuffix('ExecutionProvider')}"
            self.captures = self.captures or stage.provider != CPU  # its kernels are chosen at the first call of a size
        elif stage.provider not in self._told:
            self._told.add(stage.provider)
            _log.warning(
                "ONNX Runtime has %s but could not start it: networks run on %s, which is slower",
                self.providers[0], stage.provider,
            )  # fmt: skip

    def sampler(self, cond: GraphSpec, step: GraphSpec, urgent: bool = True) -> Sampler:
        """The loop over both graphs; a session loop is as fast as a Loop in the graph, and takes any K."""
        stages = self.load(cond), self.load(step)
        return OnnxDeviceSampler(*stages) if stages[1].device != "cpu" else Sampler(*stages)


def here() -> Runtime:
    """This machine's ONNX Runtime and kind of processor, as far as quantized graphs depend on it."""
    return Runtime(engine_cache.ONNXRUNTIME, onnxruntime.__version__, (_processor(),))


def sums_exactly(processor: str | None = None) -> bool:
    """Whether sums of 8-bit products cannot saturate on a processor, this one by default, given as `here` names it."""
    machine, *features = (processor or _processor()).split()
    return bool(features) or machine.lower() not in ("x86_64", "amd64", "i686")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    features = set(info.read_text().split()) if info.is_file() else set()
    return " ".join([platform.machine(), *(name for name in _INT8_FEATURES if name in features)])


def preferred_providers(available: Sequence[str]) -> list[str]:
    """The providers to ask for: a GPU's first, the CPU always last."""
    return [name for name in PREFERRED if name in available]
