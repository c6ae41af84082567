"""Training of the context encoders, before any diffusion: regress coefficients, their uncertainty, what is covered, and
where the landmarks really are.

The heads are thrown away afterwards (but for occlusion); what stays is a context that says what the picture tells and
how surely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofer_models.head.model import HeadModel
from ofer_models.workshop.networks.open_context import CONTEXT, GIST, Branch, OpenContext, Pixels
from ofer_models.workshop.networks.visibility import Visibility
from ofer_models.workshop.pictures.dataset import PictureSet
from ofer_models.workshop.train.accelerator import Accelerator, short_floats_pay
from ofer_models.workshop.train.augmentation import augment, crop_input
from ofer_models.workshop.train.loop import History, Keeper, Schedule, train
from ofer_models.workshop.train.mirror import Mirror
from ofer_models.workshop.train.tasks import Task

REGIONS = ("brows", "eyes", "mouth", "face")
POINTS = 468  # landmarks whose true place is known: all but the irises


@dataclass(frozen=True)
class Guess:
    """An encoder's training heads: mean and log_variance (F, D) of the targets, offset (F, 468, 2) of the true
    landmarks from MediaPipe's in units of their deviation, hidden (F, 4) logits of the hidden share of REGIONS and
    occlusion (F,) of the face's.
    """

    mean: Tensor
    log_variance: Tensor
    offset: Tensor
    hidden: Tensor
    occlusion: Tensor


class TrainedBranch(nn.Module):
    """One encoder's branch with its training heads for D targets."""

    def __init__(self, n_targets: int) -> None:
        super().__init__()
        self.branch = Branch()
        self.mean, self.log_variance = nn.Linear(CONTEXT, n_targets), nn.Linear(CONTEXT, n_targets)
        self.hidden, self.occlusion = nn.Linear(CONTEXT, len(REGIONS)), nn.Linear(CONTEXT, 1)
        self.offset = nn.Linear(GIST, 2 * POINTS)

    def forward(self, landmarks: Tensor, pixels: Tensor) -> Guess:
        gist = self.branch.gist(landmarks, pixels)
        context = self.branch.context(gist)
        return Guess(
            self.mean(context), self.log_variance(context), self.offset(gist).unflatten(1, (POINTS, 2)),
            self.hidden(context), self.occlusion(context)[:, 0],
        )  # fmt: skip


class Encoders(nn.Module):
    """The bundle's encoders in training, by name: one look at the pixels, a branch for each."""

    def __init__(self, n_targets: dict[str, int]) -> None:
        super().__init__()
        self.pixels = Pixels()
        self.branches = nn.ModuleDict({name: TrainedBranch(count) for name, count in n_targets.items()})

    def forward(self, landmarks: Tensor, crop: Tensor) -> dict[str, Guess]:
        with torch.autocast(crop.device.type, torch.bfloat16, enabled=self.training and short_floats_pay(crop.device)):
            pixels = self.pixels(crop.to(memory_format=torch.channels_last))
        return {name: branch(landmarks, pixels.float()) for name, branch in self.branches.items()}

    def encoder(self, name: str, *, occlusion: bool = False, visibility: Visibility | None = None) -> OpenContext:
        """One encoder, as the bundle holds it; visibility: it also tells which landmarks are covered."""
        trained = self.branches[name]
        return OpenContext(self.pixels, trained.branch, trained.occlusion if occlusion else None, visibility)


def region_hidden(head: HeadModel, pictures: PictureSet) -> np.ndarray:
    """Share (n, 4) of each region's vertices that the camera does not see.

    A region that the head does not know is all of it. NaN where a picture's occlusion is unknown, as photographs' is.
    """
    visible = np.unpackbits(pictures.visible, axis=1, count=head.n_vertices)
    everywhere = np.arange(head.n_vertices)
    hidden = np.stack([1 - visible[:, head.masks.get(region, everywhere)].mean(1) for region in REGIONS], axis=1)
    hidden[~np.isfinite(pictures.occlusion)] = np.nan
    return hidden.astype(np.float32)


def train_contexts(
    head: HeadModel,
    training: PictureSet,
    validation: PictureSet,
    tasks: dict[str, Task],
    validation_tasks: dict[str, Task],
    mirror: Mirror | None,
    schedule: Schedule,
    *,
    seed: int,
    log: Callable[[str], None] = print,
    accelerator: Accelerator | None = None,
    keeper: Keeper | None = None,
) -> tuple[Encoders, History]:
    """Train all encoders at once; the validation figure is the squared vertex distance relative to guessing the mean,
    averaged over the tasks. Without a mirror, pictures are seen as they are only.
    """
    torch.manual_seed(seed)
    network = Encoders({name: task.targets.shape[1] for name, task in tasks.items()})
    for trained in network.branches.values():
        trained.branch.fit_inputs(torch.from_numpy(training.landmarks[:: max(1, len(training) // 8000)]).float())
    device = (accelerator or Accelerator()).device
    losses = {name: _TaskLoss(task, device) for name, task in tasks.items()}
    truths = {name: torch.from_numpy(task.targets) for name, task in tasks.items()}
    hidden, occlusion = torch.from_numpy(region_hidden(head, training)), torch.from_numpy(training.occlusion)
    landmarks, crops, offsets = torch.from_numpy(training.landmarks), torch.from_numpy(training.crop), Offsets(training)

    def loss(net: nn.Module, index: Tensor, noise: torch.Generator) -> Tensor:
        points, crop, offset = landmarks[index].float(), crop_input(crops[index]), offsets(index)
        targets = {name: truth[index] for name, truth in truths.items()}
        if mirror and torch.rand((), generator=noise) < 0.5:  # whole batches: half of them in the mirror
            points, crop, offset = mirror.landmarks(points), crop.flip(3), mirror.points(offset)
            targets = {name: tasks[name].in_mirror(target) for name, target in targets.items()}
        points, crop = augment(points, crop, noise)
        guesses = net(points.to(device), crop.to(device))
        seen, cover, offset = hidden[index].to(device), occlusion[index].to(device), offset.to(device)
        total = torch.zeros((), device=device)
        for name, guess in guesses.items():
            total = total + losses[name](guess, targets[name].to(device))
            total = total + 0.1 * (_where_known(guess.hidden, seen) + _where_known(guess.occlusion, cover))
            total = total + 0.25 * _known_square(guess.offset, offset)
        return total

    def validate(average: Encoders) -> float:
        relative = {}
        for name, task in validation_tasks.items():
            guess = predict(average, name, validation)[0]
            relative[name] = task.distance(guess - task.targets) / max(task.distance(task.targets), 1e-12)
        parts = ", ".join(f"{name} {part:.3f}" for name, part in relative.items())
        log(f"context: held out, of the mean's squared error: {parts}")
        return float(np.mean(list(relative.values())))

    return train(
        network, loss, len(training), schedule, validate=validate, name="context", seed=seed, log=log,
        accelerator=accelerator, keeper=keeper,
    )  # fmt: skip


class _TaskLoss:
    """Squared error of the vertices and of the coefficients, each relative to guessing the mean, and the likelihood of
    the variance that the network gives itself.

    Vertices are what is measured; coefficients that move few of them (lids, gaze) still mean much.
    """

    def __init__(self, task: Task, device: torch.device) -> None:
        values, vectors = np.linalg.eigh(task.metric / max(task.distance(task.targets), 1e-12))
        root = vectors * np.sqrt(np.maximum(values, 0))
        counts = task.importance / (task.importance * (task.targets**2).mean(0)).sum()
        self._root = torch.from_numpy(root.astype(np.float32)).to(device)
        self._counts = torch.from_numpy(counts.astype(np.float32)).to(device)

    def __call__(self, guess: Guess, target: Tensor) -> Tensor:
        error = guess.mean - target
        log_variance = guess.log_variance.clamp(-6, 2)
        likelihood = (error.detach() ** 2 * torch.exp(-log_variance) + log_variance).mean()
        vertices, coefficients = ((error @ self._root) ** 2).sum(1), (error**2 * self._counts).sum(1)
        return vertices.mean() + coefficients.mean() + 0.05 * likelihood


class Offsets:
    """Where the landmarks really are, from where MediaPipe sees them, in units of their deviation over the set."""

    def __init__(self, pictures: PictureSet) -> None:
        self._seen, self._true = pictures.landmarks, pictures.true_landmarks
        if self._true is not None:
            some = slice(None, None, max(1, len(pictures) // 4000))
            self.unit = float((self._true[some].astype(np.float32) - self._seen[some, :POINTS, :2]).std())

    def __call__(self, index: Tensor) -> Tensor:
        """(n, 468, 2) float32; NaN where the set does not tell."""
        if self._true is None:
            return torch.full((len(index), POINTS, 2), torch.nan)
        rows = index.numpy()
        offset = self._true[rows].astype(np.float32) - self._seen[rows, :POINTS, :2].astype(np.float32)
        return torch.from_numpy(offset / self.unit).clamp(-8, 8)


def _known_square(guess: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error over what is not NaN; zero if nothing is known."""
    known = torch.isfinite(truth)
    return ((guess - truth)[known] ** 2).sum() / max(truth.numel(), 1)


def _where_known(guess: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of logits with shares in 0..1, over those that are not NaN; zero if none is known."""
    known = torch.isfinite(truth)
    if known.all():
        return F.binary_cross_entropy_with_logits(guess, truth)
    return F.binary_cross_entropy_with_logits(guess[known], truth[known], reduction="sum") / max(len(truth), 1)


@torch.no_grad()
def predict(network: Encoders, name: str, pictures: PictureSet, size: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """One encoder's means (n, D) and contexts (n, C) of all pictures, in evaluation mode."""
    network.eval()
    encoder, mean = network.encoder(name), network.branches[name].mean
    device = mean.weight.device
    means, contexts = [], []
    for start in range(0, len(pictures), size):
        rows = slice(start, start + size)
        context = encoder(
            torch.from_numpy(pictures.landmarks[rows]).float().to(device),
            crop_input(torch.from_numpy(pictures.crop[rows])).to(device),
        )
        means.append(mean(context).cpu().numpy())
        contexts.append(context.cpu().numpy())
    return np.concatenate(means), np.concatenate(contexts)
