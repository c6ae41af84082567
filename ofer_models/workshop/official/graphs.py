"""The official networks as a bundle's graphs, each compared with its network on random inputs as soon as it is
written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ofer_models.runtime.onnxruntime_backend import OnnxStage, StageError
from ofer_models.runtime.sampler import Sampler
from ofer_models.runtime.solvers import SolverTable
from ofer_models.workshop import bundle_writer
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.official_stages import JointContext, RankWithEncoders
from ofer_models.workshop.networks.onnx_graph import Dims
from ofer_models.workshop.networks.rank import FoldedRank
from ofer_models.workshop.networks.trace import export_module

TOLERANCE = 1e-4  # of the largest value
_FACES, _SAMPLES = 2, 3
_TIMES = (999, 500, 3)


class GraphError(ValueError):
    """A written graph does not give what its network gives."""


class SamplerSettings(NamedTuple):
    """Solver, spacing and number of steps, as in the manifest."""

    solver: str
    spacing: str
    steps: int


def write_encoder(
    context: nn.Module, path: Path, crops: dict[str, Dims], output: str = "context"
) -> tuple[dict[str, Any], float]:
    """Write an encoder of crops; returns its manifest entry and its relative difference from the network."""
    export_module(context, path, crops, [output])
    return bundle_writer.graph_entry(path), _compare(context, path, crops, output)


def write_rank(
    context: JointContext, rank: FoldedRank, path: Path, crops: dict[str, Dims], n_shape: int
) -> tuple[dict[str, Any], float]:
    """Write IdRank with its own encoders: betas (F, N, S) and crops -> score (F, N). Returns as `write_encoder`."""
    inputs = {"betas": ("F", "N", n_shape)} | crops
    module = RankWithEncoders(context, rank)
    export_module(module, path, inputs, ["score"])
    return bundle_writer.graph_entry(path), _compare(module, path, inputs, "score")


def write_sampler(
    net: Denoiser, folder: Path, name: str, sampling: SamplerSettings, seed: int | None
) -> tuple[dict[str, Any], float]:
    """Write a denoiser's two graphs, which draw plain coefficients, and with a seed the release's noise for it.

    Returns as `write_encoder`; the difference is that of the predicted noise.
    """
    size = net.n_coefficients
    entry = bundle_writer.write_sampler(
        net, folder, name, **sampling._asdict(), mean=np.zeros(size), deviation=np.ones(size)
    )
    if seed is not None:
        file = folder / f"{name}_noise.npz"
        write_released_noise(file, seed, size, sampling)
        entry["files"]["noise"] = file.name
    return entry, _compare_denoiser(net, folder / f"{name}_cond.onnx", folder / f"{name}_step.onnx")


def write_released_noise(path: Path, seed: int, size: int, sampling: SamplerSettings, rows: int = 100) -> None:
    """The release's random numbers after seeding: the start (rows, D), then one draw a step of a solver that
    adds noise.

    Its last step adds none. The order is that of the release's demo, whose noise comes from torch's CPU generator.
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(rows, size, generator=generator).numpy()
    steps = sampling.steps - 1 if sampling.solver == "ddpm" else 0
    added = np.zeros((steps, rows, size), np.float32)
    for k in range(steps):
        added[k] = torch.randn(rows, size, generator=generator).numpy()
    np.savez(path, start=start, added=added)


def _compare(module: nn.Module, path: Path, inputs: dict[str, Dims], output: str) -> float:
    sizes = {"F": _FACES, "N": _SAMPLES}
    generator = torch.Generator().manual_seed(0)
    arrays = {
        name: torch.randn([sizes.get(dim, dim) for dim in dims], generator=generator) for name, dims in inputs.items()
    }
    with torch.no_grad():
        expected = module(**arrays).numpy()
    return _difference(path, _stage(path)(**{name: array.numpy() for name, array in arrays.items()})[output], expected)


def _compare_denoiser(net: Denoiser, cond: Path, step: Path) -> float:
    """Predicted noise at a few steps, read from the step graph through coefficients that return it as x0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_FACES, _SAMPLES, net.n_coefficients, generator=generator)
    context = torch.randn(_FACES, net.n_context, generator=generator)
    sampler = Sampler(_stage(cond), _stage(step))
    worst = 0.0
    for t in _TIMES:
        only_noise = SolverTable(np.array([t]), np.array([[0.0, -1.0, 0.0, 1.0, 0.0]]), np.zeros(1))
        with torch.no_grad():
            expected = net.denoise(x, net.modulation(context, torch.tensor([t]))[:, 0]).numpy()
        worst = max(worst, _difference(step, sampler.sample(context.numpy(), x.numpy(), only_noise), expected))
    return worst


def _stage(path: Path) -> OnnxStage:
    try:
        return OnnxStage(path)
    except StageError as error:
        raise GraphError(f"a written graph cannot be loaded: {error}") from None


def _difference(path: Path, found: np.ndarray, expected: np.ndarray) -> float:
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not difference <= TOLERANCE:  # also when it is not a number
        raise GraphError(
            f"{path.name} differs from its network by {difference:.2g} of the largest value (limit {TOLERANCE:g}); "
            "the exporter or the runtime is at fault: see the versions that `ofer doctor` lists"
        )
    return difference
