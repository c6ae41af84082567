"""`ofer build --backend onnxruntime --precision int8`: the encoders of a bundle quantized, where that is good and pays.

Which faces the camera shows decides the ranges, so they come from pictures of the user's: half of the faces found give
the ranges, the other half judge the result. What is not good or not faster is not kept.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofer_models.bundle.graphs import graph_specs
from ofer_models.bundle.manifest import Bundle
from ofer_models.bundle.tensors import GraphSpec, StageError
from ofer_models.files.hashing import sha256_of
from ofer_models.runtime import engine_cache, onnxruntime_backend
from ofer_models.runtime.engine_cache import EngineKey
from ofer_models.workshop.compile.quantize import Arrays, Verdict, judge, quantized

PRECISION = "int8"
LEAST_FACES = 8
_CROPS = {"crop112", "crop112_bgr", "crop224"}  # graphs without one are small, and the landmark network is in 8 bits

Progress = Callable[[str, str, float], None]  # graph, what is being done, share done 0..1


@dataclass(frozen=True)
class Quantized:
    """One graph's outcome; path is None where the original is better, and the verdict says why."""

    graph: str
    path: Path | None
    verdict: Verdict
    seconds: float
    size: int


def encoder_graphs(bundle: Bundle) -> dict[str, GraphSpec]:
    """The graphs that see pictures, by stage."""
    return {
        name: graph_specs(stage)["graph"]
        for name, stage in bundle.stages.items()
        if stage.kind == "graph" and _CROPS & stage.inputs.keys()
    }


def build(
    bundle: Bundle, pictures: Sequence[str], stages: Sequence[str] = (), progress: Progress = lambda *_: None
) -> list[Quantized]:
    """Quantize the encoders (those of `stages`, if any are named) with faces from pictures (files, folders, patterns).

    Raises StageError: a stage that is no encoder, too few faces, a graph that cannot be quantized.
    """
    graphs = encoder_graphs(bundle)
    unknown = sorted(set(stages) - graphs.keys())
    if unknown:
        raise StageError(f"no encoder {', '.join(unknown)}; int8 is for {', '.join(graphs)}")
    chosen = {name: graph for name, graph in graphs.items() if not stages or name in stages}
    names = {name for graph in chosen.values() for name in graph.inputs or ()}
    faces = find_faces(bundle, pictures, names)
    return [_build_one(bundle, graph, faces, progress) for graph in chosen.values()]


def find_faces(bundle: Bundle, pictures: Sequence[str], names: set[str]) -> list[dict[str, np.ndarray]]:
    """Named inputs of encoders, one face an entry, of all faces found; head shapes `betas` are random.

    Raises StageError with the number where there are less than LEAST_FACES.
    """
    from ofer_models.perception.encoder_inputs import encoder_inputs
    from ofer_models.perception.frontend import FaceFrontend
    from ofer_models.perception.pictures import PictureError, read_picture
    from ofer_models.reconstruction.pictures import find_pictures

    files, problems, _ = find_pictures(pictures)
    if problems:
        raise StageError("; ".join(f"{name} {problem}" for name, problem in problems.items()))
    frontend, rng, shapes = FaceFrontend(16), np.random.default_rng(0), bundle.stages["idgen"]
    faces: list[dict[str, np.ndarray]] = []
    for file in files:
        try:
            rgb = read_picture(file)
        except PictureError as error:
            raise StageError(f"{file}: {error}") from None
        frontend.reset()
        for track in frontend(rgb, 0.0):
            if track.visible:
                faces.append(encoder_inputs(rgb, track.points[None], names - {"betas"}))
    if len(faces) < LEAST_FACES:
        found = f"{len(faces)} found in {len(files)} pictures"
        raise StageError(f"int8 needs --pictures with {LEAST_FACES} faces or more, of several people: {found}")
    if "betas" in names:
        drawn = rng.standard_normal((1, bundle.candidates, bundle.n_shape), dtype=np.float32)
        faces = [face | {"betas": shapes.raw(drawn).astype(np.float32)} for face in faces]
    return faces


def _build_one(bundle: Bundle, graph: GraphSpec, faces: Sequence[Arrays], progress: Progress) -> Quantized:
    started, folder, here = time.monotonic(), bundle.path, onnxruntime_backend.here()
    key = EngineKey(graph.path.name, sha256_of(graph.path), here.flavour, here.version, here.gpus, PRECISION, {})
    rows = [{name: face[name] for name in graph.inputs or ()} for face in faces]
    progress(key.graph, "quantizing", 0.0)
    content = quantized(graph.path, rows[::2], onnxruntime_backend.sums_exactly())
    progress(key.graph, "comparing with fp32", 0.5)
    with tempfile.TemporaryDirectory(prefix="ofer-int8-") as temporary:
        candidate = Path(temporary) / key.file_name
        candidate.write_bytes(content)
        verdict = judge(graph, GraphSpec(candidate, graph.inputs, graph.outputs), rows[1::2])
    seconds = time.monotonic() - started
    if verdict.refused:
        engine_cache.remove(folder, key)  # an earlier one, judged by other pictures
        progress(key.graph, "kept in fp32", 1.0)
        return Quantized(key.graph, None, verdict, seconds, len(content))
    parts = {"inputs": graph.inputs or {}, "outputs": graph.outputs or {}}
    bindings = {
        kind: {name: [size if isinstance(size, int) else -1 for size in dims] for name, dims in part.items()}
        for kind, part in parts.items()
    }
    try:
        path = engine_cache.write(folder, key, content, bindings, seconds)
    except OSError as error:
        raise StageError(f"{folder}: engines cannot be stored here ({error.strerror})") from None
    progress(key.graph, f"{seconds:.1f} s", 1.0)
    return Quantized(key.graph, path, verdict, seconds, len(content))
