"""Sets of training pictures on disk: shards that several processes draw side by side and a stopped run continues.

A shard is an uncompressed .npz of `SHARD` consecutive sample numbers (fewer rows where MediaPipe found no face), so
which samples exist depends on nothing but head, seed and number.
"""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofer_models.workshop.progress import Progress, silent

SHARD = 1000
HELD_OUT_SEED = 777  # never trained on


@dataclass(frozen=True)
class PictureSet:
    """n samples: landmarks (n, 478, 6) float16, crop (n, 112, 112, 3) uint8, betas (n, S), expression (n, E),
    jaw (n, 3), occlusion (n,), visible and covered (n, V) as packed bits, index (n,); true_landmarks (n, 468, 2)
    float16, where the first landmarks really are, in the crop and its unit, or None where a set does not tell.
    """

    landmarks: np.ndarray
    crop: np.ndarray
    betas: np.ndarray
    expression: np.ndarray
    jaw: np.ndarray
    occlusion: np.ndarray
    visible: np.ndarray
    covered: np.ndarray
    index: np.ndarray
    true_landmarks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> PictureSet:
        return PictureSet(**{name: column[rows] for name, column in vars(self).items() if column is not None})

    @property
    def coefficients(self) -> np.ndarray:
        """(n, E + 3): expression, then jaw; what ExpGen draws."""
        return np.concatenate([self.expression, self.jaw], axis=1)


def generate(
    head_path: Path,
    folder: Path,
    count: int,
    *,
    seed: int,
    workers: int = 2,
    occluded_share: float = 0.6,
    wide: bool = False,
    progress: Progress = silent,
) -> None:
    """Draw samples 0..count-1 of `seed` into folder; shards that are there already stay. wide: see `PictureSource`."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (head_path, folder / f"{start:07d}.npz", start, min(SHARD, count - start), seed, occluded_share, wide)
        for start in range(0, count, SHARD)
    ]
    jobs = [job for job in jobs if not job[1].exists()]
    if not jobs:
        return
    # Fresh processes: MediaPipe's threads do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in progress(pool.imap_unordered(_draw_shard, jobs), "drawing pictures", len(jobs)):
            pass


def load(folder: Path, limit: int | None = None, shards: slice = slice(None)) -> PictureSet:
    """Shards of a folder in order, all by default, at most `limit` samples.

    Raises FileNotFoundError when there are none.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in PictureSet.__dataclass_fields__}
    total = 0
    for path in sorted(folder.glob("[0-9]*.npz"))[shards]:
        with np.load(path) as shard:
            for name, list_ in parts.items():
                if name in shard:
                    list_.append(shard[name])
        total += len(parts["index"][-1])
        if limit and total >= limit:
            break
    if not total:
        raise FileNotFoundError(f"{folder} holds no pictures; `ofer train` draws them first")
    return PictureSet(**{name: np.concatenate(list_)[:limit] for name, list_ in parts.items() if list_})


_sources: dict[tuple, object] = {}


def _draw_shard(job: tuple) -> int:
    head_path, path, start, size, seed, occluded_share, wide = job
    import cv2

    from ofer_models.head.model import HeadModel
    from ofer_models.workshop.pictures.pictures import PictureSource

    cv2.setNumThreads(1)
    key = (head_path, seed, occluded_share, wide)
    if key not in _sources:
        _sources[key] = PictureSource(HeadModel.load(head_path), seed, occluded_share, wide)
    drawn = {index: _sources[key].sample(index) for index in range(start, start + size)}
    kept = {index: sample for index, sample in drawn.items() if sample is not None}
    samples = list(kept.values())
    arrays = {name: np.stack([getattr(s, name) for s in samples]) for name in ("betas", "expression", "jaw", "crop")}
    for name in ("landmarks", "true_landmarks"):
        arrays[name] = np.stack([getattr(s, name) for s in samples]).astype(np.float16)
    arrays["occlusion"] = np.array([s.occlusion for s in samples], np.float32)
    for name in ("visible", "covered"):
        arrays[name] = np.packbits(np.stack([getattr(s, name) for s in samples]), axis=1)
    partial = path.with_suffix(".tmp.npz")
    np.savez(partial, index=np.array(list(kept)), **arrays)
    os.replace(partial, path)
    return len(samples)
