"""Reading and checking a bundle: `manifest.yaml` beside the head model and the stages' ONNX graphs.

The manifest is the only thing the pipeline knows about what was learned: names, dimensions, tensors, sampler settings,
and for each file its sha256, origin and licence.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ofer_models.bundle.share import share_folder
from ofer_models.head.model import HeadModel, HeadModelError

MANIFEST = "manifest.yaml"
HEAD = "head.npz"
FORMAT = 1
STAGES = ("identity_context", "idgen", "idrank", "expression_context", "expgen")
# For contexts of the open encoder. Ten photographs of ten people, each turned, scaled, brightened and blurred: of one
# person 90 % are above the first and all above the second, of two people 0.7 % are above the first.
SAME_FACE = (0.99, 0.96)
_PARTS = {"graph": ("graph",), "sampler": ("cond", "step")}


class BundleError(ValueError):
    """A bundle is missing, incomplete, damaged or of another format; the message says which file and what to do."""


@dataclass(frozen=True)
class FileRecord:
    """One file of a bundle: its sha256, where it comes from, its licence, and whether commercial use is allowed."""

    sha256: str
    origin: str
    licence: str
    commercial_use: bool


@dataclass(frozen=True)
class StageSpec:
    """One stage of kind `graph` (one ONNX file) or `sampler` (cond and step, and noise if the bundle brings its own).

    inputs and outputs: tensor name -> shape, where strings are free dimensions.

    Sampler stages draw coefficients normalised by mean and deviation (D,): raw = normal * deviation + mean.
    temperature scales the starting noise, from the first sample's to the last's in even steps: 1 draws from the learned
    distribution, less stays nearer to its middle. The manifest gives one number for all samples or a pair.
    """

    name: str
    kind: str
    files: dict[str, Path]
    inputs: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]
    solver: str = ""
    spacing: str = ""
    steps: int = 0
    temperature: tuple[float, float] = (1.0, 1.0)
    mean: np.ndarray | None = None
    deviation: np.ndarray | None = None

    def raw(self, normal: np.ndarray) -> np.ndarray:
        """Coefficients (..., D) in the head model's units from a sampler's normalised output."""
        return normal * self.deviation + self.mean

    def scales(self, count: int) -> np.ndarray:
        """The temperature of each of `count` samples (count, 1)."""
        return np.linspace(*self.temperature, count, dtype=np.float32)[:, None]


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. candidates is N, heads drawn and ranked a track; hypotheses is H, expressions a frame.

    rank_alone: IdRank's best candidate is the identity, as in OFER; otherwise the landmarks seen have a say.
    same_face: cosine of two identity contexts from which they are of one face, and below which they are of two.
    """

    path: Path
    name: str
    version: str
    n_shape: int
    n_expression: int
    candidates: int
    hypotheses: int
    expression_range: tuple[float, float] | None
    jaw_scale: float
    stages: dict[str, StageSpec]
    files: dict[str, FileRecord]
    rank_alone: bool = False
    same_face: tuple[float, float] = SAME_FACE

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Read the manifest and check that every file is there with its hash. Raises BundleError of one clear line."""
        folder = Path(folder)
        manifest = _read_manifest(folder)
        try:
            files = {name: FileRecord(**record) for name, record in manifest["files"].items()}
            stages = {name: _stage(name, manifest["stages"][name], folder) for name in STAGES}
            bounds = manifest.get("expression_range")
            same, other = manifest.get("same_face", SAME_FACE)
            bundle = cls(
                path=folder, name=str(manifest["name"]), version=str(manifest["version"]),
                n_shape=int(manifest["n_shape"]), n_expression=int(manifest["n_expression"]),
                candidates=int(manifest["candidates"]), hypotheses=int(manifest["hypotheses"]),
                expression_range=(float(bounds[0]), float(bounds[1])) if bounds else None,
                jaw_scale=float(manifest.get("jaw_scale", 1.0)), stages=stages, files=files,
                rank_alone=bool(manifest.get("rank_alone", False)),
                same_face=(float(same), float(other)),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise BundleError(
                f"{folder / MANIFEST} is not a complete manifest ({error!r}); restore the bundle"
            ) from None
        bundle._check_files()
        return bundle

    @cached_property
    def head(self) -> HeadModel:
        """The head model; raises BundleError when it disagrees with the manifest's dimensions."""
        try:
            head = HeadModel.load(self.path / HEAD)
        except HeadModelError as error:
            raise BundleError(str(error)) from None
        if (head.n_shape, head.n_expression) != (self.n_shape, self.n_expression):
            raise BundleError(
                f"{self.path / HEAD} has {head.n_shape} shape and {head.n_expression} expression coefficients, "
                f"the manifest says {self.n_shape} and {self.n_expression}; head and graphs must come from one bundle"
            )
        return head

    def _check_files(self) -> None:
        wanted = {HEAD} | {path.name for stage in self.stages.values() for path in stage.files.values()}
        unlisted = sorted(wanted - self.files.keys())
        if unlisted:
            raise BundleError(f"{self.path / MANIFEST} lists no hash for {', '.join(unlisted)}; restore the bundle")
        for name, record in self.files.items():
            file = self.path / name
            if not file.is_file():
                raise BundleError(
                    f"{file} is missing; restore the bundle (`git checkout {self.path}` or `ofer import`)"
                )
            if sha256_of(file) != record.sha256:
                raise BundleError(f"{file} is damaged or changed: its sha256 is not the manifest's; restore the bundle")


def default_bundle() -> Path:
    """The bundle the project ships: $OFER_BUNDLE, else engines/open of the checkout or the installed share folder."""
    chosen = os.environ.get("OFER_BUNDLE")
    return Path(chosen) if chosen is not None else share_folder() / "engines" / "open"


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"no bundle at {folder}: {MANIFEST} is missing; give the folder of a bundle, such as engines/open"
        )
    try:
        manifest = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not readable YAML ({str(error).splitlines()[0]}); restore the bundle") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{path} is not a bundle manifest of format {FORMAT}; this version of ofer cannot read it")
    return manifest


def _stage(name: str, entry: dict[str, Any], folder: Path) -> StageSpec:
    kind = entry["kind"]
    parts = tuple(part for part in entry["files"] if (kind, part) != ("sampler", "noise"))
    if parts != _PARTS[kind]:
        raise ValueError(f"stage {name} of kind {kind} needs the files {', '.join(_PARTS[kind])}")
    sampler = {}
    if kind == "sampler":
        coefficients = entry["coefficients"]
        sampler = {
            "solver": entry["solver"], "spacing": entry["spacing"], "steps": int(entry["steps"]),
            "temperature": _pair(entry.get("temperature", 1.0)),
            "mean": np.array(coefficients["mean"], np.float32),
            "deviation": np.array(coefficients["deviation"], np.float32),
        }  # fmt: skip
        if sampler["mean"].ndim != 1 or sampler["mean"].shape != sampler["deviation"].shape:
            raise ValueError(f"stage {name} needs as many means as deviations")
    return StageSpec(
        name, kind, {part: folder / file for part, file in entry["files"].items()},
        {key: tuple(value) for key, value in entry["inputs"].items()},
        {key: tuple(value) for key, value in entry["outputs"].items()}, **sampler,
    )  # fmt: skip


def _pair(value: float | list[float]) -> tuple[float, float]:
    first, last = value if isinstance(value, list) else (value, value)
    return float(first), float(last)
