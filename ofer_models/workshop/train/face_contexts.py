"""Contexts of faces by a bundle's own encoders: of renderings, or of somebody's photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ofer_models.bundle.graphs import graph_specs
from ofer_models.bundle.manifest import HEAD, Bundle
from ofer_models.perception.encoder_inputs import crop_blob, encoder_inputs
from ofer_models.runtime.onnxruntime_backend import OnnxRuntimeBackend, OnnxStage
from ofer_models.workshop.bundle_writer import Provenance
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.pictures import dataset
from ofer_models.workshop.train.accelerator import Accelerator
from ofer_models.workshop.train.regressor.faces import photographed_faces

ENCODERS = {"expgen": "expression_context", "idgen": "identity_context"}
_RENDERED = {"landmarks", "crop112"}  # what renderings are kept with
_BATCH = 50
_ORIGIN = "distilled from the bundle's own network by `ofer train distil`"


def rendered_contexts(
    bundle: Bundle, stage: str, folder: Path, count: int, *, seed: int, workers: int, accelerator: Accelerator,
    progress: Callable,
) -> tuple[np.ndarray, Provenance]:  # fmt: skip
    """Contexts (n, C) of `count` renderings of the bundle's head, drawn into `folder` where they are not there yet.

    Raises DataError for an encoder that renderings are not kept for.
    """
    encoder = _encoder(bundle, stage)
    if set(encoder.inputs) - _RENDERED:
        raise DataError(f"{ENCODERS[stage]} of {bundle.path} needs photographs: give a folder of them with --data")
    if accelerator.main:
        dataset.generate(bundle.path / HEAD, folder, count, seed=seed, workers=workers, progress=progress)
    accelerator.wait()
    contexts = []
    for shard in range(-(-count // dataset.SHARD)):
        pictures = dataset.load(folder, shards=slice(shard, shard + 1))
        for start in range(0, len(pictures), _BATCH):
            some = pictures[start : start + _BATCH]
            seen = {"landmarks": some.landmarks.astype(np.float32), "crop112": crop_blob(some.crop)}
            contexts.append(encoder(**{name: seen[name] for name in encoder.inputs})["context"])
    return np.concatenate(contexts), Provenance(f"{_ORIGIN}, on renderings of its head", "Apache-2.0", True)


def photographed_contexts(
    bundle: Bundle, stage: str, folder: Path, *, progress: Callable, say: Callable[[str], None]
) -> tuple[np.ndarray, Provenance]:
    """Contexts (n, C) of the largest face of each photograph in a folder."""
    encoder = _encoder(bundle, stage)
    contexts = [
        encoder(**encoder_inputs(rgb, points[None], encoder.inputs))["context"]
        for rgb, points in photographed_faces(folder, progress, say)
    ]
    if not contexts:
        raise DataError(f"{folder}: no face is found")
    return np.concatenate(contexts), Provenance(f"{_ORIGIN}, on {folder.name}", "that of the pictures", False)


def _encoder(bundle: Bundle, stage: str) -> OnnxStage:
    return OnnxRuntimeBackend(1).load(graph_specs(bundle.stages[ENCODERS[stage]])["graph"])
