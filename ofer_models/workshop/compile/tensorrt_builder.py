"""One graph to one engine, in a process of its own: a builder that crashes or eats memory takes nothing along.

    python -m ofer_models.workshop.compile.tensorrt_builder < job.json

A job comes as JSON on standard input (`BuildJob`), the engine goes to the file that it names, and lines of JSON on
standard output tell of progress ({"phase", "done", "of"}) and the end ({"bindings", "version", "layers"} or {"error"}).
Networks are strongly typed: the graph, halved or not, says every tensor's type.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ofer_models.bundle.tensors import Dims, GraphSpec, StageError
from ofer_models.runtime import engine_cache
from ofer_models.runtime.tensorrt import api

PRECISIONS = ("fp16", "fp32")
CURRENT = "current"
_MOST_TIMING = 256 << 20  # bytes


@dataclass(frozen=True)
class BuildJob:
    """What to build. inputs, outputs: as the manifest promises; profiles: each free dimension -> least, usual, largest
    size; gpus: `current` or sm86, ...; timing_cache: used where TensorRT has one (TensorRT-RTX has none); workspace:
    bytes that a kernel may use besides its tensors.
    """

    graph: str
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    profiles: list[dict[str, tuple[int, int, int]]]
    precision: str
    gpus: list[str]
    out: str
    timing_cache: str
    workspace: int = 1 << 30  # a Jetson shares 8 GB with all else

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def build(job: BuildJob, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Build, write the engine to `job.out`, and return its bindings, TensorRT's version and the network's layers.

    Raises StageError: no TensorRT, a graph that it cannot parse or that differs from the manifest (naming the tensor),
    a GPU it does not build for.
    """
    trt = api.load()
    graph = Path(job.graph)
    logger = api.message_keeper(trt)
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
    for sizes in job.profiles:
        profile = builder.create_optimization_profile()
        for name, shape in dims[0].items():
            if any(isinstance(dim, str) for dim in shape):  # also where least and largest are equal
                profile.set_shape(name, *([sizes[d][k] if isinstance(d, str) else d for d in shape] for k in range(3)))
        config.add_optimization_profile(profile)
    _set_targets(trt, config, job.gpus)
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32; whoever wants speed builds fp16
    if trt.__name__ == api.RTX:
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # or a run may allocate, which a capture forbids
    else:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace)
    config.progress_monitor = monitor = _monitor(trt, report)
    with _gpu_alone(trt, job.gpus), _timing_cache(trt, config, Path(job.timing_cache)):
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise StageError(f"{graph.name}: TensorRT cannot build it: {logger.last or 'no reason given'}")
    Path(job.out).write_bytes(memoryview(plan))
    del monitor
    shapes = (list(map(list, (tensor.shape for tensor in part.values()))) for part in (inputs, outputs))
    bindings = {
        kind: dict(zip(part, found, strict=True))
        for kind, part, found in zip(("inputs", "outputs"), (inputs, outputs), shapes, strict=True)
    }
    return {"bindings": bindings, "version": trt.__version__, "layers": network.num_layers}


def _typed_graph(graph: Path, precision: str) -> bytes:
    try:
        import onnx

        from ofer_models.runtime.mixed_precision import half_products
        from ofer_models.workshop.compile.tensorrt_graph import simplified
    except ImportError as error:
        raise StageError(f"`ofer build` needs {error.name}: `pip install -r requirements/gpu.txt`") from None
    try:
        model = onnx.load(graph)
    except Exception as error:  # the parser raises many types
        raise StageError(f"{graph.name}: TensorRT cannot parse it: {str(error).splitlines()[0]}") from None
    try:
        typed = half_products(model) if precision == "fp16" else model
        return simplified(typed).SerializeToString()
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
    known = api.targets(trt)
    if not known:
        if gpus != [CURRENT]:
            raise StageError("native TensorRT builds for the GPU at hand alone: use --gpu current")
        return
    config.num_compute_capabilities = len(gpus)
    for i, gpu in enumerate(gpus):
        if gpu != CURRENT:
            api.refuse_gpu(trt, gpu)
        config.set_compute_capability(getattr(trt.ComputeCapability, gpu.upper()), i)


@contextmanager
def _timing_cache(trt: Any, config: Any, path: Path) -> Iterator[None]:
    """Kernels measured in a build are not measured again in the next one, also when several builds end at a time."""
    if api.targets(trt):  # TensorRT-RTX times nothing at build, its cache is empty and deprecated
        yield
        return
    for content in (_content(path), b""):  # a damaged one is begun anew
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            break
    yield
    measured = config.get_timing_cache()
    # Where it cannot be written the engine cannot either, which its own writer tells.
    with suppress(OSError), engine_cache.locked(path.parent):
        meanwhile = config.create_timing_cache(_content(path))
        if meanwhile is not None:
            measured.combine(meanwhile, ignore_mismatch=False)
        engine_cache.write_whole(path, bytes(memoryview(measured.serialize())))


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() and path.stat().st_size <= _MOST_TIMING else b""


@contextmanager
def _gpu_alone(trt: Any, gpus: list[str]) -> Iterator[None]:
    """One builder at a time where kernels are timed on a GPU: two would time each other, and fill a small machine."""
    if api.targets(trt) and gpus != [CURRENT]:
        yield
        return
    with (Path(tempfile.gettempdir()) / f"ofer-build-{os.getuid()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
