"""`ofer train regressor`: the open regressor, on pictures of people, from the landmark network's first layers on.

What was trained on fewer pictures is where the training on more of them starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.files.hashing import sha256_of
from ofer_models.files.refusal import one_line
from ofer_models.head.model import HeadModel
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.networks.landmarks import LandmarkNetwork
from ofer_models.workshop.networks.regressor import RegressorNetwork
from ofer_models.workshop.official.pickle_machine import UnsafePickleError
from ofer_models.workshop.official.torch_tensors import load_torch
from ofer_models.workshop.pictures.people import dataset
from ofer_models.workshop.train.accelerator import Accelerator, short_floats_pay
from ofer_models.workshop.train.eyes.batches import crop_input
from ofer_models.workshop.train.eyes.training import NETWORK as LANDMARKS
from ofer_models.workshop.train.eyes.training import load_network
from ofer_models.workshop.train.loop import Keeper, Schedule, save_whole, train
from ofer_models.workshop.train.regressor.loss import HeadLoss
from ofer_models.workshop.train.regressor.people import PeopleHeads, statistics
from ofer_models.workshop.train.regressor.targets import MirrorArrays, open_regressor
from ofer_models.workshop.train.training_curves import TrainingCurves

NETWORK, CHECKPOINT = "regressor.pt", "regressor.checkpoint"
_RATE, _RATE_AGAIN = 1.5e-3, 1e-3  # from the landmark network, and from a regressor trained on fewer pictures
_BATCH = 100  # of a validation


@dataclass(frozen=True)
class Plan:
    """pictures, how many times each is seen, held-out pictures, and the size of a batch."""

    pictures: int = 90_000
    epochs: int = 8
    held_out: int = 1_500
    batch: int = 64

    @classmethod
    def smoke(cls) -> Plan:
        """To see that every stage runs."""
        return cls(dataset.SHARD, 1, dataset.SHARD, 32)

    @property
    def steps(self) -> int:
        return self.epochs * self.pictures // self.batch


def train_regressor(
    head_path: Path, work: Path, people: Path, plan: Plan, *, seed: int = 1, workers: int = 2, again: bool = False,
    progress: Callable = lambda iterable, text, total: iterable, accelerator: Accelerator | None = None,
    log: Callable[[str], None] = print,
) -> RegressorNetwork:  # fmt: skip
    """Train in `work` on the pictures of people that `ofer train eyes` draws in `people`, where its landmark network
    may lie as well, to start from; what is there already is not done again.

    Writes regressor.pt, curves, and a checkpoint that a stopped run goes on from. again: start anew, and keep what was
    there aside.
    """
    accelerator = accelerator or Accelerator()
    work.mkdir(parents=True, exist_ok=True)
    if accelerator.main:
        sets = (("held_out", plan.held_out, dataset.HELD_OUT_SEED), ("pictures", plan.pictures, seed))
        for folder, count, own in sets:
            if dataset.drawn(people / folder) < count:
                dataset.generate(
                    head_path, people, people / folder, count, seed=own, workers=workers, progress=progress
                )
        for path in (work / NETWORK, work / CHECKPOINT):
            if again and path.is_file():
                path.replace(path.with_suffix(f".before{path.suffix}"))
    accelerator.wait()
    head = HeadModel.load(head_path)
    learned, held_out = (
        PeopleHeads.load(head, people / name, count)
        for name, count in (("pictures", plan.pictures), ("held_out", plan.held_out))
    )
    spec = open_regressor(head)
    torch.manual_seed(seed)
    mean, deviation = statistics(learned)
    network = RegressorNetwork(mean, deviation)
    made_of, start = {"head": head.sha256, "start": ""}, {"pictures": 0, "steps": 0}
    if (work / NETWORK).is_file():
        start = load_regressor(network, work / NETWORK)
        if start["pictures"] >= plan.pictures:
            log(f"regressor: {work / NETWORK} has learned from {start['pictures']} pictures already")
            return network
        made_of["start"] = sha256_of(work / NETWORK)
        log(f"regressor: starts from the regressor of {start['pictures']} pictures")
    elif (people / LANDMARKS).is_file():
        landmarks = LandmarkNetwork()
        load_network(landmarks, people / LANDMARKS)
        network.start_from(landmarks)
        made_of["start"] = sha256_of(people / LANDMARKS)
        log(f"regressor: starts from the first layers of {people / LANDMARKS}")
    mirror, loss_of = MirrorArrays.of(head), HeadLoss(head, spec).to(accelerator.device)

    def loss(called: nn.Module, index: Tensor, noise: torch.Generator) -> Tensor:
        rng = np.random.default_rng(torch.randint(2**31, (4,), generator=noise).tolist())
        crops, true = learned.augmented(index.numpy(), mirror, rng)
        return loss_of(run(called, crops, accelerator.device), true.to(accelerator.device))

    def validate(average: nn.Module) -> float:
        parts = validation(average, loss_of, held_out)
        log("regressor: " + ", ".join(f"{name} {value:.3g}" for name, value in parts.items()))
        return sum(parts.values())

    trained, _ = train(
        network.to(memory_format=torch.channels_last), loss, len(learned),
        Schedule(plan.steps, plan.batch, _RATE_AGAIN if start["pictures"] else _RATE, 1e-2, 0.998), validate=validate,
        name="regressor", seed=seed + start["steps"], log=log, accelerator=accelerator,
        keeper=Keeper(work / CHECKPOINT, curves=TrainingCurves(work, "regressor"), made_of=made_of),
        validations=2 * plan.epochs,
    )  # fmt: skip
    trained = trained.to(memory_format=torch.contiguous_format)
    if accelerator.main:
        save_whole(
            {"network": trained.state_dict(), "pictures": plan.pictures, "steps": start["steps"] + plan.steps},
            work / NETWORK,
        )
        (work / CHECKPOINT).unlink(missing_ok=True)
    accelerator.wait()
    return trained


def run(network: nn.Module, crops: Tensor, device: torch.device) -> Tensor:
    """Coefficients of crops (n, 128, 128, 3) uint8, in short floats where that is quicker."""
    with torch.autocast(device.type, torch.bfloat16, enabled=short_floats_pay(device)):
        return network(crop_input(crops.to(device)))


@torch.no_grad()
def validation(network: nn.Module, loss_of: HeadLoss, heads: PeopleHeads) -> dict[str, float]:
    """The mean of each part of the loss on pictures as drawn."""
    device, sums = next(network.parameters()).device, []
    for start in range(0, len(heads), _BATCH):
        crops, true = heads.plain(np.arange(start, min(start + _BATCH, len(heads))))
        sums.append(loss_of.parts(network(crop_input(crops.to(device))), true.to(device)))
    return {name: float(torch.cat([part[name] for part in sums]).mean()) for name in sums[0]}


def load_regressor(network: RegressorNetwork, path: Path) -> dict[str, int]:
    """Load a trained network's weights; returns from how many pictures and steps it learned. Raises DataError."""
    try:
        state = load_torch(path)
        network.load_state_dict(state["network"])
        return {name: int(state[name]) for name in ("pictures", "steps")}
    except UnsafePickleError as error:
        raise DataError(f"{path.parent}: {error}; `--again` trains it anew") from None
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = f"is no network of `ofer train regressor` ({one_line(error)})"
        raise DataError(f"{path} {reason}; `--again` trains it anew") from None
