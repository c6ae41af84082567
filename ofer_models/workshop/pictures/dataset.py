"""Sets of training pictures on disk: shards that several processes draw side by side and a stopped run continues.

A shard is an uncompressed .npz of `SHARD` consecutive sample numbers (fewer rows where MediaPipe found no face), so
which samples exist depends on nothing but head, seed and number.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ofer_models.files.arrays import read_npz
from ofer_models.files.hashing import sha256_of
from ofer_models.files.refusal import FileRefused
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.made_of import check_record, write_record
from ofer_models.workshop.progress import Progress, silent

SHARD = 1000
_SHARDS = "[0-9]*.npz"
_DRAWN = "drawn"  # in a shard: of how many sample numbers it is, with a face or without
_OPTIONAL = ("true_landmarks",)
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

    def digest(self) -> str:
        """A hash of which pictures these are and what they show."""
        digest = hashlib.sha256()
        for column in (self.index, self.betas, self.expression, self.jaw):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

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
    """Draw samples 0..count-1 of `seed` into folder; shards that are there already and whole stay.

    wide: see `PictureSource`. Raises DataError where the folder was drawn of another head, seed or choice.
    """
    made_of = {"head": sha256_of(head_path)[:16], "seed": seed, "occluded_share": occluded_share, "wide": wide}
    if not check_record(folder, made_of, "give another --work, or remove that folder to draw it anew"):
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.glob(_SHARDS)):  # of what is there already, nothing tells
            write_record(folder, made_of)
    jobs = [
        (head_path, folder / f"{start:07d}.npz", start, min(SHARD, count - start), seed, occluded_share, wide)
        for start in range(0, count, SHARD)
    ]
    jobs = [job for job in jobs if not _is_whole(job[1], job[3])]
    if not jobs:
        return
    # Fresh processes: MediaPipe's threads do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in progress(pool.imap_unordered(_draw_shard, jobs), "drawing pictures", len(jobs)):
            pass


def load(folder: Path, limit: int | None = None, shards: slice = slice(None)) -> PictureSet:
    """Shards of a folder in order, all by default, at most `limit` samples.

    Raises FileNotFoundError when there are none, DataError for a shard that is damaged or of another head.
    """
    parts: list[dict[str, np.ndarray]] = []
    total = 0
    for path in sorted(folder.glob(_SHARDS))[shards]:
        parts.append(_read_shard(path))
        if _layout(parts[-1]) != _layout(parts[0]):
            raise DataError(f"{path} holds other arrays than the shards before it; remove it to draw it anew")
        total += len(parts[-1]["index"])
        if limit and total >= limit:
            break
    if not total:
        raise FileNotFoundError(f"{folder} holds no pictures")
    return PictureSet(**{name: np.concatenate([part[name] for part in parts])[:limit] for name in parts[0]})


def stack(samples: Sequence[Any], name: str, shape: tuple[int, ...], kind: type) -> np.ndarray:
    """One field of some samples, of none as well, as an array (n, *shape)."""
    return np.array([getattr(sample, name) for sample in samples], kind).reshape(len(samples), *shape)


def _read_shard(path: Path) -> dict[str, np.ndarray]:
    columns = PictureSet.__dataclass_fields__
    try:
        arrays = read_npz(path, {*columns, _DRAWN}.__contains__)
    except FileRefused as error:
        raise DataError(f"{path.parent}: {error}; remove it to draw it anew") from None
    arrays.pop(_DRAWN, None)
    missing = [name for name in columns if name not in arrays and name not in _OPTIONAL]
    rows = {len(array) if array.ndim else -1 for array in arrays.values()}
    if missing or len(rows) != 1 or any(array.dtype.kind not in "biuf" for array in arrays.values()):
        what = f"lacks {', '.join(missing)}" if missing else "holds columns of different lengths, or no numbers"
        raise DataError(f"{path} {what}; remove it to draw it anew")
    return arrays


def _layout(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape[1:] for name, array in arrays.items()}


def _is_whole(path: Path, size: int) -> bool:
    """Whether a shard is there and was drawn of `size` samples at least (older ones do not tell)."""
    if not path.exists():
        return False
    try:
        drawn = read_npz(path, only={_DRAWN}).get(_DRAWN)
    except FileRefused as error:
        raise DataError(f"{path.parent}: {error}; remove it to draw it anew") from None
    return drawn is None or int(drawn) >= size


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
    samples, head = list(kept.values()), _sources[key].head
    shapes = {"betas": (head.n_shape,), "expression": (head.n_expression,), "jaw": (3,), "crop": (112, 112, 3),
              "landmarks": (478, 6), "true_landmarks": (468, 2), "occlusion": ()}  # fmt: skip
    kinds = {"crop": np.uint8, "landmarks": np.float16, "true_landmarks": np.float16}
    arrays = {name: stack(samples, name, shape, kinds.get(name, np.float32)) for name, shape in shapes.items()}
    for name in ("visible", "covered"):
        arrays[name] = np.packbits(stack(samples, name, (head.n_vertices,), bool), axis=1)
    partial = path.with_suffix(".tmp.npz")
    np.savez(partial, index=np.array(list(kept), np.int64), **{_DRAWN: np.int64(size)}, **arrays)
    os.replace(partial, path)
    return len(samples)
