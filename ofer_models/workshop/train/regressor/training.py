"""`ofer train regressor`: the open regressor, on pictures of people, upon the landmark network of `ofer train eyes`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.files.hashing import sha256_of
from ofer_models.head.model import HeadModel
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.networks.landmarks import LandmarkNetwork
from ofer_models.workshop.networks.regressor import RegressorHead, RegressorNetwork
from ofer_models.workshop.pictures.people import dataset
from ofer_models.workshop.train.accelerator import Accelerator
from ofer_models.workshop.train.eyes.training import NETWORK as LANDMARKS
from ofer_models.workshop.train.eyes.training import load_network
from ofer_models.workshop.train.loop import Keeper, Schedule, load_whole, save_whole, train
from ofer_models.workshop.train.regressor.features import SeenHeads, seen_heads
from ofer_models.workshop.train.regressor.loss import HeadLoss
from ofer_models.workshop.train.regressor.people import PeopleHeads, statistics
from ofer_models.workshop.train.regressor.targets import MirrorArrays, open_regressor
from ofer_models.workshop.train.training_curves import TrainingCurves

NETWORK, CHECKPOINT, LOOKS = "regressor.pt", "regressor.checkpoint", "looks"
_RATE, _DECAY = 1e-3, 5e-2
_DROPPED = 0.2  # share of the features that a training step does not see
_MEASURED = 8000  # looks that the features' deviations are measured on


@dataclass(frozen=True)
class Plan:
    """pictures, in how many disguises each is looked at, how many times each look is seen, held-out pictures, and the
    size of a batch."""

    pictures: int = 90_000
    disguises: int = 3
    epochs: int = 12
    held_out: int = 1_500
    batch: int = 256

    @classmethod
    def smoke(cls) -> Plan:
        """To see that every stage runs."""
        return cls(dataset.SHARD, 1, 2, dataset.SHARD, 64)

    @property
    def steps(self) -> int:
        return self.epochs * self.disguises * self.pictures // self.batch


def train_regressor(
    head_path: Path, work: Path, people: Path, plan: Plan, *, seed: int = 1, workers: int = 2, again: bool = False,
    progress: Callable = lambda iterable, text, total: iterable, accelerator: Accelerator | None = None,
    log: Callable[[str], None] = print,
) -> RegressorNetwork:  # fmt: skip
    """Train in `work`, upon the landmark network and on the pictures that `ofer train eyes` left in `people`; what is
    there already is not done again, pictures that are missing are drawn.

    Writes regressor.pt, curves, what the convolutions saw, and a checkpoint that a stopped run goes on from. again:
    start anew, and keep the network that was there aside. Raises DataError without a landmark network.
    """
    accelerator = accelerator or Accelerator()
    landmarks = LandmarkNetwork()
    if not (people / LANDMARKS).is_file():
        raise DataError(f"{people / LANDMARKS} is not there, and the regressor builds on it; run `ofer train eyes`")
    load_network(landmarks, people / LANDMARKS)
    work.mkdir(parents=True, exist_ok=True)
    if accelerator.main:
        sets = (("held_out", plan.held_out, dataset.HELD_OUT_SEED), ("pictures", plan.pictures, seed))
        for folder, count, own in sets:
            if dataset.drawn(people / folder) < count:
                dataset.generate(
                    head_path, people, people / folder, count, seed=own, workers=workers, progress=progress
                )
        if again:
            _set_aside(work)
    accelerator.wait()
    head = HeadModel.load(head_path)
    learned, held_out = (
        PeopleHeads.load(head, people / name, count)
        for name, count in (("pictures", plan.pictures), ("held_out", plan.held_out))
    )
    torch.manual_seed(seed)
    network = RegressorNetwork(landmarks, RegressorHead(*statistics(learned))).to(accelerator.device)
    if (work / NETWORK).is_file():
        load_regressor(network, work / NETWORK)
        log(f"regressor: {work / NETWORK} is there already")
        return network.cpu()
    made_of = {"head": head.sha256, "landmarks": sha256_of(people / LANDMARKS), "seed": seed}
    mirror, loss_of = MirrorArrays.of(head), HeadLoss(head, open_regressor(head)).to(accelerator.device)
    known, watched = (
        seen_heads(network, heads, work / LOOKS / name, count, seed, made_of, mirror, progress)
        for name, heads, count in (("pictures", learned, plan.disguises), ("held_out", held_out, 0))
    )
    network.head.scale.copy_(torch.from_numpy(_one_over_deviation(known)))

    def loss(called: nn.Module, index: Tensor, noise: torch.Generator) -> Tensor:
        features, true = _rows(known, index.numpy(), accelerator.device)
        kept = torch.rand(features.shape, generator=noise).to(features.device) >= _DROPPED
        return loss_of(called(features * kept / (1 - _DROPPED)), true)

    def validate(average: nn.Module) -> float:
        parts = validation(average, loss_of, watched)
        log("regressor: " + ", ".join(f"{name} {value:.3g}" for name, value in parts.items()))
        return sum(parts.values())

    trained, _ = train(
        network.head, loss, len(known), Schedule(plan.steps, plan.batch, _RATE, _DECAY, 0.998), validate=validate,
        name="regressor", seed=seed, log=log, accelerator=accelerator,
        keeper=Keeper(work / CHECKPOINT, curves=TrainingCurves(work, "regressor"), made_of=made_of),
        validations=plan.epochs,
    )  # fmt: skip
    network = RegressorNetwork(landmarks.cpu(), trained).eval()
    if accelerator.main:
        save_whole({"network": network.state_dict(), "pictures": plan.pictures, "steps": plan.steps}, work / NETWORK)
        (work / CHECKPOINT).unlink(missing_ok=True)
    accelerator.wait()
    return network


@torch.no_grad()
def validation(network: nn.Module, loss_of: HeadLoss, heads: SeenHeads) -> dict[str, float]:
    """The mean of each part of the loss."""
    features, true = _rows(heads, slice(None), next(network.parameters()).device)
    parts = loss_of.parts(network(features), true)
    return {name: float(part.mean()) for name, part in parts.items()}


def load_regressor(network: nn.Module, path: Path) -> dict[str, int]:
    """Load a trained network's weights; returns from how many pictures and steps it learned. Raises DataError."""
    return load_whole(network, path, "regressor of `ofer train`")


def _set_aside(work: Path) -> None:
    for path in (work / NETWORK, work / CHECKPOINT):
        if path.is_file():
            path.replace(path.with_suffix(f".before{path.suffix}"))
    shutil.rmtree(work / LOOKS, ignore_errors=True)  # gigabytes, and soon made again


def _one_over_deviation(heads: SeenHeads) -> np.ndarray:
    some = heads.features[:: max(1, len(heads) // _MEASURED)].astype(np.float32)
    return 1 / np.maximum(some.std(0), 0.05)


def _rows(heads: SeenHeads, rows: np.ndarray | slice, device: torch.device) -> tuple[Tensor, Tensor]:
    features, true = heads.features[rows].astype(np.float32), heads.true[rows]
    return torch.from_numpy(features).to(device), torch.from_numpy(np.ascontiguousarray(true)).to(device)
