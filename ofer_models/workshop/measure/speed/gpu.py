"""`ofer bench --gpu`: every way onto an NVIDIA GPU, in one run and one JSON, each compared with fp32 on the CPU first.

    torch fp16, torch            compiled and captured as CUDA graphs
    tensorrt                     native or RTX, whichever is installed; engines are built here
    onnxruntime CUDA             where the installed build has that provider

What cannot run says why and the rest goes on: a GPU that TensorRT-RTX does not know runs torch alone.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.bundle.tensors import StageError
from ofer_models.pipeline import FacePipeline
from ofer_models.pipeline_settings import PipelineSettings
from ofer_models.runtime.interface import Backend
from ofer_models.runtime.onnxruntime_backend import CUDA, OnnxRuntimeBackend
from ofer_models.runtime.stages import StageSet
from ofer_models.workshop.measure.speed import bench

WANTED = {"ms_a_face_of_1": 3.0, "ms_a_face_of_8": 1.0, "contexts": 2e-2, "vertices": 1e-2}
_MOST_FACES = max(bench.FACES)


@dataclass(frozen=True)
class Way:
    """A way onto the GPU. open: gives the backend, or raises StageError (why not); half: in half precision."""

    name: str
    open: Callable[[], Backend]
    half: bool


def ways(bundle: Bundle, say: bench.Say) -> list[Way]:
    """All there are, half precision first."""
    return [
        Way("torch fp16", lambda: _torch(True), True),
        Way("tensorrt", lambda: _tensorrt(bundle, say), True),
        Way("torch", lambda: _torch(False), False),
        Way("onnxruntime CUDA", _onnxruntime, False),
    ]


def run(
    bundle: Bundle,
    repeats: int = 15,
    say: bench.Say = print,
    keep: Callable[[dict[str, Any]], None] = lambda figures: None,
    chosen: list[Way] | None = None,
) -> dict[str, Any]:
    """`reference` (fp32 on the CPU, ms of one face's stages) and `runtimes`: name -> figures, or why it did not run.

    keep: gets what there is after each. Raises StageError where nothing ran, or results are apart.
    """
    figures: dict[str, Any] = {
        "machine": bench.describe_host(), "bundle": f"{bundle.name} {bundle.version}", "wanted": WANTED, "runtimes": {},
    }  # fmt: skip
    say("fp32 on the CPU")
    reference = StageSet(bundle, backend=OnnxRuntimeBackend(providers=["CPUExecutionProvider"]))
    expected, figures["reference"] = {}, {}
    for name, (call, output) in bench.calls_of(bundle, reference).items():
        expected[name] = output(call())
        figures["reference"][name] = bench.median_ms(call, min(repeats, 3))
    keep(figures)
    found = figures["runtimes"]
    for way in chosen or ways(bundle, say):
        say(way.name)
        try:
            backend = way.open()
        except StageError as error:
            found[way.name] = {"not_run": str(error)}
        else:
            found[way.name] = measured(bundle, way, backend, expected, repeats, say)
        keep(figures)
    if all("not_run" in one for one in found.values()):
        reasons = "; ".join(f"{name}: {one['not_run']}" for name, one in found.items())
        raise StageError(f"nothing ran on a GPU ({reasons})")
    return figures


def measured(
    bundle: Bundle, way: Way, backend: Backend, expected: dict[str, np.ndarray], repeats: int, say: bench.Say
) -> dict[str, Any]:
    """One way's figures: differences from the reference (of the largest value; vertices in mm and of the largest
    movement), ms of stages and frames, seconds of the warm-up, memory.
    """
    settings = PipelineSettings(max_faces=_MOST_FACES, backend=backend, background=True, latency_bound=50.0)
    pipeline = FacePipeline(bundle, settings)
    stages = pipeline._stages
    try:
        started = time.perf_counter()
        pipeline.warm_up(say)
        figures: dict[str, Any] = {"backend": stages.backend, "warm_up_s": time.perf_counter() - started}
        figures["differences"] = differences = {}
        calls = bench.calls_of(bundle, stages)
        for name, (call, output) in calls.items():
            result, first = output(call()), expected[name]
            differences[name] = float(np.abs(result - first).max() / np.abs(first).max())
            if name == "expgen":
                differences |= bench.meshes_apart(bundle, first[0], result[0])
        told = {"vertices_mm", *bench.eight_bit_stages(bundle)}
        apart = {name: value for name, value in differences.items() if name not in told}
        worst = max(apart, key=lambda name: apart[name] if np.isfinite(apart[name]) else np.inf)
        if not apart[worst] <= (bench.HALF_TOLERANCE if way.half else bench.TOLERANCE):
            raise StageError(f"{worst} on {way.name} differs from fp32 on the CPU by {apart[worst]:.2g} of the largest")
        figures["stages_ms"] = {name: bench.median_ms(call, repeats) for name, (call, _) in calls.items()}
        figures["networks_ms_per_face"] = {
            str(faces): bench.networks_ms(bundle, stages, faces, repeats) for faces in bench.BATCHES
        }
        for title, drawing in (("frame_ms", False), ("frame_ms_while_identities_are_drawn", True)):
            figures[title] = {
                str(faces): _frame_ms(pipeline, faces, repeats, drawing) for faces in bench.FACES
            }
        figures["gpu_memory_mb"] = pipeline.gpu_memory / 2**20
        return figures
    finally:
        pipeline.close()


def _frame_ms(pipeline: FacePipeline, faces: int, repeats: int, drawing: bool) -> float:
    """Median ms of a frame after detection. drawing: identities are gathered anew before every frame, so that they are
    drawn on the other thread all the time."""
    pipeline.reset()
    pipeline._perception.frontend = bench.StillFaces(faces)
    frame = np.random.default_rng(0).integers(0, 255, (*bench.FRAME, 3), dtype=np.uint8)
    stamp = 0.0

    def once() -> None:
        nonlocal stamp
        stamp += 1 / 30
        if drawing:
            pipeline.reset_identity()
        found = pipeline(frame, stamp)
        if len(found) != faces:
            raise StageError(f"{faces} faces went in, {len(found)} came out")

    for _ in range(5):
        once()
    return bench.median_ms(once, repeats)


def _torch(half: bool) -> Backend:
    if not importlib.util.find_spec("torch"):
        raise StageError("torch is not installed: `make train-env`")
    import torch

    if not torch.cuda.is_available():
        raise StageError(f"torch {torch.__version__} finds no GPU")
    from ofer_models.runtime.torch.backend import TorchBackend

    return TorchBackend(half=half)


def _tensorrt(bundle: Bundle, say: bench.Say) -> Backend:
    from ofer_models.runtime.tensorrt.backend import TensorRtBackend, here
    from ofer_models.workshop.compile import build

    here()  # no GPU, no TensorRT, or a TensorRT that does not know the GPU: before anything is built
    say("building engines")
    order = build.Order(bundle, faces=(1, _MOST_FACES))
    build.build(order, lambda graph, doing, share: say(f"{graph}: {doing}"))
    return TensorRtBackend.here(bundle.path)


def _onnxruntime() -> Backend:
    backend = OnnxRuntimeBackend()
    if backend.providers[0] != CUDA:
        raise StageError("the installed ONNX Runtime has no CUDA provider: `pip install onnxruntime-gpu`")
    return backend
