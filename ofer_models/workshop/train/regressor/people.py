"""Pictures of people as a regressor meets them, with the heads that are in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ofer_models.head.model import HeadModel
from ofer_models.workshop.pictures.people import dataset
from ofer_models.workshop.train.eyes.batches import augmented_crops, plain
from ofer_models.workshop.train.regressor.targets import HeadTargets, MirrorArrays


@dataclass(frozen=True)
class PeopleHeads:
    """Pictures of people with what a regressor should tell of them."""

    pictures: dataset.PeopleSet
    targets: HeadTargets

    @classmethod
    def load(cls, head: HeadModel, folder: Path, count: int) -> PeopleHeads:
        """The first `count` of a folder. Raises DataError where there are fewer."""
        pictures = dataset.load(folder, count)
        return cls(pictures, HeadTargets.of(head, pictures, dataset.load_truth(folder, count)))

    def __len__(self) -> int:
        return len(self.pictures)

    def augmented(
        self, indices: np.ndarray, mirror: MirrorArrays, rng: np.random.Generator, **how: float
    ) -> tuple[Tensor, Tensor]:
        """Crops (n, 128, 128, 3) uint8, each another one every time, and their truth (n, D); how: of `augmented_crops`.
        """
        crops, _, visible, matrices, mirrored = augmented_crops(self.pictures, indices, mirror.points, rng, **how)
        true = self.targets.of_crops(indices, visible.numpy(), matrices, mirrored, mirror)
        return crops, torch.from_numpy(true)

    def plain(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """The same as drawn."""
        crops, _, visible = plain(self.pictures, indices)
        return crops, torch.from_numpy(self.targets.of_crops(indices, visible.numpy()))


def statistics(heads: PeopleHeads) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (D,) of what is to be told, over the first pictures."""
    indices = np.arange(min(len(heads), 4 * dataset.SHARD))
    true = heads.targets.of_crops(indices, heads.pictures.visible[indices])
    return true.mean(0), np.maximum(true.std(0), 1e-3)
