"""Stages on ONNX Runtime: one ONNX file, called with named arrays, checked by name and shape."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from ofer_models.bundle.onnx_header import external_files
from ofer_models.bundle.tensors import Dims, GraphSpec, StageError, check_call
from ofer_models.files.refusal import FileRefused, one_line
from ofer_models.runtime import engine_cache
from ofer_models.runtime.engine_cache import Runtime
from ofer_models.runtime.sampler import Sampler

__all__ = ["OnnxRuntimeBackend", "OnnxStage", "StageError"]
PREFERRED = ("CUDAExecutionProvider", "OpenVINOExecutionProvider", "CPUExecutionProvider")
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

    def _tensors(self, nodes: Sequence[onnxruntime.NodeArg]) -> dict[str, tuple[int | str, ...]]:
        for node in nodes:
            if node.type != "tensor(float)":
                raise StageError(f"{self.path.name}: {node.name!r} is {node.type}, should be tensor(float)")
        return {node.name: tuple(node.shape) for node in nodes}


class OnnxRuntimeBackend:
    """The default: every graph a session, on the best provider that the installed build has."""

    def __init__(self, threads: int = 1, providers: Sequence[str] | None = None, int8_from: Path | None = None) -> None:
        """threads per stage; providers in order of preference, by default those of PREFERRED that are installed.
        int8_from: a bundle's folder, whose quantized graphs take the place of those they were made from, on the CPU.
        """
        self._threads = threads
        self.providers = tuple(providers or preferred_providers(onnxruntime.get_available_providers()))
        self._int8_from = int8_from if self.providers == ("CPUExecutionProvider",) else None
        self.name = "onnxruntime"

    def load(self, graph: GraphSpec) -> OnnxStage:
        """The graph, ready to call. Raises StageError, also where its quantized form is stale."""
        path = graph.path
        if self._int8_from:
            folder = self._int8_from
            command = (
                f"ofer build --prune --bundle {folder}` for fp32, or "
                f"`ofer build --backend onnxruntime --precision int8 --pictures FOLDER --bundle {folder}"
            )
            if entry := engine_cache.find_int8(folder, path, here(), command):
                path, self.name = entry.path, "onnxruntime int8"
        return OnnxStage(path, self._threads, inputs=graph.inputs, outputs=graph.outputs, providers=self.providers)

    def sampler(self, cond: GraphSpec, step: GraphSpec) -> Sampler:
        """The loop over both graphs; a session loop is as fast as a Loop in the graph, and takes any K."""
        return Sampler(self.load(cond), self.load(step))


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
