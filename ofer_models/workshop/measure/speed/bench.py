"""`ofer bench`: everything timed in one run on one machine, medians, and only after its results were compared.

    samplers   ours at the bundle's steps, in official sizes, against the plain 1000-step reference, one thread
    stages     each graph and sampler of the bundle, on each runtime that is present, with one and two threads
    frames     all that follows detection (contexts, hypotheses, weights, pose, mesh) for 1, 2, 4 and 8 faces

Speedups need torch, for the reference; without it they are left out.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ofer_models.bundle.manifest import REGRESSOR, Bundle
from ofer_models.bundle.tensors import StageError
from ofer_models.perception.crops import box_of, canonical_face
from ofer_models.perception.tracker import Track
from ofer_models.pipeline import FacePipeline
from ofer_models.runtime import engine_cache
from ofer_models.runtime.backend import Backend, open_backend
from ofer_models.runtime.memory import resident_megabytes
from ofer_models.runtime.solvers import SolverTable, solver_table, stage_table
from ofer_models.runtime.stages import StageSet

FACES = (1, 2, 4, 8)
THREADS = (1, 2)
TOLERANCE = 1e-3  # of the largest value, after 1000 steps in float32
HALF_TOLERANCE = 0.05  # the same, after the bundle's steps in half precision
BATCHES = (1, 8)
FRAME = (720, 1280)
_FACE_WIDTH = 140  # px


@dataclass(frozen=True)
class Official:
    """An official sampler: coefficients, widths of the levels, context, and samples a face."""

    coefficients: int
    widths: tuple[int, ...]
    context: int
    samples: int


OFFICIAL = {"expgen": Official(53, (53, 25, 10), 1024, 15), "idgen": Official(300, (300, 50, 10), 512, 100)}


@dataclass(frozen=True)
class Runtime:
    """A way to run the stages. tolerance: of the largest value, beyond which its results are wrong."""

    name: str
    open: Callable[[int], Backend]
    tolerance: float
    threads: tuple[int, ...] = THREADS


Say = Callable[[str], None]


def run(
    bundle: Bundle,
    backend: str = "auto",
    repeats: int = 15,
    reference: bool = True,
    say: Say = print,
    keep: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> dict[str, Any]:
    """All figures, times in milliseconds. backend: of the frames; keep: gets what there is after each part.

    Raises BundleError where it cannot run, and StageError when two implementations that should agree do not.
    """
    figures: dict[str, Any] = {"machine": describe_host(), "bundle": f"{bundle.name} {bundle.version}"}
    memory = {"start": resident_megabytes()}
    say("frames")
    figures |= frames(bundle, backend, repeats)
    memory["pipeline"] = resident_megabytes()
    keep(figures)
    say("stages")
    for part in stages(bundle, repeats, say):
        figures |= part
        keep(figures)
    if reference and importlib.util.find_spec("torch"):
        for name, official in OFFICIAL.items():
            spec = bundle.stages[name]
            table = stage_table(spec.usual)
            say(f"{name} against 1000 plain steps")
            figures |= speedup(name, official, table, repeats, say)
            keep(figures)
    memory["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures | {"memory_mb": memory}


def speedup(
    name: str, official: Official, table: SolverTable, repeats: int, say: Say = print, reference_runs: int = 1
) -> dict[str, Any]:
    """`<name>_ms`, `<name>_reference_ms`, `<name>_speedup` and more on one thread, with random weights.

    Before anything is timed, the reference's 1000 steps are compared with our graphs on the same table and noise.
    `..._cpu`: by processor time instead of the clock, which holds on a machine that does other work besides.
    """
    import torch

    from ofer_models.bundle.tensors import GraphSpec
    from ofer_models.runtime.onnxruntime_backend import OnnxRuntimeBackend
    from ofer_models.workshop.measure.speed import reference
    from ofer_models.workshop.networks.denoiser import Denoiser
    from ofer_models.workshop.networks.export import export_sampler

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        net = Denoiser(official.coefficients, official.widths, official.context).eval()
        plain = reference.PlainDenoiser(net.official_state_dict(), official.widths)
        with tempfile.TemporaryDirectory() as folder:
            files = export_sampler(net, folder, name)
            sampler = OnnxRuntimeBackend(1).sampler(GraphSpec(files["cond"]), GraphSpec(files["step"]))
        rng = np.random.default_rng(0)
        context = rng.standard_normal((1, official.context), dtype=np.float32)
        noise = rng.standard_normal((1, official.samples, official.coefficients), dtype=np.float32)
        plain(torch.from_numpy(noise[0]), torch.full((official.samples,), 500), torch.from_numpy(context).repeat(
            official.samples, 1))  # fmt: skip
        full = solver_table("ddpm", 1000)
        started = time.perf_counter()
        ours_full = sampler.sample(context, noise, full, np.random.default_rng(1))[0]
        full_ms = 1000 * (time.perf_counter() - started)
        taken = []
        computed = time.process_time()
        for _ in range(reference_runs):
            started = time.perf_counter()
            expected = reference.sample(plain, context[0], noise[0], np.random.default_rng(1))
            taken.append(1000 * (time.perf_counter() - started))
            difference = float(np.abs(ours_full - expected).max() / np.abs(expected).max())
            if not difference <= TOLERANCE:
                raise StageError(f"{name}: 1000 steps differ from the reference by {difference:.2g} of the largest")
        reference_ms = statistics.median(taken)
        reference_cpu_ms = 1000 * (time.process_time() - computed) / reference_runs
        ours_ms = median_ms(lambda: sampler.sample(context, noise, table), repeats)
        ours_cpu_ms = median_ms(lambda: sampler.sample(context, noise, table), repeats, time.process_time)
    finally:
        torch.set_num_threads(threads)
    say(f"  {name}: {reference_ms:.0f} ms, ours {ours_ms:.2f} ms, equal to {difference:.1g}")
    return {
        f"{name}_speedup": reference_ms / ours_ms, f"{name}_ms": ours_ms, f"{name}_reference_ms": reference_ms,
        f"{name}_cpu_ms": ours_cpu_ms, f"{name}_speedup_cpu": reference_cpu_ms / ours_cpu_ms,
        f"{name}_1000_steps_ms": full_ms, f"{name}_steps": len(table.timesteps), f"{name}_samples": official.samples,
        f"{name}_difference": difference,
    }  # fmt: skip


def runtimes(bundle: Bundle) -> list[Runtime]:
    """What may be present here, float32 on ONNX Runtime first."""
    from ofer_models.runtime.onnxruntime_backend import OnnxRuntimeBackend

    def torch_with(half: bool) -> Callable[[int], Backend]:
        def backend(threads: int) -> Backend:
            from ofer_models.runtime.torch.backend import TorchBackend

            return TorchBackend(threads, half)

        return backend

    found = [Runtime("onnxruntime", OnnxRuntimeBackend, TOLERANCE)]
    if engine_cache.entries(bundle.path, [engine_cache.INT8_SUFFIX]):
        # Ranges are those of faces, not of the numbers here; `ofer build` has judged it with faces.
        int8 = Runtime("onnxruntime int8", lambda threads: OnnxRuntimeBackend(threads, int8_from=bundle.path), np.inf)
        found.append(int8)
    found.append(Runtime("tensorrt", lambda threads: open_backend("tensorrt", bundle), HALF_TOLERANCE, THREADS[:1]))
    on_gpu = _torch_finds_gpu()
    found.append(Runtime("torch", torch_with(False), TOLERANCE, THREADS[:1] if on_gpu else THREADS))
    if on_gpu:
        found.append(Runtime("torch fp16", torch_with(True), HALF_TOLERANCE, THREADS[:1]))
    return found


def stages(bundle: Bundle, repeats: int, say: Say = print) -> Iterator[dict[str, Any]]:
    """After each runtime what there is up to then:

    `stages`, median ms of one face's call: stage -> runtime -> threads; `networks_ms_per_face`, the networks of a frame
    (expression context and ExpGen) in batches of 1 and 8 faces: runtime -> faces, one thread; `differences`, from the
    first runtime's results, of the largest value: runtime -> stage, and `vertices` and `vertices_mm` of ExpGen's meshes
    (of the largest movement, and the largest in mm).

    Results are compared before they are timed (StageError where they are apart by more than the runtime's tolerance,
    unless the stage is one of `eight_bit_stages`).
    """
    figures: dict[str, Any] = {name: {} for name in bundle.stages}
    per_face: dict[str, dict[str, float]] = {}
    differences: dict[str, dict[str, float]] = {}
    expected: dict[str, np.ndarray] = {}
    present, rounded = runtimes(bundle), eight_bit_stages(bundle)
    for runtime in present:
        for threads in runtime.threads:
            try:
                loaded = StageSet(bundle, backend=runtime.open(threads), names=tuple(bundle.stages))
            except ValueError as error:  # not installed, no GPU, nothing built
                say(f"  without {runtime.name}: {error}")
                break
            calls = calls_of(bundle, loaded)
            for name, (call, output) in calls.items():
                found = output(call())
                first = expected.setdefault(name, found)
                apart = float(np.abs(found - first).max() / np.abs(first).max())
                if name not in rounded and not apart <= runtime.tolerance:
                    raise StageError(f"{name} on {runtime.name} differs from {present[0].name} by {apart:.2g}")
                if runtime is not present[0]:
                    differences.setdefault(runtime.name, {})[name] = apart
                    if name == "expgen":
                        differences[runtime.name] |= meshes_apart(bundle, first[0], found[0])
            # The reference is slow on a CPU, and no product.
            count = min(repeats, 5) if runtime.name == "torch" and len(runtime.threads) > 1 else repeats
            for name, (call, _) in calls.items():
                figures[name].setdefault(runtime.name, {})[str(threads)] = median_ms(call, count)
            if threads == 1:
                per_face[runtime.name] = {str(faces): networks_ms(bundle, loaded, faces, count) for faces in BATCHES}
            loaded.close()
        yield {"stages": figures, "networks_ms_per_face": per_face, "differences": differences}


def frames(bundle: Bundle, backend: str, repeats: int) -> dict[str, Any]:
    """`frame_ms` by number of faces, everything after detection, `frame_cpu_ms` the same by processor time, and
    `frame_stages_ms` of one face.
    """
    frame_ms, frame_cpu_ms, parts, used = {}, {}, {}, ""
    for faces in FACES:
        pipeline = FacePipeline(bundle, max_faces=faces, backend=backend)
        pipeline._perception.frontend = StillFaces(faces)  # the camera's part: finding faces is not what is timed here
        frame = np.random.default_rng(0).integers(0, 255, (*FRAME, 3), dtype=np.uint8)
        stamp = 0.0

        def once(pipeline: FacePipeline = pipeline, frame: np.ndarray = frame) -> int:
            nonlocal stamp
            stamp += 1 / 30
            found = pipeline(frame, stamp)
            return len([pipeline.vertices(face) for face in found])

        for _ in range(3):  # the first frame draws identities, which are kept
            if once() != faces:
                raise StageError(f"{faces} faces went in, others came out")
        collected: list[dict[str, float]] = []

        def noted(once: Callable[[], int] = once, pipeline: FacePipeline = pipeline, into: list = collected) -> None:
            once()
            into.append(pipeline.timings)

        frame_ms[str(faces)] = median_ms(noted, repeats)
        frame_cpu_ms[str(faces)] = median_ms(once, repeats, time.process_time)
        if faces == 1:
            names = set().union(*collected) - {"perception", "total"}
            parts = {name: statistics.median(timing.get(name, 0.0) for timing in collected) for name in sorted(names)}
        used = pipeline._stages.backend
        pipeline.close()
    return {"frame_ms": frame_ms, "frame_cpu_ms": frame_cpu_ms, "frame_stages_ms": parts, "backend": used}


def median_ms(call: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of a call in ms, after two that warm it up; clock time.process_time: of the processor."""
    for _ in range(2):
        call()
    taken = []
    for _ in range(repeats):
        started = clock()
        call()
        taken.append(clock() - started)
    return 1000 * statistics.median(taken)


def describe_host() -> dict[str, Any]:
    """What it ran on: processor, cores, load, memory, GPU, versions."""
    import onnxruntime

    from ofer_models.runtime.tensorrt.cuda_driver import current_gpu

    try:
        gpu = current_gpu().name
    except StageError:
        gpu = "none"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2), "gpu": gpu, "system": platform.platform(),
        "python": platform.python_version(), "onnxruntime": onnxruntime.__version__, "numpy": np.__version__,
    }  # fmt: skip


def _torch_finds_gpu() -> bool:
    if not importlib.util.find_spec("torch"):
        return False
    import torch

    return torch.cuda.is_available()


def meshes_apart(bundle: Bundle, expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """How far two runtimes' hypotheses (H, E + 3) are apart as meshes of the mean head."""
    head, shape = bundle.head, np.zeros(bundle.n_shape)
    both = [head.decode(shape, drawn[:, : bundle.n_expression], drawn[:, bundle.n_expression :])
            for drawn in (expected, found, np.zeros_like(expected))]  # fmt: skip
    apart, moved = (float(np.linalg.norm(both[0] - other, axis=-1).max()) for other in both[1:])
    return {"vertices": apart / moved, "vertices_mm": 1000 * apart}


def networks_ms(bundle: Bundle, loaded: StageSet, faces: int, repeats: int) -> float:
    """Median ms a face of expression context and ExpGen in one batch of faces."""
    calls = calls_of(bundle, loaded, faces)
    both = [calls[name][0] for name in ("expression_context", "expgen")]
    return median_ms(lambda: [call() for call in both], repeats) / faces


def eight_bit_stages(bundle: Bundle) -> list[str]:
    """Stages whose graphs ONNX Runtime calculates in 8 bits and other runtimes in floats: their ranges are those of
    faces, so that random numbers say nothing of how far apart the two are."""
    return [
        name for name, stage in bundle.stages.items()
        if any(b"QuantizeLinear" in path.read_bytes() for path in stage.files.values())
    ]  # fmt: skip


def calls_of(
    bundle: Bundle, loaded: StageSet, faces: int = 1
) -> dict[str, tuple[Callable[[], Any], Callable[[Any], np.ndarray]]]:
    """Stage -> a call on random data, and how to read an array from what it returns."""
    rng = np.random.default_rng(0)
    sizes = {"F": faces, "N": bundle.candidates}
    calls: dict[str, Any] = {}
    for name in bundle.stages:
        stage = getattr(loaded, name)
        if stage is None:  # not asked for
            continue
        if name == REGRESSOR:
            stage = stage.stage
        if bundle.stages[name].kind == "sampler":
            count = bundle.hypotheses if name == "expgen" else bundle.candidates
            context = rng.standard_normal((faces, int(stage.spec.inputs["context"][-1])), dtype=np.float32)
            noise = rng.standard_normal((faces, count, stage.n_coefficients), dtype=np.float32)
            calls[name] = (
                lambda s=stage, c=context, n=noise: s(c, n, np.random.default_rng(0)), lambda result: result
            )  # fmt: skip
        else:
            arrays = {
                tensor: rng.standard_normal([sizes.get(dim, dim) for dim in dims], dtype=np.float32)
                for tensor, dims in stage.inputs.items()
            }
            first = next(iter(stage.outputs))
            calls[name] = (lambda s=stage, a=arrays: s(**a), lambda result, first=first: result[first])
    return calls


class StillFaces:
    """In the place of the face finder: the canonical face, seen from the front, several times side by side."""

    def __init__(self, faces: int) -> None:
        points = canonical_face().astype(np.float32)
        points = points * (_FACE_WIDTH / float(np.ptp(points[:, 0])))
        columns = min(faces, 4)
        self._tracks = []
        for i in range(faces):
            centre = (FRAME[1] * (i % columns + 0.5) / columns, FRAME[0] * (0.3 + 0.4 * (i // columns)), 0.0)
            here = (points - points.mean(0) + np.array(centre)).astype(np.float32)
            self._tracks.append(Track(f"f{i + 1}", box_of(here), here, np.zeros(2), 1.0, 1.0, 0.0, True))

    def __call__(self, frame: np.ndarray, stamp: float) -> list[Track]:
        return self._tracks

    def reset(self) -> None:
        """Nothing to forget."""
