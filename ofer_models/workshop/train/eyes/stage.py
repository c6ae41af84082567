"""The trained landmark network as a bundle's stage `landmarks`: deviations as large as its errors, one ONNX graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.bundle.manifest import LANDMARKS, read_manifest
from ofer_models.perception.encoder_inputs import crop_blob
from ofer_models.perception.landmark_crop import HALF, INPUT
from ofer_models.workshop.bundle_writer import Provenance, graph_entry, set_stage
from ofer_models.workshop.compile.quantize import quantized
from ofer_models.workshop.networks.landmarks import LandmarkNetwork
from ofer_models.workshop.networks.trace import export_module
from ofer_models.workshop.pictures.people.dataset import PeopleSet
from ofer_models.workshop.train.eyes.batches import plain
from ofer_models.workshop.train.eyes.validation import predict

_ONE_DEVIATION = 0.6827  # share of a Gaussian's coordinates within one deviation
# How many times further off it is on photographs: of 23 annotated faces, constant offsets out (docs/eyes.md).
_ON_PHOTOGRAPHS = 1.4
_RANGES = 100  # pictures that the ranges of 8-bit numbers come from
_PROVENANCE = Provenance(
    "trained by this project on renderings of the open head with MakeHuman's CC0 assets (`ofer train eyes`)",
    "Apache-2.0", True,
)  # fmt: skip


class LandmarkStage(nn.Module):
    """Crops (F, 3, 128, 128) RGB in -1..1 to points (F, 478, 2) px of the crop, deviations (F, 478) px of each
    coordinate, and the chance (F, 478) that a point is seen."""

    def __init__(self, network: LandmarkNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, crop128: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        points, deviation, visible = self.network(crop128)
        return points, deviation, visible.sigmoid()


def calibrate(network: LandmarkNetwork, pictures: PeopleSet) -> float:
    """Scale a network's deviations, in place, so that on photographs they hold about as many coordinates of seen points
    as a Gaussian's do: by those pictures, which it has not learned from, and how much further off it is on photographs;
    returns the factor."""
    crops, true, seen = plain(pictures, np.arange(len(pictures)))
    points, deviation, _ = predict(network, crops)
    error = np.abs(points - (true.numpy() * HALF + (INPUT - 1) / 2)) / deviation[..., None]
    factor = _ON_PHOTOGRAPHS * float(np.quantile(error[seen.numpy()], _ONE_DEVIATION))
    with torch.no_grad():
        network.heads.bias[:, 2] += float(np.log(factor))
    return factor


def put_into(bundle: Path, network: LandmarkNetwork, held_out: PeopleSet) -> float:
    """Write a network, calibrated on held-out pictures, into a bundle as its stage `landmarks`, in place of one that is
    there; returns the factor. Its convolutions are in 8 bits, so that the file says the same on every processor and is
    small; GPUs run them in floats. Raises BundleError where the folder is no bundle."""
    read_manifest(bundle)
    factor = calibrate(network, held_out)
    graph = bundle / f"{LANDMARKS}.onnx"
    export_stage(network, graph)
    quantize_stage(graph, plain(held_out, np.arange(len(held_out)))[0].numpy(), graph)
    set_stage(bundle, LANDMARKS, graph_entry(graph), _PROVENANCE)
    return factor


def export_stage(network: LandmarkNetwork, path: Path) -> None:
    """The stage's graph as a file."""
    stage = LandmarkStage(network.to(memory_format=torch.contiguous_format))
    inputs = {"crop128": ("F", 3, INPUT, INPUT)}
    export_module(stage, path, inputs, ["points", "deviation", "visible"])


def quantize_stage(graph: Path, crops: np.ndarray, path: Path) -> None:
    """The graph with convolutions in 8 bits as a file; crops (n, 128, 128, 3) uint8, of which some give the ranges.

    Weights have 7 bits: it is one file for all processors, also for those whose 8-bit sums saturate."""
    some = crops[:: max(len(crops) // _RANGES, 1)]
    rows = [{"crop128": crop_blob(crop[None])} for crop in some]
    path.write_bytes(quantized(graph, rows, exact=False, kinds={"Conv"}))
