"""A trained regressor into a bundle: the graph beside the others, and its entry in the manifest."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from ofer_models.bundle.manifest import REGRESSOR, Bundle
from ofer_models.bundle.regression import COEFFICIENTS, CROP, RegressorSpec
from ofer_models.workshop.bundle_writer import Provenance, regressor_entry, set_stage
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.networks.onnx_graph import store_bytes
from ofer_models.workshop.networks.trace import export_module

GRAPH = "regressor.onnx"
TRAINED = Provenance("trained by this project on renderings of people (`ofer train regressor`)", "Apache-2.0", True)


def write_regressor(
    network: nn.Module, spec: RegressorSpec, head_sha256: str, folder: Path, provenance: Provenance = TRAINED
) -> Bundle:
    """Give the bundle in `folder` this regressor, its weights stored as bytes. Raises DataError where its head is
    another one than it was trained for (BundleError where it is no bundle); the bundle is then as it was.
    """
    bundle = Bundle.load(folder)
    if bundle.head.sha256 != head_sha256:
        raise DataError(f"{folder}: the bundle has another head than the regressor was trained for")
    partial = folder / f".{GRAPH}.partial"
    size = spec.crop.size
    try:
        export_module(network.cpu(), partial, {CROP: ("F", 3, size, size)}, [COEFFICIENTS])
        store_bytes(partial)
        os.replace(partial, folder / GRAPH)
    finally:
        partial.unlink(missing_ok=True)
    set_stage(folder, REGRESSOR, regressor_entry(folder / GRAPH, spec), provenance)
    return Bundle.load(folder)
