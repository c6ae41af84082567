"""Training of what tells which landmarks are covered: on renderings, and on photographs with occluders drawn over them.

The encoders' convolutions stay as they are; what is trained are two layers on their output. What a rendering hides by
turning away is left out: that the pose tells, and pixels of it say nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofer_models.head.model import HeadModel
from ofer_models.workshop.networks.open_context import Pixels
from ofer_models.workshop.networks.visibility import Visibility
from ofer_models.workshop.pictures.dataset import PictureSet
from ofer_models.workshop.train.accelerator import Accelerator
from ofer_models.workshop.train.augmentation import crop_input
from ofer_models.workshop.train.loop import History, Keeper, Schedule, train

_BATCH = 200
_HELD_OUT = 0.05


@dataclass(frozen=True)
class CoveredFaces:
    """crop (n, 112, 112, 3) uint8 and open (n, 468) float16: 1 where nothing covers a landmark, 0 where something does,
    NaN where the camera would not see it anyway."""

    crop: np.ndarray
    open: np.ndarray

    def __len__(self) -> int:
        return len(self.crop)

    @classmethod
    def rendered(cls, head: HeadModel, pictures: PictureSet) -> CoveredFaces:
        """From renderings: a landmark is covered as most of its triangle's corners are, by their weights."""
        embedding = head.embeddings["mediapipe"]
        corners = head.faces[embedding.triangle]
        known = np.empty((len(pictures), len(corners)), np.float16)
        for start in range(0, len(pictures), 1000):
            visible, covered = (
                np.unpackbits(bits[start : start + 1000], axis=1, count=head.n_vertices)[:, corners] * embedding.bary
                for bits in (pictures.visible, pictures.covered)
            )
            shown, hidden = visible.sum(-1), covered.sum(-1)
            known[start : start + 1000] = np.where(shown + hidden > 0.5, shown > hidden, np.nan)
        return cls(pictures.crop, known)

    @classmethod
    def photographed(cls, crops: np.ndarray, covered: np.ndarray) -> CoveredFaces:
        """From photographs with drawn occluders: crops (n, 112, 112, 3), covered (n, 468) bool."""
        return cls(crops, (~covered).astype(np.float16))


def train_visibility(
    pixels: Pixels,
    rendered: CoveredFaces,
    photographed: CoveredFaces,
    schedule: Schedule,
    *,
    seed: int,
    log: Callable[[str], None] = print,
    accelerator: Accelerator | None = None,
    keeper: Keeper | None = None,
) -> tuple[Visibility, History]:
    """Train on crops as they are and in disguise, photographs in two; the validation figure is the cross-entropy on the
    first twentieth of each set."""
    torch.manual_seed(seed)
    noise = torch.Generator().manual_seed(seed)
    pixels.eval()
    learned, watched = [], []
    for faces, disguises in ((rendered, 1), (photographed, 2)):
        held = max(1, round(_HELD_OUT * len(faces)))
        for disguised in range(1 + disguises):
            seen = _features(pixels, faces.crop, noise if disguised else None)
            learned.append((seen[held:], faces.open[held:]))
            watched.append((seen[:held], faces.open[:held]))
    seen, known = (torch.from_numpy(np.concatenate(part)) for part in zip(*learned, strict=True))
    seen_then, known_then = (torch.from_numpy(np.concatenate(part)) for part in zip(*watched, strict=True))
    network = Visibility(seen.shape[1])
    network.scale.copy_(1 / seen[:: max(1, len(seen) // 8000)].float().std(0).clamp_min(0.05))
    device = (accelerator or Accelerator()).device

    def loss(net: nn.Module, index: Tensor, _: torch.Generator) -> Tensor:
        return _cross_entropy(net(seen[index].float().to(device)), known[index].float().to(device))

    @torch.no_grad()
    def validate(average: Visibility) -> float:
        guesses = average(seen_then.float().to(device)).cpu()
        there = torch.isfinite(known_then)
        right = ((guesses > 0) == (known_then > 0.5))[there].float().mean()
        log(f"visibility: {100 * right:.1f} % of the held-out landmarks told rightly")
        return float(_cross_entropy(guesses, known_then.float()))

    return train(
        network, loss, len(seen), schedule, validate=validate, name="visibility", seed=seed, log=log,
        accelerator=accelerator, keeper=keeper,
    )  # fmt: skip


@torch.no_grad()
def _features(pixels: Pixels, crops: np.ndarray, noise: torch.Generator | None) -> np.ndarray:
    """Outputs (n, D) float16 of the convolutions for crops (n, 112, 112, 3), disguised with noise."""
    parts = []
    for start in range(0, len(crops), _BATCH):
        crop = crop_input(torch.from_numpy(crops[start : start + _BATCH]))
        crop = disguise(crop, noise) if noise else crop
        parts.append(pixels.convolved(crop.to(next(pixels.parameters()).device)).cpu().numpy().astype(np.float16))
    return np.concatenate(parts)


def _cross_entropy(logits: Tensor, known: Tensor) -> Tensor:
    there = torch.isfinite(known)
    return F.binary_cross_entropy_with_logits(logits[there], known[there])


def disguise(crop: Tensor, generator: torch.Generator) -> Tensor:
    """Crops (n, 3, H, W) in -1..1 with colours mixed, tones bent, uneven light, grain, blur and a small shift.

    Renderings look alike in ways that people do not. What a network may go by here is edges and texture that do not
    belong to a face, not this renderer's skin.
    """
    n = len(crop)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand((n, *shape), generator=generator)

    def some(share: float) -> Tensor:
        return torch.rand(n, generator=generator) < share

    mix = torch.eye(3) + 0.35 * torch.randn((n, 3, 3), generator=generator)
    mix = mix / mix.sum(2, keepdim=True).clamp_min(0.3)
    tone = (crop.clamp(-1, 1) + 1) / 2
    tone = torch.einsum("nij,njhw->nihw", mix, tone).clamp(0, 1) ** uniform(0.5, 1.8, 1, 1, 1)
    grey = some(0.25)
    tone[grey] = tone[grey].mean(1, keepdim=True)
    light = F.interpolate(uniform(0.45, 1.35, 1, 3, 3), size=crop.shape[2:], mode="bicubic", align_corners=True)
    tone = tone * light + 0.06 * torch.randn(tone.shape, generator=generator) * uniform(0, 1, 1, 1, 1)
    coarse = some(0.3)
    if coarse.any():
        tone[coarse] = F.interpolate(F.avg_pool2d(tone[coarse], 2), scale_factor=2, mode="bilinear")
    turn, size = uniform(-0.12, 0.12), uniform(0.92, 1.1)
    place = torch.zeros(n, 2, 3)
    place[:, 0, 0] = place[:, 1, 1] = size * turn.cos()
    place[:, 0, 1], place[:, 1, 0] = -size * turn.sin(), size * turn.sin()
    place[:, :, 2] = uniform(-0.06, 0.06, 2)
    grid = F.affine_grid(place, list(crop.shape), align_corners=False)
    return F.grid_sample(2 * tone - 1, grid, padding_mode="border", align_corners=False)
