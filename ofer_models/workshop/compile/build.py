"""`ofer build`: the graphs of a bundle compiled by TensorRT, in parallel, into the cache beside the bundle."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofer_models.bundle.graphs import all_graphs
from ofer_models.bundle.manifest import Bundle
from ofer_models.bundle.tensors import GraphSpec, StageError
from ofer_models.files.hashing import sha256_of
from ofer_models.runtime import engine_cache
from ofer_models.runtime.engine_cache import EngineKey
from ofer_models.runtime.tensorrt import api
from ofer_models.workshop.compile.tensorrt_builder import CURRENT, PRECISIONS, BuildJob

# Largest numbers of samples and steps that the node's parameters allow.
_MOST_HYPOTHESES, _MOST_CANDIDATES, _MOST_STEPS = 64, 512, 1000
_REPOSITORY = Path(__file__).resolve().parents[3]

Progress = Callable[[str, str, float], None]  # graph, what is being done, share done 0..1


@dataclass(frozen=True)
class Order:
    """What to build of a bundle. faces: least and most in a batch; stages: names, none for all; force: also engines
    that are there and fit.
    """

    bundle: Bundle
    precision: str = "fp16"
    faces: tuple[int, int] = (1, 8)
    gpus: tuple[str, ...] = (CURRENT,)
    stages: tuple[str, ...] = ()
    jobs: int = 1
    force: bool = False


@dataclass(frozen=True)
class Built:
    """One graph's outcome: the engine's file, seconds of the build, bytes, and layers of the network before TensorRT
    fuses them; seconds and layers are 0 where it was there.
    """

    graph: str
    path: Path
    seconds: float
    size: int
    layers: int = 0


def parse_faces(text: str) -> tuple[int, int]:
    """(1, 8) of '1..8' or '8'. Raises StageError."""
    found = re.fullmatch(r"(?:(\d+)\.\.)?(\d+)", text)
    low, high = (int(found[1] or 1), int(found[2])) if found else (0, 0)
    if not 1 <= low <= high <= 64:
        raise StageError(f"--batch {text!r} is no range of faces such as 1..8")
    return low, high


def build(order: Order, progress: Progress = lambda *_: None) -> list[Built]:
    """Build what is missing or does not fit. Raises StageError naming every graph that fails, after trying all."""
    if order.precision not in PRECISIONS:
        raise StageError(f"unknown precision {order.precision!r}, use one of {', '.join(PRECISIONS)}")
    unknown = sorted(set(order.stages) - order.bundle.stages.keys())
    if unknown:
        raise StageError(f"no stage {', '.join(unknown)}; there are {', '.join(order.bundle.stages)}")
    trt = api.load()
    version = trt.__version__
    gpus = filed_gpus(order.gpus, trt)
    wanted = [(key_of(order, graph, stage, trt.__name__, version, gpus), graph) for stage, graph in _graphs(order)]
    with ThreadPoolExecutor(jobs_of(order, trt)) as pool:
        futures = [pool.submit(_build_one, order, key, graph, progress) for key, graph in wanted]
        outcomes = [future.exception() or future.result() for future in futures]
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if failures:
        unexpected = [failure for failure in failures if not isinstance(failure, StageError)]
        if unexpected:
            raise unexpected[0]
        raise StageError("; ".join(_once(map(str, failures))))
    return [outcome for outcome in outcomes if isinstance(outcome, Built)]


def _once(messages: Iterable[str]) -> list[str]:
    """Messages without those that say of another graph what was said of one."""
    said: dict[str, str] = {}
    for message in messages:
        said.setdefault(message.partition(": ")[2] or message, message)
    return list(said.values())


def jobs_of(order: Order, trt: Any) -> int:
    """Graphs to build at a time: one where kernels are timed on a GPU."""
    timed = not api.targets(trt) or CURRENT in order.gpus
    return 1 if timed else max(1, order.jobs)


def key_of(order: Order, graph: GraphSpec, stage: str, flavour: str, version: str, gpus: tuple[str, ...]) -> EngineKey:
    """The key under which this order's engine of a graph is stored."""
    used = {dim for dims in graph.inputs.values() for dim in dims if isinstance(dim, str)}
    profile = {name: sizes for name, sizes in profile_of(order, stage).items() if name in used}
    return EngineKey(graph.path.name, sha256_of(graph.path), flavour, version, gpus, order.precision, profile)


def profile_of(order: Order, stage: str) -> dict[str, tuple[int, int, int]]:
    """Least, usual and largest size of every free dimension: faces F, samples N, steps K. Most of the work is done with
    as many faces as there can be, and as many samples and steps as the bundle wants.
    """
    bundle, (low, high) = order.bundle, order.faces
    usual = bundle.hypotheses if stage == "expgen" else bundle.candidates
    most = max(usual, _MOST_HYPOTHESES if stage == "expgen" else _MOST_CANDIDATES)
    steps = bundle.stages[stage].usual.steps or 1
    return {"F": (low, high, high), "N": (1, usual, most), "K": (1, steps, _MOST_STEPS)}


def profiles_of(sizes: Mapping[str, tuple[int, int, int]]) -> list[dict[str, tuple[int, int, int]]]:
    """Optimization profiles for a range of sizes: one for what occurs all the time, the fewest faces with no more
    samples and steps than usual, whose kernels need not serve hundreds of either; and one for the whole range.
    """
    low = {name: (least, least if name == "F" else usual) for name, (least, usual, _) in sizes.items()}
    small = {name: (least, usual, usual) for name, (least, usual) in low.items()}
    return [small, dict(sizes)] if small != dict(sizes) else [small]


def filed_gpus(gpus: Iterable[str], trt: Any) -> tuple[str, ...]:
    """GPUs as engines are filed under: `current` becomes this machine's, with its name where engines do not carry over
    to others of the same compute capability. Raises StageError where there is none, or TensorRT does not know it.
    """
    names = []
    for gpu in gpus:
        if gpu == CURRENT:
            from ofer_models.runtime.tensorrt.cuda_driver import current_gpu

            present = current_gpu()
            gpu = present.capability if api.targets(trt) else f"{present.capability} {present.name}"
            api.refuse_gpu(trt, present.capability)
        names.append(gpu)
    return tuple(sorted(set(names)))


def graphs_of(bundle: Bundle) -> dict[str, Path]:
    """Every graph of a bundle by file name."""
    return {name: graph.path for stage in bundle.stages.values() for name, graph in all_graphs(stage).items()}


def _graphs(order: Order) -> list[tuple[str, GraphSpec]]:
    stages = order.stages or tuple(order.bundle.stages)
    return [(stage, graph) for stage in stages for graph in all_graphs(order.bundle.stages[stage]).values()]


def _build_one(order: Order, key: EngineKey, graph: GraphSpec, progress: Progress) -> Built:
    folder = order.bundle.path
    for entry in () if order.force else engine_cache.entries(folder):
        if entry.path.name == key.file_name and not entry.refuse(graph.path):
            progress(key.graph, "is there", 1.0)
            return Built(key.graph, entry.path, 0.0, entry.size)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ofer-build-") as temporary:
        out = Path(temporary) / "engine"
        inputs, outputs = ({name: list(dims) for name, dims in part.items()} for part in (graph.inputs, graph.outputs))
        job = BuildJob(
            str(graph.path.resolve()), inputs, outputs, profiles_of(key.profile), order.precision, list(order.gpus),
            str(out), str(folder.resolve() / f".{key.flavour}-{key.version}.timing"),
        )  # fmt: skip
        last = _run(job, key.graph, progress)
        seconds = time.monotonic() - started
        plan = out.read_bytes()
    try:
        path = engine_cache.write(folder, key, plan, last["bindings"], seconds)
    except OSError as error:
        raise StageError(f"{folder}: engines cannot be stored here ({error.strerror})") from None
    progress(key.graph, f"{seconds:.1f} s", 1.0)
    return Built(key.graph, path, seconds, len(plan), last["layers"])


def _run(job: BuildJob, graph: str, progress: Progress) -> dict:
    """Run a job in its own process and return its last line."""
    command = [sys.executable, "-W", "ignore", "-m", "ofer_models.workshop.compile.tensorrt_builder"]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=_REPOSITORY
        )
        process.stdin.write(job.to_json())
        process.stdin.close()
        last: dict = {}
        for line in process.stdout:
            try:
                last = json.loads(line)
            except ValueError:
                continue  # something that a library printed
            if "phase" in last:
                progress(graph, last["phase"], min(last["done"] / max(last["of"], 1), 1.0))
        code = process.wait()
        errors.seek(0)
        said = [line for line in errors.read().splitlines() if line.strip()]
    if "error" in last:
        raise StageError(last["error"])
    if code or "bindings" not in last:
        raise StageError(f"{graph}: the builder ended with code {code}" + (f": {said[-1]}" if said else ""))
    return last
