"""One graph to one engine, in a process of its own: a builder that crashes or eats memory takes nothing along.

    python -m ofer_models.workshop.compile.tensorrt_builder < job.json

A job comes as JSON on standard input (`BuildJob`), the engine goes to the file that it names, and lines of JSON on
standard output tell of progress ({"phase", "done", "of"}) and the end ({"bindings", "version"} or {"error"}).
Networks are strongly typed: the graph, halved or not, says every tensor's type.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ofer_models.bundle.tensors import Dims, GraphSpec, StageError
from ofer_models.runtime.tensorrt import api as tensorrt_api

PRECISIONS = ("fp16", "fp32")
CURRENT = "current"
_MOST_TIMING = 256 << 20  # bytes


@dataclass(frozen=True)
class BuildJob:
    """What to build. inputs, outputs: as the manifest promises; profile: free dimension -> least, usual, largest size;
    gpus: `current` or sm86, ...; timing_cache: used where TensorRT has one (TensorRT-RTX has none).
    """

    graph: str
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    profile: dict[str, tuple[int, int, int]]
    precision: str
    gpus: list[str]
    out: str
    timing_cache: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def build(job: BuildJob, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Build, write the engine to `job.out`, and return its bindings and TensorRT's version.

    Raises StageError: no TensorRT, a graph that it cannot parse or that differs from the manifest (naming the tensor),
    a GPU it does not build for.
    """
    trt = tensorrt_api.load()
    graph = Path(job.graph)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(_typed_graph(graph, job.precision)):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise StageError(f"{graph.name}: TensorRT cannot parse it: {reasons}")
    inputs = {t.name: t for t in map(network.get_input, range(network.num_inputs))}
    outputs = {t.name: t for t in map(network.get_output, range(network.num_outputs))}
    dims = _named(inputs, job.inputs), _named(outputs, job.outputs)
    GraphSpec(graph, job.inputs, job.outputs).compare(graph.name, *dims)
    for tensor in (*inputs.values(), *outputs.values()):
        if tensor.dtype != trt.float32:
            raise StageError(f"{graph.name}: {tensor.name!r} is {tensor.dtype}, should be float32")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, shape in dims[0].items():
        sizes = [[job.profile[d][k] if isinstance(d, str) else d for d in shape] for k in range(3)]
        if sizes[0] != sizes[2]:
            profile.set_shape(name, *sizes)
    config.add_optimization_profile(profile)
    _set_targets(trt, config, job.gpus)
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32; whoever wants speed builds fp16
    config.progress_monitor = monitor = _monitor(trt, report)
    cache = _timing_cache(trt, config, Path(job.timing_cache))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise StageError(f"{graph.name}: TensorRT cannot build it: {logger.last or 'no reason given'}")
    if cache:
        _replace(Path(job.timing_cache), bytes(memoryview(config.get_timing_cache().serialize())))
    Path(job.out).write_bytes(memoryview(plan))
    del monitor
    shapes = (list(map(list, (tensor.shape for tensor in part.values()))) for part in (inputs, outputs))
    bindings = {
        kind: dict(zip(part, found, strict=True))
        for kind, part, found in zip(("inputs", "outputs"), (inputs, outputs), shapes, strict=True)
    }
    return {"bindings": bindings, "version": trt.__version__}


def targets(trt: Any) -> list[str]:
    """GPUs that this TensorRT can build for without having one, such as sm86; none for native TensorRT."""
    if trt.__name__ != "tensorrt_rtx":
        return []
    names = (name.lower() for name in dir(trt.ComputeCapability) if name.startswith("SM"))
    return sorted(names, key=lambda name: int(name[2:]))


def _typed_graph(graph: Path, precision: str) -> bytes:
    if precision == "fp32":
        return graph.read_bytes()
    import onnx

    from ofer_models.runtime.mixed_precision import half_products

    try:
        return half_products(onnx.load(graph)).SerializeToString()
    except ValueError as error:
        raise StageError(f"{graph.name}: {error}") from None


def _named(tensors: dict[str, Any], promised: dict[str, list[int | str]]) -> dict[str, Dims]:
    """Shapes by name, free dimensions under the name that the manifest gives them."""
    return {
        name: tuple(
            size if size >= 0 else _name_of(promised.get(name, ()), axis, tensor)
            for axis, size in enumerate(tensor.shape)
        )
        for name, tensor in tensors.items()
    }


def _name_of(promised: Dims, axis: int, tensor: Any) -> str:
    if axis < len(promised) and isinstance(promised[axis], str):
        return str(promised[axis])
    return tensor.get_dimension_name(axis) or "?"


def _set_targets(trt: Any, config: Any, gpus: list[str]) -> None:
    known = targets(trt)
    if not known:
        if gpus != [CURRENT]:
            raise StageError("native TensorRT builds for the GPU at hand alone: use --gpu current")
        return
    config.num_compute_capabilities = len(gpus)
    for i, gpu in enumerate(gpus):
        if gpu != CURRENT and gpu not in known:
            raise StageError(f"{trt.__name__} {trt.__version__} does not build for {gpu}, only for {', '.join(known)}")
        config.set_compute_capability(getattr(trt.ComputeCapability, gpu.upper()), i)


def _timing_cache(trt: Any, config: Any, path: Path) -> bool:
    """Whether a timing cache is in use: measured kernels are not measured again in the next build."""
    if targets(trt):  # TensorRT-RTX times nothing at build, its cache is empty and deprecated
        return False
    stored = path.read_bytes() if path.is_file() and path.stat().st_size <= _MOST_TIMING else b""
    for content in (stored, b""):  # a damaged one is begun anew
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return True
    return False


def _replace(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}", suffix=".tmp", delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):
        """Keeps the last error, which says more than a missing plan."""

        last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = message

    return Logger()


def _monitor(trt: Any, report: Callable[[dict[str, Any]], None]) -> Any:
    """Phases nest; the outermost one's steps give the bar, the innermost one's name the text."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._open: dict[str, int] = {}
            self._done = 0
            self._told = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._open[name] = steps
            self._tell(name)

        def phase_finish(self, name: str) -> None:
            self._open.pop(name, None)

        def step_complete(self, name: str, step: int) -> bool:
            if name == next(iter(self._open), None):
                self._done = step + 1
                self._tell(name)
            return True

        def _tell(self, name: str) -> None:
            now = time.monotonic()
            if now - self._told > 0.1:
                self._told = now
                report({"phase": name, "done": self._done, "of": next(iter(self._open.values()))})

    return Monitor()


def main() -> int:
    """Build the job on standard input."""

    def report(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)

    try:
        report(build(BuildJob(**json.load(sys.stdin)), report))
    except StageError as error:
        report({"error": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
