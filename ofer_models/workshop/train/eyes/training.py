"""`ofer train eyes`: draw people, train the landmark network on them, and watch it on renderings and on real faces.

What was trained on fewer pictures is where the training on more of them starts, so that a run can begin while pictures
are still being drawn, and go on in another session with more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.perception.crops import canonical_face
from ofer_models.workshop.networks.landmarks import LandmarkNetwork
from ofer_models.workshop.pictures.people import dataset
from ofer_models.workshop.train.accelerator import Accelerator, short_floats_pay
from ofer_models.workshop.train.eyes.batches import augmented, crop_input
from ofer_models.workshop.train.eyes.faces import Faces, load_faces
from ofer_models.workshop.train.eyes.loss import difference_loss, landmark_loss
from ofer_models.workshop.train.eyes.validation import on_faces, on_renderings
from ofer_models.workshop.train.loop import History, Keeper, Schedule, load_whole, save_whole, train
from ofer_models.workshop.train.mirror import mirrored_order
from ofer_models.workshop.train.training_curves import TrainingCurves

NETWORK = "landmarks.pt"
CHECKPOINT = "eyes.checkpoint"
CURVE = "curve.json"
_RATE, _RATE_AGAIN = 1.5e-3, 1e-3  # from nothing, and from a network trained on fewer pictures


@dataclass(frozen=True)
class Plan:
    """pictures, how many times each is seen, held-out pictures, and the size of a batch."""

    pictures: int
    epochs: int = 10
    held_out: int = 1_500
    batch: int = 64

    @classmethod
    def smoke(cls) -> Plan:
        """Minutes instead of hours, to see that every stage runs."""
        return cls(dataset.SHARD, 1, dataset.SHARD, 32)

    @property
    def steps(self) -> int:
        return self.epochs * self.pictures // self.batch


def train_eyes(
    head: Path, work: Path, plan: Plan, *, seed: int = 1, workers: int = 2, photographs: Sequence[Path] = (),
    again: bool = False, progress: Callable = lambda iterable, text, total: iterable,
    accelerator: Accelerator | None = None, log: Callable[[str], None] = print,
) -> LandmarkNetwork:  # fmt: skip
    """Train for a plan in a working folder and return the network; what is there already is not done again.

    Writes landmarks.pt, curve.json (a row for each validation) and a checkpoint that a stopped run goes on from.
    photographs: folders of annotated faces to watch the training on. again: start anew, and keep what was there aside.
    """
    accelerator = accelerator or Accelerator()
    if not again and (work / NETWORK).is_file():
        network = LandmarkNetwork()
        learned = load_network(network, work / NETWORK)["pictures"]
        if learned >= plan.pictures:
            log(f"eyes: {work / NETWORK} has learned from {learned} pictures already")
            return network
    if accelerator.main:
        draw_held_out(head, work, plan, workers, progress)
        dataset.generate(head, work, work / "pictures", plan.pictures, seed=seed, workers=workers, progress=progress)
        for path in (work / NETWORK, work / CHECKPOINT):
            if again and path.is_file():
                path.replace(path.with_suffix(f".before{path.suffix}"))
    accelerator.wait()
    pictures = dataset.load(work / "pictures", plan.pictures)
    held_out = dataset.load(work / "held_out", plan.held_out)
    torch.manual_seed(seed)
    network, start = LandmarkNetwork(), {"pictures": 0, "steps": 0}
    if (work / NETWORK).is_file():
        start = load_network(network, work / NETWORK)
        log(f"eyes: starts from the network of {start['pictures']} pictures")
    faces = load_faces(photographs) if photographs and accelerator.main else None
    watch = _Watch(work / CURVE, held_out, faces, start, plan.pictures, log)
    order = mirrored_order(canonical_face())

    def loss(called: nn.Module, index: Tensor, noise: torch.Generator) -> Tensor:
        rng = np.random.default_rng(torch.randint(2**31, (4,), generator=noise).tolist())
        crops, points, visible = augmented(pictures, index.numpy(), order, rng)
        device = accelerator.device
        with torch.autocast(device.type, torch.bfloat16, enabled=short_floats_pay(device)):
            predicted = called(crop_input(crops.to(device)))
        points, visible = points.to(device), visible.to(device)
        return landmark_loss(*predicted, points, visible) + difference_loss(predicted[0], points, visible)

    rate = _RATE_AGAIN if start["pictures"] else _RATE
    trained, _ = train(
        _Raw(network).to(memory_format=torch.channels_last), loss, len(pictures),
        Schedule(plan.steps, plan.batch, rate, 1e-4, 0.998),
        validate=lambda average: watch(average.network), name="eyes", seed=seed + start["steps"], log=log,
        accelerator=accelerator, keeper=Keeper(work / CHECKPOINT, curves=watch.keep), validations=plan.epochs,
    )  # fmt: skip
    network = trained.network.to(memory_format=torch.contiguous_format)
    if accelerator.main:
        save_whole(
            {"network": network.state_dict(), "pictures": plan.pictures, "steps": start["steps"] + plan.steps},
            work / NETWORK,
        )
        (work / CHECKPOINT).unlink(missing_ok=True)
    accelerator.wait()
    return network


def draw_held_out(
    head: Path, work: Path, plan: Plan, workers: int = 2,
    progress: Callable = lambda iterable, text, total: iterable,
) -> dataset.PeopleSet:  # fmt: skip
    """The pictures of a working folder that are never trained on, drawn where they are not there yet."""
    folder, seed = work / "held_out", dataset.HELD_OUT_SEED
    dataset.generate(head, work, folder, plan.held_out, seed=seed, workers=workers, progress=progress)
    return dataset.load(folder, plan.held_out)


def load_network(network: LandmarkNetwork, path: Path) -> dict[str, int]:
    """Load a trained network's weights; returns from how many pictures and steps it learned. Raises DataError."""
    return load_whole(network, path, "network of `ofer train eyes`")


class _Raw(nn.Module):
    """The network as its loss wants it."""

    def __init__(self, network: LandmarkNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.network.raw(crop)


class _Watch:
    """Measures the network at every validation and keeps the figures, by step, in a file that outlives a stop."""

    def __init__(
        self, path: Path, held_out: dataset.PeopleSet, faces: Faces | None, start: dict[str, int], pictures: int,
        log: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._path, self._held_out, self._faces, self._start = path, held_out, faces, start
        self._pictures, self._log = pictures, log
        self._figures: dict[str, float] = {}
        self._curves = TrainingCurves(path.parent, "eyes")

    def __call__(self, network: LandmarkNetwork) -> float:
        """The held-out visible and hidden error together: what the best network is chosen by."""
        self._figures = on_renderings(network, self._held_out)
        if self._faces is not None:
            self._figures |= on_faces(network, self._faces)
        self._log("eyes: " + ", ".join(f"{name} {value:.3g}" for name, value in self._figures.items()))
        return self._figures["visible_mean"] + 0.5 * self._figures["hidden_mean"]

    def keep(self, history: History) -> None:
        """Append the newest figures; what a stopped run wrote beyond its checkpoint is written once more."""
        step, loss, _ = history.rows[-1]
        total = self._start["steps"] + step
        rows = json.loads(self._path.read_text()) if self._path.is_file() else []
        rows = [row for row in rows if row["step"] < total]
        rows.append({"step": total, "pictures": self._pictures, "loss": loss, **self._figures})
        self._path.write_text(json.dumps(rows, indent=1))
        self._curves(history)
