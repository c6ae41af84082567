"""What the landmark network's convolutions see of pictures of people, each in several disguises: worked out once.

The convolutions stay as they are, so that a head upon them is trained in minutes on one core.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ofer_models.workshop.made_of import check_record, write_record
from ofer_models.workshop.networks.regressor import FEATURES, RegressorNetwork
from ofer_models.workshop.pictures.people.dataset import SHARD
from ofer_models.workshop.train.accelerator import short_floats_pay
from ofer_models.workshop.train.eyes.batches import crop_input
from ofer_models.workshop.train.regressor.people import PeopleHeads
from ofer_models.workshop.train.regressor.targets import MirrorArrays

_BATCH = 50
_ANEW = "`--again` makes them anew"


@dataclass(frozen=True)
class SeenHeads:
    """features (n, FEATURES) float16 and what should be told of them, true (n, D) float32."""

    features: np.ndarray
    true: np.ndarray

    def __len__(self) -> int:
        return len(self.true)


def seen_heads(
    network: RegressorNetwork, people: PeopleHeads, folder: Path, disguises: int, seed: int, made_of: dict[str, Any],
    mirror: MirrorArrays, progress: Callable = lambda iterable, text, total: iterable,
) -> SeenHeads:  # fmt: skip
    """Features of every picture, `disguises` times augmented, none: as drawn. Kept in a folder by shards, for the same
    made_of; a stopped run goes on. Raises DataError where the folder was made of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not check_record(folder, made_of, _ANEW):
        write_record(folder, made_of)
    starts = [(disguise, start) for disguise in range(max(disguises, 1)) for start in range(0, len(people), SHARD)]
    features, true = [], []
    for disguise, start in progress(starts, "looking at people", len(starts)):
        path = folder / f"{disguise}-{start // SHARD:05d}.npy"
        indices = np.arange(start, min(start + SHARD, len(people)))
        rng = np.random.default_rng((seed, disguise, start)) if disguises else None
        if not path.is_file():
            _write(path, _shard(network, people, indices, rng, mirror))
        whole = np.load(path, mmap_mode="r")
        features.append(whole[:, : 2 * FEATURES].view(np.float16))
        true.append(whole[:, 2 * FEATURES :].view(np.float32))
    return SeenHeads(np.concatenate(features), np.concatenate(true))


@torch.no_grad()
def _shard(
    network: RegressorNetwork, people: PeopleHeads, indices: np.ndarray, rng: np.random.Generator | None,
    mirror: MirrorArrays,
) -> np.ndarray:  # fmt: skip
    """Bytes (n, 2 FEATURES + 4 D) of features and truth."""
    network.eval()
    device, rows = next(network.parameters()).device, []
    for start in range(0, len(indices), _BATCH):
        part = indices[start : start + _BATCH]
        crops, true = people.plain(part) if rng is None else people.augmented(part, mirror, rng)
        with torch.autocast(device.type, torch.bfloat16, enabled=short_floats_pay(device)):
            features = network.features(crop_input(crops.to(device)))
        seen = np.ascontiguousarray(features.cpu().numpy().astype(np.float16)).view(np.uint8)
        rows.append(np.concatenate([seen, np.ascontiguousarray(true.numpy()).view(np.uint8)], axis=1))
    return np.concatenate(rows)


def _write(path: Path, whole: np.ndarray) -> None:
    partial = path.with_name(f"partial-{path.name}")
    np.save(partial, whole)
    os.replace(partial, path)
