"""Reading and checking a bundle: `manifest.yaml` beside the head model and the stages' ONNX graphs.

The manifest is the only thing the pipeline knows about what was learned: names, dimensions, tensors, sampler settings,
and for each file its sha256, origin and licence.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ofer_models.bundle.manifest_schema import manifest_schema
from ofer_models.bundle.onnx_header import external_files
from ofer_models.bundle.regression import RegressorSpec, read_regressor
from ofer_models.bundle.share import share_folder
from ofer_models.files.documents import read_yaml
from ofer_models.files.hashing import sha256_of, sha256_of_open
from ofer_models.files.refusal import FileRefused, one_line
from ofer_models.head.albedo import Albedo
from ofer_models.head.model import HeadModel, HeadModelError

MANIFEST = "manifest.yaml"
HEAD = "head.npz"
ALBEDO = "albedo.npz"  # where the head has one
FORMAT = 1
STAGES = ("identity_context", "idgen", "idrank", "expression_context", "expgen")  # of the method `ofer`
LANDMARKS = "landmarks"  # a stage that the method `ofer` can do without
REGRESSOR = "regressor"  # the stage of the method of that name
DISTILLED = "distilled"  # the solver of a stage's variant of that name
# For contexts of the open encoder. Ten photographs of ten people, each turned, scaled, brightened and blurred: of one
# person 90 % are above the first and all above the second, of two people 0.7 % are above the first.
SAME_FACE = (0.99, 0.96)
MOST_BYTES = 256 << 10
_SCHEMA = manifest_schema((*STAGES, LANDMARKS, REGRESSOR))
_COMPILED = re.compile(r"\.(engine|int8)(\.json|\.kernels)?$|\.timing$")  # beside the bundle's own files
_log = logging.getLogger(__name__)
_PARTS = {"graph": ("graph",), "sampler": ("cond", "step"), "regressor": ("graph",)}


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
    """One stage of kind `graph` or `regressor` (one ONNX file) or `sampler` (cond and step, and noise if the bundle
    brings its own).

    inputs and outputs: tensor name -> shape, where strings are free dimensions.

    Sampler stages draw coefficients normalised by mean and deviation (D,): raw = normal * deviation + mean.
    temperature scales the starting noise, from the first sample's to the last's in even steps: 1 draws from the learned
    distribution, less stays nearer to its middle. The manifest gives one number for all samples or a pair.

    distilled: the same stage with networks that learned to do at a few `timesteps` what its own do in many steps; its
    solver is `distilled`, and a graph that it does not bring is the stage's own.
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
    regression: RegressorSpec | None = None
    timesteps: tuple[int, ...] = ()
    distilled: StageSpec | None = None

    @property
    def usual(self) -> StageSpec:
        """What is drawn with unless somebody asks for a number of steps."""
        return self.distilled or self

    def raw(self, normal: np.ndarray) -> np.ndarray:
        """Coefficients (..., D) in the head model's units from a sampler's normalised output."""
        return normal * self.deviation + self.mean

    def scales(self, count: int) -> np.ndarray:
        """The temperature of each of `count` samples (count, 1)."""
        return np.linspace(*self.temperature, count, dtype=np.float32)[:, None]


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: the five stages of OFER, a regressor, or both. candidates is N, heads drawn and ranked a track;
    hypotheses is H, expressions a frame.

    rank_alone: IdRank's best candidate is the identity, as in OFER; otherwise the landmarks seen have a say.
    same_face: cosine of two identity contexts from which they are of one face, and below which they are of two.
    landmark_evidence: heads and hypotheses are moved to the landmarks that are seen (`tracking.evidence`).
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
    landmark_evidence: bool = False
    _seen: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Read the manifest and check that every file is there with its hash. Raises BundleError of one clear line."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        try:
            stages = {name: _stage(name, entry, folder) for name, entry in _ordered(manifest["stages"]).items()}
            _check_regressor(stages, manifest)
        except FileRefused as error:
            raise _incomplete(folder, error) from None
        bounds = manifest.get("expression_range")
        same, other = manifest.get("same_face", SAME_FACE)
        bundle = cls(
            path=folder, name=manifest["name"], version=str(manifest["version"]), n_shape=manifest["n_shape"],
            n_expression=manifest["n_expression"], candidates=manifest["candidates"],
            hypotheses=manifest["hypotheses"], expression_range=(bounds[0], bounds[1]) if bounds else None,
            jaw_scale=manifest.get("jaw_scale", 1.0), stages=stages,
            files={name: FileRecord(**record) for name, record in manifest["files"].items()},
            rank_alone=manifest.get("rank_alone", False), same_face=(same, other),
            landmark_evidence=manifest.get("landmark_evidence", False),
        )  # fmt: skip
        bundle._check_files()
        return bundle

    @cached_property
    def sha256(self) -> str:
        """Of the manifest, which holds those of all files: equal bundles have equal ones."""
        return sha256_of(self.path / MANIFEST)

    @cached_property
    def head(self) -> HeadModel:
        """The head model; raises BundleError when it disagrees with the manifest's dimensions."""
        try:
            head = HeadModel.load(self.path / HEAD)
            self.check_unchanged()
        except HeadModelError as error:
            raise BundleError(str(error)) from None
        if (head.n_shape, head.n_expression) != (self.n_shape, self.n_expression):
            raise BundleError(
                f"{self.path / HEAD} has {head.n_shape} shape and {head.n_expression} expression coefficients, "
                f"the manifest says {self.n_shape} and {self.n_expression}; head and graphs must come from one bundle"
            )
        return head

    @cached_property
    def albedo(self) -> Albedo | None:
        """The head's skin, where the bundle has one; raises BundleError where it does not fit the head."""
        if ALBEDO not in self.files:
            return None
        try:
            albedo = Albedo.load(self.path / ALBEDO, self.head)
            self.check_unchanged()
        except HeadModelError as error:
            raise BundleError(str(error)) from None
        return albedo

    def unlisted(self) -> list[str]:
        """Files in the folder that the manifest does not list and nothing reads; compiled engines are told apart by
        their names.
        """
        names = {path.name for path in self.path.iterdir() if not path.name.startswith(".")}
        return sorted(name for name in names - self.files.keys() - {MANIFEST} if not _COMPILED.search(name))

    def check_unchanged(self) -> None:
        """Refuse files that are not those whose hashes were compared (BundleError): to call after they were opened."""
        for name, seen in self._seen.items():
            file = self.path / name
            if not file.exists() or _signature(file.stat()) != seen:
                raise BundleError(f"{self.path / name} changed while the bundle was being loaded; start again")

    def _check_files(self) -> None:
        parts = {part for stage in self.stages.values() for one in (stage, stage.usual) for part in one.files.items()}
        wanted = {HEAD} | {path.name for _, path in parts}
        for path in (path for part, path in parts if part != "noise" and path.is_file()):
            with suppress(FileRefused):  # no graph at all: whatever loads it says so
                wanted |= external_files(path)
        unlisted = sorted(wanted - self.files.keys())
        if unlisted:
            listed = one_line(", ".join(unlisted))
            raise BundleError(f"{self.path / MANIFEST} lists no hash for {listed}; restore the bundle")
        root = Path(os.path.realpath(self.path / MANIFEST)).parent  # an installed bundle may be links to a checkout
        for name, record in self.files.items():
            file = self.path / name
            if not file.is_file():
                raise BundleError(
                    f"{file} is missing; restore the bundle (`git checkout {self.path}` or `ofer import`)"
                )
            if Path(os.path.realpath(file)).parent != root:
                raise BundleError(f"{file} leads out of the bundle's folder; put the file itself there")
            with file.open("rb") as opened:
                self._seen[name] = _signature(os.fstat(opened.fileno()))
                right = sha256_of_open(opened) == record.sha256
            if not right:
                raise BundleError(f"{file} is damaged or changed: its sha256 is not the manifest's; restore the bundle")
        if extra := self.unlisted():
            _name_unlisted(self.path, one_line(", ".join(extra)))


def default_bundle() -> Path:
    """The bundle the project ships: $OFER_BUNDLE, else engines/open of the checkout or the installed share folder."""
    chosen = os.environ.get("OFER_BUNDLE")
    return Path(chosen) if chosen is not None else share_folder() / "engines" / "open"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle, every field checked by its schema. Raises BundleError with one line that names it."""
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"no bundle at {folder}: {MANIFEST} is missing; give the folder of a bundle, such as engines/open"
        )
    try:
        manifest = read_yaml(path, MOST_BYTES)
    except (FileRefused, OSError) as error:
        raise BundleError(f"{path} {one_line(error)}; restore the bundle") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{path} is not a bundle manifest of format {FORMAT}; this version of ofer cannot read it")
    try:
        return _SCHEMA(manifest, "")
    except FileRefused as error:
        raise _incomplete(folder, error) from None


def _incomplete(folder: Path, error: FileRefused) -> BundleError:
    return BundleError(f"{folder / MANIFEST} is not a complete manifest: it {error}; restore the bundle")


@cache
def _name_unlisted(folder: Path, names: str) -> None:
    """Said once, however often a bundle is loaded."""
    _log.warning("%s also holds %s, which its manifest does not list and nothing reads", folder, names)


def _signature(stat: os.stat_result) -> tuple[int, ...]:
    """What tells one state of a file from any other."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _ordered(entries: dict[str, Any]) -> dict[str, Any]:
    """Stages in the order of their use; OFER's five only all together, and at least those or a regressor."""
    for name in STAGES:
        if name not in entries and (REGRESSOR not in entries or entries.keys() & set(STAGES)):
            raise FileRefused(f"lacks stages.{name}")
    return {name: entries[name] for name in (*STAGES, LANDMARKS, REGRESSOR) if name in entries}


def _check_regressor(stages: dict[str, StageSpec], manifest: dict[str, Any]) -> None:
    """Refuse more coefficients than the head takes."""
    if REGRESSOR in stages:
        for group, field in (("shape", "n_shape"), ("expression", "n_expression")):
            told = stages[REGRESSOR].regression.groups[group]
            if told > manifest[field]:
                raise FileRefused(f"says stages.{REGRESSOR}.groups.{group}: {told}, the head has {manifest[field]}")


def _stage(name: str, entry: dict[str, Any], folder: Path) -> StageSpec:
    kind, field = entry["kind"], f"stages.{name}"
    if (kind == REGRESSOR) != (name == REGRESSOR):
        raise FileRefused(f"says {field}.kind: {kind}")
    parts = {part for part in entry["files"] if (kind, part) != ("sampler", "noise")}
    if parts != set(_PARTS[kind]):
        raise FileRefused(f"says {field}.files: a stage of kind {kind} has the files {', '.join(_PARTS[kind])}")
    sampler: dict[str, Any] = {}
    if kind == "sampler":
        for needed in ("solver", "spacing", "steps", "coefficients"):
            if needed not in entry:
                raise FileRefused(f"lacks {field}.{needed}")
        mean, deviation = (np.array(entry["coefficients"][part], np.float32) for part in ("mean", "deviation"))
        if mean.shape != deviation.shape:
            raise FileRefused(f"says {field}.coefficients: {len(mean)} means and {len(deviation)} deviations")
        temperature = entry.get("temperature", 1.0)
        sampler = {
            "solver": entry["solver"], "spacing": entry["spacing"], "steps": entry["steps"],
            "temperature": tuple(temperature) if isinstance(temperature, list) else (temperature, temperature),
            "mean": mean, "deviation": deviation,
        }  # fmt: skip
    if kind == REGRESSOR:
        sampler = {"regression": read_regressor(entry, field)}
    stage = StageSpec(
        name, kind, {part: folder / file for part, file in entry["files"].items()},
        {key: tuple(value) for key, value in entry["inputs"].items()},
        {key: tuple(value) for key, value in entry["outputs"].items()}, **sampler,
    )  # fmt: skip
    return replace(stage, distilled=_distilled(stage, entry["distilled"])) if "distilled" in entry else stage


def _distilled(stage: StageSpec, entry: dict[str, Any]) -> StageSpec:
    """The stage as its distilled networks draw it."""
    field, timesteps = f"stages.{stage.name}.distilled", entry["timesteps"]
    if stage.kind != "sampler":
        raise FileRefused(f"says {field} of a stage of kind {stage.kind}")
    if "noise" in stage.files:
        raise FileRefused(f"says {field} of a stage that brings its own noise, which is for its own steps")
    if any(a <= b for a, b in pairwise(timesteps)):
        raise FileRefused(f"says {field}.timesteps: {timesteps}, which do not fall")
    files = stage.files | {part: stage.files["step"].with_name(file) for part, file in entry["files"].items()}
    return replace(stage, files=files, solver=DISTILLED, steps=len(timesteps), timesteps=tuple(timesteps))
