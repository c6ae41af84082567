"""Figures of a landmark network as a robot would run it: an ONNX file, in float or in 8 bits, beside MediaPipe's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ofer_models.perception.encoder_inputs import crop_blob
from ofer_models.perception.landmark_crop import HALF, INPUT
from ofer_models.perception.landmarks import FaceLandmarker, Roi
from ofer_models.perception.point_fusion import PointEstimate, fuse
from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.workshop.errors import EvaluationError
from ofer_models.workshop.networks.landmarks import LandmarkNetwork
from ofer_models.workshop.pictures.people import dataset
from ofer_models.workshop.train.eyes.batches import plain
from ofer_models.workshop.train.eyes.faces import Faces, load_faces
from ofer_models.workshop.train.eyes.stage import export_stage, quantize_stage
from ofer_models.workshop.train.eyes.training import NETWORK, load_network
from ofer_models.workshop.train.eyes.validation import eyes_apart, face_figures, follow, rendering_figures

_REPEATS = 41


@dataclass(frozen=True)
class Results:
    """Figures by name of "fp32", "int8", "mediapipe" and "fused"; and what was trained and measured on."""

    figures: dict[str, dict[str, float]]
    about: dict[str, Any]


def measure(work: Path, photographs: Sequence[Path] = ()) -> Results:
    """Measure the network in a working folder of `ofer train eyes`; writes it there as ONNX files.

    Raises EvaluationError where nothing has been trained, and DataError where pictures are missing or the
    network is none.
    """
    if not (work / NETWORK).is_file():
        raise EvaluationError(f"{work / NETWORK} is not there: `ofer train eyes --work {work}` makes it")
    network = LandmarkNetwork()
    learned = load_network(network, work / NETWORK)
    pictures = dataset.load(work / "held_out", dataset.drawn(work / "held_out"))
    crops, true = (value.numpy() for value in plain(pictures, np.arange(len(pictures)))[:2])
    true = true * HALF + (INPUT - 1) / 2
    paths = export(network, work, crops)
    faces = load_faces(photographs) if photographs else None
    figures: dict[str, dict[str, float]] = {}
    for name, path in paths.items():
        stage = OnnxStage(path)
        figures[name] = rendering_figures(*_run(stage, crops), true, pictures.visible) | _milliseconds(stage, crops)
        if faces:
            points, deviation = follow(partial(_run, stage), faces)
            figures[name] |= face_figures(points, faces)
            if name == "fp32":
                figures["fused"] = face_figures(_fused(points, deviation, faces), faces)
    figures["mediapipe"] = _mediapipe(pictures) | (face_figures(faces.points, faces) if faces else {})
    about = {
        **learned, "held_out": len(pictures),
        "faces": len(faces) if faces else 0, "megabytes": {n: p.stat().st_size / 1e6 for n, p in paths.items()},
    }  # fmt: skip
    return Results(figures, about)


def export(network: LandmarkNetwork, folder: Path, crops: np.ndarray) -> dict[str, Path]:
    """The network as ONNX files, in float32 and as a bundle has it, in 8 bits; crops (n, 128, 128, 3) give these their
    ranges."""
    paths = {"fp32": folder / "landmarks.onnx", "int8": folder / "landmarks.int8.onnx"}
    export_stage(network, paths["fp32"])
    quantize_stage(paths["fp32"], crops, paths["int8"])
    return paths


def _fused(points: np.ndarray, deviation: np.ndarray, faces: Faces) -> np.ndarray:
    """Points (n, 478, 2) as the pipeline makes them of the network's and MediaPipe's."""
    rows = zip(points, deviation, faces.points, strict=True)
    return np.stack([fuse(seen, PointEstimate(own, wide, np.ones(len(own)))).points for own, wide, seen in rows])


def _run(stage: OnnxStage, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, deviations and probabilities of being seen, one crop a call as on a robot."""
    rows = [stage(crop128=crop_blob(crop[None])) for crop in crops]
    return tuple(np.concatenate([row[name] for row in rows]) for name in ("points", "deviation", "visible"))


def _milliseconds(stage: OnnxStage, crops: np.ndarray) -> dict[str, float]:
    """Median of processor time for one face on one thread, so that a busy machine counts little."""
    taken = []
    for index in range(_REPEATS):
        crop = crop_blob(crops[[index % len(crops)]])
        started = time.process_time()
        stage(crop128=crop)
        taken.append(1000 * (time.process_time() - started))
    return {"ms": statistics.median(taken)}


def _mediapipe(pictures: dataset.PeopleSet) -> dict[str, float]:
    """MediaPipe's errors on the renderings where it finds a face, given the region of the true points."""
    landmarker = FaceLandmarker()
    found, rows, taken = [], [], []
    for index in range(len(pictures)):
        own = pictures.points[index, :468]
        low, high = own.min(0), own.max(0)
        roi = Roi(*((low + high) / 2), 1.5 * float((high - low).max()), 0.0)
        rgb = np.ascontiguousarray(pictures.image(index))
        started = time.process_time()
        result = landmarker.locate(rgb, roi)
        taken.append(1000 * (time.process_time() - started) / 2)  # two passes
        if result is not None:
            found.append(result.points[:, :2])
            rows.append(index)
    true, seen, points = pictures.points[rows], pictures.visible[rows], np.array(found)
    error = 100 * np.linalg.norm(points - true, axis=-1) / np.median(eyes_apart(pictures.points))
    return {
        "visible_mean": float(error[seen].mean()), "visible_median": float(np.median(error[seen])),
        "hidden_mean": float(error[~seen].mean()), "hidden_median": float(np.median(error[~seen])),
        "found": len(rows) / len(pictures), "ms": statistics.median(taken),
    }  # fmt: skip
