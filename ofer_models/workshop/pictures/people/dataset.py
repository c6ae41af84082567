"""Sets of pictures of people on disk: shards that several processes draw side by side and a stopped run continues.

Shard n holds pictures n SHARD .. (n + 1) SHARD - 1 as two files: the images as they lie in memory (.npy, so that a
training reads only what it needs), then their truth (.npz), which marks the shard as whole.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ofer_models.files.arrays import read_npz
from ofer_models.files.documents import read_json
from ofer_models.files.refusal import FileRefused, one_line
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.made_of import refuse_other

SHARD = 500
HELD_OUT_SEED = 778  # never trained on
VERSION = 2  # of everything that decides what a picture shows; another one is another set
_MOST_BYTES = 64 << 10  # of the record of what they were made by
_REMEDY = "give another --work, or move that folder away"
_FIELDS = ("points", "betas", "expression", "jaw", "camera", "pose")


@dataclass(frozen=True)
class PeopleSet:
    """n pictures: images, a list of (SHARD, S, S, 3) uint8 maps of files; points (n, 478, 2) float32 px and visible
    (n, 478) bool. Picture i is images[i // SHARD][i % SHARD].
    """

    images: list[np.ndarray]
    points: np.ndarray
    visible: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def image(self, index: int) -> np.ndarray:
        return self.images[index // SHARD][index % SHARD]


def generate(
    head_path: Path, assets: Path, folder: Path, count: int, *, seed: int, workers: int = 2,
    progress: Callable = lambda iterable, text, total: iterable,
) -> None:  # fmt: skip
    """Draw pictures 0..count-1 of `seed`, rounded up to whole shards, into folder; shards that are there already stay.

    Raises DataError where the folder holds pictures of another head, seed or version.
    """
    from ofer_models.head.model import HeadModel
    from ofer_models.workshop.pictures.people.assets import SHA256, load_library

    folder.mkdir(parents=True, exist_ok=True)
    key = {"head": HeadModel.load(head_path).sha256, "assets": SHA256, "seed": seed, "version": VERSION}
    described = folder / "made_by.json"
    if described.is_file():
        try:
            refuse_other(folder, read_json(described, _MOST_BYTES), key, _REMEDY)
        except FileRefused as error:
            raise DataError(f"{described} {error}; {_REMEDY}") from None
    elif _truth(folder, 0).is_file():
        raise DataError(f"{folder} holds pictures, but {described.name} does not say of whom: {_REMEDY}")
    described.write_text(json.dumps(key, indent=1))
    load_library(assets)  # fetched once, not by every process
    jobs = [(head_path, assets, folder, shard, seed) for shard in range(-(-count // SHARD))]
    jobs = [job for job in jobs if not _truth(folder, job[3]).is_file()]
    if jobs:
        with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:
            for _ in progress(pool.imap(_draw_shard, jobs), "drawing people", len(jobs)):
                pass


def load(folder: Path, count: int) -> PeopleSet:
    """The first `count` pictures of a folder. Raises DataError where there are fewer."""
    images, points, visible = [], [], []
    for shard in range(-(-count // SHARD)):
        if not _truth(folder, shard).is_file():
            raise DataError(f"{folder} holds {shard * SHARD} pictures of {count}; `ofer train eyes` draws them")
        try:
            images.append(np.load(folder / f"{shard:05d}.npy", mmap_mode="r"))
            truth = read_npz(_truth(folder, shard))
            points.append(truth["points"])
            visible.append(np.unpackbits(truth["visible"], axis=1, count=truth["points"].shape[1]).astype(bool))
        except (ValueError, KeyError, OSError, IndexError, TypeError) as error:
            reason = f"shard {shard} is damaged ({one_line(error)}); remove its two files to draw it anew"
            raise DataError(f"{folder}: {reason}") from None
    return PeopleSet(images, np.concatenate(points)[:count], np.concatenate(visible)[:count])


@dataclass(frozen=True)
class PeopleTruth:
    """The heads of n pictures: betas (n, S), expression (n, E), jaw (n, 3), camera (n, 3, 3), pose (n, 3, 4)."""

    betas: np.ndarray
    expression: np.ndarray
    jaw: np.ndarray
    camera: np.ndarray
    pose: np.ndarray


def load_truth(folder: Path, count: int) -> PeopleTruth:
    """The heads of the first `count` pictures. Raises DataError where there are fewer."""
    columns: dict[str, list[np.ndarray]] = {field.name: [] for field in fields(PeopleTruth)}
    for shard in range(-(-count // SHARD)):
        try:
            truth = read_npz(_truth(folder, shard))
            for name, column in columns.items():
                column.append(truth[name])
        except (FileRefused, KeyError, OSError) as error:
            reason = f"shard {shard} cannot be read ({one_line(error)}); `ofer train eyes` draws it"
            raise DataError(f"{folder}: {reason}") from None
    return PeopleTruth(**{name: np.concatenate(column)[:count] for name, column in columns.items()})


def drawn(folder: Path) -> int:
    """How many pictures a folder holds without a gap."""
    shard = 0
    while _truth(folder, shard).is_file():
        shard += 1
    return shard * SHARD


def _truth(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.npz"


_sources: dict[tuple, object] = {}


def _draw_shard(job: tuple) -> int:
    head_path, assets, folder, shard, seed = job
    import cv2

    from ofer_models.head.model import HeadModel
    from ofer_models.workshop.pictures.people.assets import load_library
    from ofer_models.workshop.pictures.people.source import PeopleSource

    cv2.setNumThreads(1)
    key = (head_path, seed)
    if key not in _sources:
        _sources[key] = PeopleSource(HeadModel.load(head_path), load_library(assets), seed)
    pictures = [_sources[key].picture(shard * SHARD + n) for n in range(SHARD)]
    columns = {name: np.stack([getattr(picture, name) for picture in pictures]).astype(np.float32) for name in _FIELDS}
    visible = np.packbits(np.stack([picture.visible for picture in pictures]), axis=1)
    _save(folder / f"{shard:05d}.npy", lambda path: np.save(path, np.stack([picture.image for picture in pictures])))
    _save(_truth(folder, shard), lambda path: np.savez(path, visible=visible, **columns))
    return SHARD


def _save(path: Path, write: Callable[[Path], None]) -> None:
    partial = path.with_name("partial-" + path.name)
    write(partial)
    os.replace(partial, path)
