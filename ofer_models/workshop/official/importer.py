"""`ofer import`: the released OFER checkpoints and FLAME become a bundle. Build-time only: needs torch, onnx and
onnxscript.

Everything is read without running code from the files, checked, exported, and the graphs are compared with the
networks before the bundle takes its place (`imported_bundle`).
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ofer_models.bundle.manifest import HEAD
from ofer_models.files.hashing import sha256_of
from ofer_models.head.model import HeadModel, HeadModelError
from ofer_models.workshop.bundle_writer import Provenance, write_manifest
from ofer_models.workshop.networks.official_stages import IdentityContext, JointContext
from ofer_models.workshop.networks.replay import Scenario
from ofer_models.workshop.official import flame
from ofer_models.workshop.official.checkpoint import (
    Checkpoint,
    CheckpointError,
    Maps,
    NetworkSizes,
    Role,
    find_maps,
    read_checkpoint,
)
from ofer_models.workshop.official.files import (
    LICENCE_OF,
    LICENCES,
    OfficialFiles,
    flame_version,
    named_version,
)
from ofer_models.workshop.official.graphs import GraphError, SamplerSettings, write_encoder, write_rank, write_sampler
from ofer_models.workshop.official.imported_bundle import imported_bundle

ROLES: tuple[Role, ...] = ("idgen", "idrank", "expgen")
CANDIDATES, HYPOTHESES = 100, 15
JAW_SCALE = 0.5  # the release halves the jaw rotation that ExpGen draws
# Of plain DDIM, which promises least about networks that nobody here has seen; docs/sampling.md shows how far fewer go.
FEW_STEPS = SamplerSettings("ddim", "log_snr", 20)
RELEASED = {
    "idgen": SamplerSettings("released_ddim", "uniform", 251), "expgen": SamplerSettings("ddpm", "uniform", 1000),
}  # fmt: skip
RELEASED_SEEDS = {"idgen": 37, "expgen": 363}
STEPS = 9  # calls of `step` in one import


@dataclass(frozen=True)
class OfficialSizes:
    """Sizes of head and networks; the defaults are the release's (tests use smaller ones)."""

    head: flame.HeadSizes = field(default_factory=flame.HeadSizes)
    networks: NetworkSizes = field(default_factory=NetworkSizes)


@dataclass(frozen=True)
class ImportReport:
    """The bundle's folder, where each sampler's maps come from, the graphs' largest differences, and remarks."""

    path: Path
    maps: dict[str, Maps]
    differences: dict[str, float]
    remarks: list[str]


def import_official(
    files: OfficialFiles,
    out: str | Path,
    *,
    qkv: Scenario | None = None,
    released_quirks: bool = False,
    strict: bool = False,
    step: Callable[[str], None] = lambda text: None,
    sizes: OfficialSizes | None = None,
) -> ImportReport:
    """Make the bundle `out` from the official files; equal files give equal bytes.

    qkv: the scenario of the query/key/value maps, told from the files by default (with released_quirks: the demo's).
    released_quirks: repeat the release's output, its sampler, noise and unnormalised ArcFace of IdRank included.
    strict: refuse tensors that the denoisers do not know, which are skipped with a remark otherwise.
    step: called with a line at the start of each of the STEPS steps. Raises OfficialImportError with one line; `out` is
    then as it was before.
    """
    out = Path(out)
    with imported_bundle(out, CheckpointError, flame.FlameError, GraphError) as work:
        report = _Import(files.present(), work, qkv, released_quirks, strict, step, sizes or OfficialSizes()).run()
    return ImportReport(out, *report)


class _Import:
    """One import into a work folder; a checkpoint is read, exported and forgotten before the next."""

    def __init__(
        self,
        files: dict[str, Path],
        folder: Path,
        qkv: Scenario | None,
        quirks: bool,
        strict: bool,
        step: Callable[[str], None],
        sizes: OfficialSizes,
    ) -> None:
        self._files, self._folder, self._quirks, self._step, self._sizes = files, folder, quirks, step, sizes
        self._strict = strict
        self._qkv: Scenario | None = qkv or ("demo" if quirks else None)
        self._maps: dict[str, Maps] = {}
        self._differences: dict[str, float] = {}
        self._remarks: list[str] = []
        self._stages: dict[str, Any] = {}

    def run(self) -> tuple[dict[str, Maps], dict[str, float], list[str]]:
        """Write everything; returns maps, differences and remarks."""
        version = flame_version(self._files)
        if not named_version(self._files, "flame"):
            taken = f"taken for {version}, as the checkpoints' names tell" if version else "nor do the checkpoints'"
            self._remarks.append(
                f"neither its name nor its folder's tells which FLAME {self._files['flame'].name} is ({taken}); "
                "coefficients of one version mean nothing to another"
            )
        self._step("hashing the official files")
        inputs = {role: {"file": path.name, "sha256": sha256_of(path), "licence": LICENCE_OF[role],
                         "commercial_use": False} for role, path in self._files.items()}  # fmt: skip
        self._step("FLAME")
        head = self._head()
        self._step("checking the checkpoints")  # all of them first: exporting takes minutes
        networks = self._sizes.networks
        for role in ROLES:
            checkpoint = self._checkpoint(role)
            checkpoint.check(networks)
            self._remarks += checkpoint.remarks
            if role != "idrank":
                self._maps[role] = find_maps(checkpoint, networks, self._qkv)
        self._idgen()
        self._expgen()
        self._idrank(head)
        self._step("manifest")
        digest = hashlib.sha256("".join(entry["sha256"] for entry in inputs.values()).encode()).hexdigest()[:8]
        header = {
            "name": "official", "version": f"{version or 'flame'}-{digest}", "n_shape": self._sizes.head.n_shape,
            "n_expression": self._sizes.head.n_expression, "candidates": CANDIDATES, "hypotheses": HYPOTHESES,
            "jaw_scale": JAW_SCALE, "rank_alone": True, "same_face": [0.4, 0.2], "released_quirks": self._quirks,
            "query_key_value_maps": {name: maps.source for name, maps in self._maps.items()}, "inputs": inputs,
        }  # fmt: skip
        write_manifest(self._folder, header, self._stages, self._provenance())
        return self._maps, self._differences, self._remarks

    def _checkpoint(self, role: Role) -> Checkpoint:
        gc.collect()  # the networks before are in circles with what the exporter made of them
        return read_checkpoint(self._files[role], role, self._sizes.networks, self._strict)

    def _head(self) -> dict[str, np.ndarray]:
        sizes = self._sizes.head
        arrays = flame.read_model(self._files["flame"], sizes)
        n_vertices, n_faces = len(arrays["v_template"]), len(arrays["faces"])
        frontal, released = flame.read_frontal(self._files["front_indices"], n_vertices, sizes)
        if not released:
            self._remarks.append(
                f"{self._files['front_indices'].name} is not the released file (its sha256 differs): IdRank only works "
                "with the vertices it was trained on"
            )
        arrays["mask_frontal"] = arrays["mask_face"] = frontal
        if "masks" in self._files:
            arrays |= flame.read_masks(self._files["masks"], n_vertices)
        else:
            self._remarks.append("without FLAME_masks.pkl the face region of meshes is IdRank's frontal region")
        if "landmarks" in self._files:
            arrays |= flame.read_landmarks(self._files["landmarks"], n_faces)
        else:
            self._remarks.append(
                "without landmark_embedding.npy (--landmarks; in the release's folder data/FLAME2023/) heads cannot be "
                "placed before a camera"
            )
        if "mediapipe" in self._files:
            arrays |= flame.read_mediapipe(self._files["mediapipe"], n_faces)
        try:
            HeadModel(arrays)
        except HeadModelError as error:
            raise flame.FlameError(f"{self._files['flame'].name} and the files for it make no head: {error}") from None
        np.savez(self._folder / HEAD, **arrays)
        return arrays

    def _idgen(self) -> None:
        self._step("IdGen: encoder")
        checkpoint = self._checkpoint("idgen")
        context = IdentityContext(checkpoint.arcface(self._sizes.networks))
        net = checkpoint.denoiser(self._sizes.networks, self._maps["idgen"].tensors)
        del checkpoint  # what was looked at of the file is memory too
        self._add("identity_context", write_encoder(context, self._folder / "identity_context.onnx", self._crops(1)))
        self._step("IdGen: denoiser")
        self._add("idgen", write_sampler(net, self._folder, "idgen", *self._sampling("idgen")))

    def _expgen(self) -> None:
        self._step("ExpGen: encoders")
        checkpoint = self._checkpoint("expgen")
        context = JointContext(checkpoint.arcface(self._sizes.networks), checkpoint.farl(self._sizes.networks))
        net = checkpoint.denoiser(self._sizes.networks, self._maps["expgen"].tensors)
        del checkpoint
        path = self._folder / "expression_context.onnx"
        self._add("expression_context", write_encoder(context, path, self._crops(2)))
        self._step("ExpGen: denoiser")
        self._add("expgen", write_sampler(net, self._folder, "expgen", *self._sampling("expgen")))

    def _idrank(self, head: dict[str, np.ndarray]) -> None:
        self._step("IdRank with its encoders")
        checkpoint = self._checkpoint("idrank")
        arcface = checkpoint.arcface(self._sizes.networks)
        if self._quirks:
            arcface.norm_features = torch.nn.Identity()  # the release leaves it out for its batch of one image
        context = JointContext(arcface, checkpoint.farl(self._sizes.networks))
        frontal, n_shape = head["mask_frontal"], self._sizes.head.n_shape
        folded = checkpoint.rank(self._sizes.networks).fold(
            torch.from_numpy(head["v_template"][frontal]), torch.from_numpy(head["shapedirs"][frontal, :, :n_shape])
        )
        del checkpoint
        self._add("idrank", write_rank(context, folded, self._folder / "idrank.onnx", self._crops(2), n_shape))

    def _crops(self, count: int) -> dict[str, tuple[int | str, ...]]:
        networks = self._sizes.networks
        aligned, loose = networks.arcface.get("size", 112), networks.farl.get("size", 224)
        return dict([("crop112_bgr", ("F", 3, aligned, aligned)), ("crop224", ("F", 3, loose, loose))][:count])

    def _sampling(self, name: str) -> tuple[SamplerSettings, int | None]:
        """How a sampler is run, and the seed whose noise goes with the bundle."""
        return (RELEASED[name], RELEASED_SEEDS[name]) if self._quirks else (FEW_STEPS, None)

    def _add(self, name: str, written: tuple[dict[str, Any], float]) -> None:
        self._stages[name], self._differences[name] = written

    def _provenance(self) -> dict[str, Provenance]:
        def of(*roles: str) -> str:
            return ", ".join(self._files[role].name for role in roles if role in self._files)

        licence = LICENCES["checkpoint"]
        by_role = {role: Provenance(f"ofer import from {of(role)}", licence, False) for role in ("idgen", "expgen")}
        by_stage = {
            "identity_context": by_role["idgen"], "idgen": by_role["idgen"],
            "expression_context": by_role["expgen"], "expgen": by_role["expgen"],
            "idrank": Provenance(f"ofer import from {of('idrank', 'flame', 'front_indices')}",
                                 f"{licence}; {LICENCES['flame']}", False),
        }  # fmt: skip
        sources = of("flame", "front_indices", "landmarks", "mediapipe", "masks")
        head = Provenance(f"ofer import from {sources}", LICENCES["flame"], False)
        return {"*": head} | {
            file: by_stage[name] for name, stage in self._stages.items() for file in stage["files"].values()
        }
