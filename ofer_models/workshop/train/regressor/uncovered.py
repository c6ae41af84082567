"""`ofer train regressor --uncovered`: a regressor that never saw a covered face, as a teacher for `ofer train learner`.

All its layers begin at nothing, because the landmark network's have seen what hides faces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.head.model import HeadModel
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.networks.landmarks import LandmarkNetwork
from ofer_models.workshop.networks.regressor import RegressorHead, RegressorNetwork
from ofer_models.workshop.pictures.people import dataset
from ofer_models.workshop.train.accelerator import Accelerator, short_floats_pay
from ofer_models.workshop.train.eyes.batches import crop_input
from ofer_models.workshop.train.loop import Keeper, Schedule, save_whole, train
from ofer_models.workshop.train.regressor.faces import uncovered
from ofer_models.workshop.train.regressor.loss import HeadLoss
from ofer_models.workshop.train.regressor.people import PeopleHeads, statistics
from ofer_models.workshop.train.regressor.targets import MirrorArrays, open_regressor
from ofer_models.workshop.train.regressor.training import NETWORK, load_regressor
from ofer_models.workshop.train.training_curves import TrainingCurves

CHECKPOINT = "uncovered.checkpoint"
_RATE, _DECAY, _BATCH = 1e-3, 5e-2, 50  # batch: of a validation


@dataclass(frozen=True)
class Plan:
    """pictures that are looked through for uncovered faces, how many times each of those is seen, held-out pictures,
    and the size of a batch."""

    pictures: int = 90_000
    epochs: int = 30
    held_out: int = 1_500
    batch: int = 64

    @classmethod
    def smoke(cls) -> Plan:
        """To see that every stage runs."""
        return cls(dataset.SHARD, 1, dataset.SHARD, 32)


def train_uncovered(
    head_path: Path, work: Path, people: Path, plan: Plan, *, seed: int = 1, again: bool = False,
    accelerator: Accelerator | None = None, log: Callable[[str], None] = print,
) -> RegressorNetwork:  # fmt: skip
    """Train in `work` on those pictures that `ofer train eyes` left in `people` in which nothing hides the face.

    Writes regressor.pt, curves and a checkpoint that a stopped run goes on from. again: start anew, and keep the
    network that was there aside. Raises DataError where there are fewer pictures, or too few of them uncovered.
    """
    accelerator = accelerator or Accelerator()
    work.mkdir(parents=True, exist_ok=True)
    if again and accelerator.main:
        for path in (work / NETWORK, work / CHECKPOINT):
            if path.is_file():
                path.replace(path.with_suffix(f".before{path.suffix}"))
    accelerator.wait()
    head, device = HeadModel.load(head_path), accelerator.device
    learned, held_out = (
        PeopleHeads.load(head, people / name, count)
        for name, count in (("pictures", plan.pictures), ("held_out", plan.held_out))
    )
    torch.manual_seed(seed)
    network = RegressorNetwork(LandmarkNetwork(), RegressorHead(*statistics(learned)))
    if (work / NETWORK).is_file():
        load_regressor(network, work / NETWORK)
        log(f"uncovered: {work / NETWORK} is there already")
        return network
    rows, watched = uncovered(learned), uncovered(held_out)
    if len(rows) < plan.batch or not len(watched):
        raise DataError(f"{len(rows)} uncovered faces in {plan.pictures} pictures are too few; draw more")
    log(f"uncovered: {len(rows)} faces, {len(watched)} held out")
    mirror, loss_of = MirrorArrays.of(head), HeadLoss(head, open_regressor(head)).to(device)

    def tell(called: nn.Module, crops: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=short_floats_pay(device)):
            return called(crop_input(crops.to(device)))

    def loss(called: nn.Module, index: Tensor, noise: torch.Generator) -> Tensor:
        rng = np.random.default_rng(torch.randint(2**31, (4,), generator=noise).tolist())
        crops, true = learned.augmented(rows[index.numpy()], mirror, rng, blocks=0.0)
        return loss_of(tell(called, crops), true.to(device))

    @torch.no_grad()
    def validate(average: nn.Module) -> float:
        parts: dict[str, list[Tensor]] = {}
        for start in range(0, len(watched), _BATCH):
            crops, true = held_out.plain(watched[start : start + _BATCH])
            for name, part in loss_of.parts(tell(average, crops), true.to(device)).items():
                parts.setdefault(name, []).append(part)
        means = {name: float(torch.cat(part).mean()) for name, part in parts.items()}
        log("uncovered: " + ", ".join(f"{name} {value:.3g}" for name, value in means.items()))
        return sum(means.values())

    steps = max(1, plan.epochs * len(rows) // plan.batch)
    trained, _ = train(
        network, loss, len(rows), Schedule(steps, plan.batch, _RATE, _DECAY, 0.998), validate=validate,
        name="uncovered", seed=seed, log=log, accelerator=accelerator, validations=20,
        keeper=Keeper(work / CHECKPOINT, curves=TrainingCurves(work, "uncovered"), made_of={"head": head.sha256}),
    )  # fmt: skip
    if accelerator.main:
        save_whole({"network": trained.state_dict(), "pictures": len(rows), "steps": steps}, work / NETWORK)
        (work / CHECKPOINT).unlink(missing_ok=True)
    accelerator.wait()
    return trained.eval()
