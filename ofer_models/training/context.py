"""Training of the context encoders, before any diffusion: regress coefficients, their uncertainty, and what is covered.

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
from ofer_models.networks.open_context import CONTEXT, OpenContext
from ofer_models.synthesis.dataset import PictureSet
from ofer_models.training.loop import History, Keeper, Schedule, train
from ofer_models.training.machine import Machine
from ofer_models.training.mirror import Mirror

REGIONS = ("brows", "eyes", "mouth", "face")


@dataclass(frozen=True)
class Normaliser:
    """Coefficients as the networks see them: (raw - mean) / deviation, per coefficient (D,)."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def fit(cls, coefficients: np.ndarray) -> Normaliser:
        return cls(coefficients.mean(0).astype(np.float32), np.maximum(coefficients.std(0), 1e-3).astype(np.float32))

    def symmetric(self, mirror: Mirror) -> Normaliser:
        """The same for both sides, so that mirroring commutes with it."""
        order, sign = mirror.coefficient_order.numpy(), mirror.coefficient_sign.numpy()
        return Normaliser((self.mean + self.mean[order] * sign) / 2, (self.deviation + self.deviation[order]) / 2)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        return ((raw - self.mean) / self.deviation).astype(np.float32)

    def decode(self, normal: np.ndarray) -> np.ndarray:
        return (normal * self.deviation + self.mean).astype(np.float32)


class Supervised(nn.Module):
    """An encoder with its training's heads: mean and log variance of D targets, hidden share of REGIONS, occlusion."""

    def __init__(self, encoder: OpenContext, n_targets: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.mean, self.log_variance = nn.Linear(CONTEXT, n_targets), nn.Linear(CONTEXT, n_targets)
        self.hidden, self.occlusion = nn.Linear(CONTEXT, len(REGIONS)), nn.Linear(CONTEXT, 1)

    def forward(self, landmarks: Tensor, crop: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # Twice as fast where the processor has it.
        with torch.autocast(crop.device.type, torch.bfloat16, enabled=self.training):
            context = self.encoder(landmarks, crop.to(memory_format=torch.channels_last))
        context = context.float()
        return self.mean(context), self.log_variance(context), self.hidden(context), self.occlusion(context)[:, 0]


def region_hidden(head: HeadModel, pictures: PictureSet) -> np.ndarray:
    """Share (n, 4) of each region's vertices that the camera does not see.

    A region that the head does not know is all of it. NaN where a picture's occlusion is unknown, as photographs' is.
    """
    visible = np.unpackbits(pictures.visible, axis=1, count=head.n_vertices)
    everywhere = np.arange(head.n_vertices)
    hidden = np.stack([1 - visible[:, head.masks.get(region, everywhere)].mean(1) for region in REGIONS], axis=1)
    hidden[~np.isfinite(pictures.occlusion)] = np.nan
    return hidden.astype(np.float32)


def train_context(
    head: HeadModel,
    training: PictureSet,
    validation: PictureSet,
    targets: np.ndarray,
    validation_targets: np.ndarray,
    importance: np.ndarray,
    mirror: Mirror | None,
    mirror_targets: Callable[[Tensor], Tensor],
    schedule: Schedule,
    *,
    name: str,
    seed: int,
    log: Callable[[str], None] = print,
    machine: Machine | None = None,
    keeper: Keeper | None = None,
) -> tuple[Supervised, History]:
    """Train on normalised targets (n, D) whose errors count by importance (D,); the validation figure is the weighted
    squared error relative to guessing the mean. Without a mirror, pictures are seen as they are only.
    """
    torch.manual_seed(seed)
    encoder = OpenContext()
    encoder.fit_inputs(torch.from_numpy(training.landmarks[:: max(1, len(training) // 8000)]).float())
    network = Supervised(encoder, targets.shape[1])
    counts = (importance / importance.mean()).astype(np.float32)
    weight = torch.from_numpy(counts)
    truth, hidden = torch.from_numpy(targets), torch.from_numpy(region_hidden(head, training))
    occlusion = torch.from_numpy(training.occlusion)
    landmarks, crops = torch.from_numpy(training.landmarks), torch.from_numpy(training.crop)
    device = (machine or Machine()).device
    weight = weight.to(device)

    def loss(net: nn.Module, index: Tensor, noise: torch.Generator) -> Tensor:
        points, crop, target = landmarks[index].float(), crop_input(crops[index]), truth[index]
        if mirror and torch.rand((), generator=noise) < 0.5:  # whole batches: half of them in the mirror
            points, crop, target = mirror.landmarks(points), crop.flip(3), mirror_targets(target)
        points, crop = augment(points, crop, noise)
        mean, log_variance, hidden_guess, occlusion_guess = net(points.to(device), crop.to(device))
        square = (mean - target.to(device)) ** 2
        log_variance = log_variance.clamp(-6, 2)
        likelihood = (square.detach() * torch.exp(-log_variance) + log_variance).mean()
        seen = _where_known(hidden_guess, hidden[index].to(device))
        cover = _where_known(occlusion_guess, occlusion[index].to(device))
        return (square * weight).mean() + 0.05 * likelihood + 0.1 * (seen + cover)

    def validate(average: Supervised) -> float:
        guess = predict(average, validation)[0]
        square = counts * (guess - validation_targets) ** 2
        return float(square.mean() / (counts * validation_targets**2).mean())

    return train(
        network, loss, len(training), schedule, validate=validate, name=name, seed=seed, log=log, machine=machine,
        keeper=keeper,
    )  # fmt: skip


def _where_known(guess: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of logits with shares in 0..1, over those that are not NaN; zero if none is known."""
    known = torch.isfinite(truth)
    if known.all():
        return F.binary_cross_entropy_with_logits(guess, truth)
    return F.binary_cross_entropy_with_logits(guess[known], truth[known], reduction="sum") / max(len(truth), 1)


def crop_input(crops: Tensor) -> Tensor:
    """uint8 (n, 112, 112, 3) to float (n, 3, 112, 112) in -1..1."""
    return (crops.permute(0, 3, 1, 2).float() - 127.5) / 127.5


def augment(landmarks: Tensor, crop: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise on landmarks; per picture brightness, contrast, colour, sometimes grey, as cameras differ.

    Some lose their fine detail, and of one in ten nothing is left: renderings look alike in ways
    that faces do not, and the landmarks must be able to carry the picture alone.
    """
    n = len(crop)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def some(share: float) -> Tensor:
        return (torch.rand((n, 1, 1, 1), generator=generator) < share).float()

    landmarks = landmarks + 0.006 * normal(*landmarks.shape)
    if torch.rand((), generator=generator) < 0.5:
        coarse = F.interpolate(F.avg_pool2d(crop, 2), scale_factor=2, mode="bilinear", align_corners=False)
        crop = crop + some(0.5) * (coarse - crop)
    crop = crop * (1 + 0.25 * normal(n, 1, 1, 1) + 0.08 * normal(n, 3, 1, 1)) + 0.15 * normal(n, 1, 1, 1)
    crop = crop + some(0.15) * (crop.mean(1, keepdim=True) - crop)
    return landmarks, crop.clamp(-1.2, 1.2) * (1 - some(0.1))


@torch.no_grad()
def predict(network: Supervised, pictures: PictureSet, size: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Means (n, D) and contexts (n, C) of all pictures, in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    means, contexts = [], []
    for start in range(0, len(pictures), size):
        rows = slice(start, start + size)
        context = network.encoder(
            torch.from_numpy(pictures.landmarks[rows]).float().to(device),
            crop_input(torch.from_numpy(pictures.crop[rows])).to(device),
        )
        means.append(network.mean(context).cpu().numpy())
        contexts.append(context.cpu().numpy())
    return np.concatenate(means), np.concatenate(contexts)
