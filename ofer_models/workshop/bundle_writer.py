"""Writing a bundle: graphs, head and manifest with the hash, origin and licence of every file.

Build-time only: needs torch and onnx.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml

from ofer_models.bundle.manifest import (
    ALBEDO,
    DISTILLED,
    FORMAT,
    HEAD,
    MANIFEST,
    REGRESSOR,
    STAGES,
    FileRecord,
    read_manifest,
)
from ofer_models.bundle.regression import RegressorSpec
from ofer_models.files.hashing import sha256_of
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.export import export_rank, export_sampler
from ofer_models.workshop.networks.rank import FoldedRank, PosteriorRank


@dataclass(frozen=True)
class Provenance:
    """Where a file comes from, for the manifest."""

    origin: str
    licence: str
    commercial_use: bool


def graph_entry(path: Path) -> dict[str, Any]:
    """Manifest entry of a stage that is one graph, tensors read back from the file."""
    inputs, outputs = _tensors(path)
    return {"kind": "graph", "files": {"graph": path.name}, "inputs": inputs, "outputs": outputs}


def regressor_entry(path: Path, spec: RegressorSpec) -> dict[str, Any]:
    """Manifest entry of a regressor whose graph has the tensors `crop` and `coefficients`."""
    crop = spec.crop
    entry = graph_entry(path) | {"kind": "regressor", "groups": [list(group) for group in spec.groups.items()]}
    if spec.rotation != "vector":
        entry["rotation"] = spec.rotation
    if "translation" in spec.groups:
        entry |= {"focal": spec.focal, "distance": spec.distance}
    placed = {"scale": crop.scale} if crop.template is None else {"template": np.round(crop.template, 4).tolist()}
    colours = {name: np.round(getattr(crop, name).astype(float), 6).tolist() for name in ("mean", "deviation")}
    return entry | {"crop": {"align": crop.align, **placed, "channels": crop.channels, **colours}}


def write_sampler(
    network: Denoiser,
    folder: Path,
    name: str,
    *,
    solver: str,
    spacing: str,
    steps: int,
    mean: np.ndarray,
    deviation: np.ndarray,
    temperature: float | tuple[float, float] = 1.0,
) -> dict[str, Any]:
    """Write a sampler's two graphs and return its manifest entry; raw coefficients = drawn * deviation + mean."""
    files = export_sampler(network, folder, name)
    inputs, outputs = _tensors(files["step"])
    return {
        "kind": "sampler", "files": {part: file.name for part, file in files.items()},
        "solver": solver, "spacing": spacing, "steps": steps,
        "temperature": list(temperature) if isinstance(temperature, tuple) else temperature,
        "inputs": {"context": ["F", network.n_context], "noise": inputs["x"]}, "outputs": {"samples": outputs["x0"]},
        "coefficients": {
            "mean": [round(float(v), 7) for v in mean], "deviation": [round(float(v), 7) for v in deviation],
        },
    }  # fmt: skip


def write_rank(network: FoldedRank | PosteriorRank, path: Path) -> dict[str, Any]:
    """Write the rank network and return its manifest entry."""
    export_rank(network, path)
    return graph_entry(path)


def write_manifest(
    folder: Path, header: dict[str, Any], stages: dict[str, Any], provenance: dict[str, Provenance]
) -> None:
    """Write manifest.yaml for the files in folder; provenance by file name, `*` for all others."""
    present = [name for name in (*STAGES, REGRESSOR) if name in stages]
    names = [HEAD] + [ALBEDO] * (folder / ALBEDO).is_file()
    names += [file for stage in present for file in stages[stage]["files"].values()]
    files = {
        name: asdict(FileRecord(sha256_of(folder / name), **asdict(provenance.get(name, provenance["*"]))))
        for name in names
    }
    _write(folder, {"format": FORMAT, **header, "stages": {name: stages[name] for name in present}, "files": files})


def set_stage(folder: Path, name: str, entry: dict[str, Any], provenance: Provenance) -> None:
    """Give a bundle, whose folder holds the entry's graph already, this stage instead of what it had for one.

    Raises BundleError where the folder is no bundle.
    """
    manifest = read_manifest(folder)
    before = manifest["stages"].pop(name, {"files": {}})
    for file in before["files"].values():
        manifest["files"].pop(file, None)
    for file in entry["files"].values():
        manifest["files"][file] = asdict(FileRecord(sha256_of(folder / file), **asdict(provenance)))
    manifest["stages"][name] = entry
    _write(folder, manifest)


def set_distilled(
    folder: Path, name: str, files: dict[str, str], timesteps: list[int], provenance: Provenance
) -> None:  # fmt: skip
    """Give a sampler of a bundle, whose folder holds these files (by part) already, its variant `distilled`, in place
    of one that it had.

    Raises BundleError where the folder is no bundle.
    """
    manifest = read_manifest(folder)
    stage = manifest["stages"][name]
    for file in stage.pop(DISTILLED, {"files": {}})["files"].values():
        manifest["files"].pop(file, None)
    for file in files.values():
        manifest["files"][file] = asdict(FileRecord(sha256_of(folder / file), **asdict(provenance)))
    stage[DISTILLED] = {"files": files, "timesteps": timesteps}
    _write(folder, manifest)


def set_albedo(folder: Path, provenance: Provenance) -> None:
    """List the albedo that lies in a bundle's folder in its manifest. Raises BundleError where it is no bundle."""
    manifest = read_manifest(folder)
    manifest["files"][ALBEDO] = asdict(FileRecord(sha256_of(folder / ALBEDO), **asdict(provenance)))
    _write(folder, manifest)


def set_head(folder: Path) -> None:
    """Note in a bundle's manifest that its head has other arrays now. Raises BundleError where it is no bundle."""
    manifest = read_manifest(folder)
    manifest["files"][HEAD]["sha256"] = sha256_of(folder / HEAD)
    _write(folder, manifest)


def _write(folder: Path, document: dict[str, Any]) -> None:
    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=130)
    comment = "# A bundle of ofer: what the pipeline needs to know. Written by the program; edit the training instead."
    partial = folder / f".{MANIFEST}.partial"
    partial.write_text(f"{comment}\n{text}")
    os.replace(partial, folder / MANIFEST)


def _tensors(path: Path) -> tuple[dict[str, list[int | str]], dict[str, list[int | str]]]:
    graph = onnx.load(path, load_external_data=False).graph
    return tuple(
        {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}
        for values in (graph.input, graph.output)
    )
