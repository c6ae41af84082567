"""Open-545, the occlusion test anyone can make: 545 renderings of 11 held-out people, without and with an occluder.

It follows CO-545 (545 frontal pictures of 11 people, covered by hands, objects and random shapes) with renderings of
the open head, where the truth is known to the vertex. All is drawn from one seed; a JSON file beside this one holds the
hashes that the result must have. There are two sets: of people with skin, hair and shadows, and the plainly painted one
that came first, so that its figures can still be compared.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofer_models.files.arrays import read_npz
from ofer_models.files.hashing import sha256_of
from ofer_models.files.refusal import FileRefused
from ofer_models.workshop.errors import EvaluationError
from ofer_models.workshop.measure.open545.scenes import BOTH, PeopleScenes, PlainScenes, Scenes, draw
from ofer_models.workshop.pictures.dataset import PictureSet
from ofer_models.workshop.pictures.people.assets import load_library
from ofer_models.workshop.progress import Progress, silent

PICTURES = 545
SETS = {"open545": "Open-545", "open545-plain": "Open-545-plain"}
_PART = 55  # pictures a file, the step in which a stopped run goes on
_FOLDER = Path(__file__).parent  # of the hashes


@dataclass(frozen=True)
class Open545:
    """clean and occluded: the same n scenes without and with an occluder. person (n,) 0..10, group (n,) index into
    GROUPS, camera (n, 3, 3), clean_points and occluded_points (n, 478, 3) px as MediaPipe sees them, clean_crop128 and
    occluded_crop128 (n, 128, 128, 3) uint8: what a bundle's landmark network sees.
    """

    clean: PictureSet
    occluded: PictureSet
    person: np.ndarray
    group: np.ndarray
    camera: np.ndarray
    clean_points: np.ndarray
    occluded_points: np.ndarray
    clean_crop128: np.ndarray
    occluded_crop128: np.ndarray

    def __len__(self) -> int:
        return len(self.person)

    def first(self, count: int) -> Open545:
        """The first pictures only; people and groups stay mixed."""
        return self._rows(slice(count))

    def every(self, step: int) -> Open545:
        """One picture in `step`."""
        return self._rows(slice(None, None, step))

    def _rows(self, rows: slice) -> Open545:
        return Open545(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def expected_hashes(which: str) -> dict[str, str]:
    """The hashes of a set of SETS, by part: head, truth and pictures."""
    return json.loads((_FOLDER / f"{which.replace('-', '_')}.json").read_text())


def require_head(head_path: Path, which: str) -> None:
    """Raise EvaluationError unless this is the head that the repository's set shows."""
    if sha256_of(head_path) != expected_hashes(which)["head"]:
        raise EvaluationError(
            f"Open-545 shows the open head, and {head_path} is another; measure this bundle on a licensed set (--set)"
        )


def generate(
    head_path: Path, folder: Path, *, assets: Path | None, count: int = PICTURES, workers: int = 2,
    progress: Progress = silent,
) -> None:  # fmt: skip
    """Draw the parts of a set that are not in `folder` yet. assets: where what people wear lies, or is fetched to; None
    draws Open-545-plain.

    Raises DataError where the assets can neither be found nor fetched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(head_path, assets, folder / f"{start:03d}.npz", start, min(_PART, count - start))
            for start in range(0, count, _PART)]  # fmt: skip
    jobs = [job for job in jobs if not job[2].exists()]
    if not jobs:
        return
    if assets is not None:
        load_library(assets)  # fetched once, not by every process
    with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:  # MediaPipe survives no fork
        for _ in progress(pool.imap_unordered(_draw_part, jobs), "drawing Open-545", len(jobs)):
            pass


def load(folder: Path) -> Open545:
    """All parts in `folder`, in order. Raises FileNotFoundError when there are none."""
    paths = sorted(folder.glob("[0-9][0-9][0-9].npz"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no part of Open-545; `ofer evaluate --set open545` draws them")
    columns: dict[str, list[np.ndarray]] = {}
    for path in paths:
        try:
            part = read_npz(path)
        except FileRefused as error:
            raise EvaluationError(f"{folder}: {error}; remove it to draw it anew") from None
        for name, array in part.items():
            columns.setdefault(name, []).append(array)
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    sets = {
        which: PictureSet(
            **{name: arrays[key] for name in PictureSet.__dataclass_fields__ if (key := f"{which}_{name}") in arrays}
        )
        for which in BOTH
    }
    own = [name for name in Open545.__dataclass_fields__ if name not in BOTH]
    if missing := [name for name in own if name not in arrays]:
        raise EvaluationError(f"{folder} was drawn without {missing[0]}, by an older version; remove it")
    return Open545(**sets, **{name: arrays[name] for name in own})


def hashes(pictures: Open545, head_path: Path) -> dict[str, str]:
    """What identifies the set: of the head model, of the truth (rounded to 1e-4, so that a processor's last bit hardly
    matters), and of the pictures and landmarks, which are equal to the bit only where all libraries are.
    """
    truth, seen = hashlib.sha256(), hashlib.sha256()
    clean = pictures.clean
    for values in (clean.betas, clean.expression, clean.jaw, pictures.camera, pictures.person, pictures.group):
        truth.update(np.round(np.asarray(values, np.float64) * 1e4).astype("<i8").tobytes())
    for part in (clean, pictures.occluded):
        for values in (part.crop, part.landmarks, part.visible, part.covered):
            seen.update(np.ascontiguousarray(values).tobytes())
    return {"head": sha256_of(head_path), "truth": truth.hexdigest(), "pictures": seen.hexdigest()}


def check(found: dict[str, str], which: str) -> str:
    """One line on how a set compares with the repository's hashes.

    Raises EvaluationError when it is of another head or truth: figures would not be comparable.
    """
    expected, name = expected_hashes(which), SETS[which]
    for part in ("head", "truth"):
        if found[part] != expected[part]:
            raise EvaluationError(
                f"{name}: the {part}'s hash is {found[part][:12]}, the repository's is {expected[part][:12]}; "
                "delete its folder to draw the set again"
            )
    if found["pictures"] == expected["pictures"]:
        return f"{name}, pictures {found['pictures'][:12]}: equal to the bit to the repository's hash"
    return (
        f"{name}: the truth is the repository's; the pictures ({found['pictures'][:12]}) differ in some bits from "
        f"its {expected['pictures'][:12]}, as other processors and library versions make them"
    )


_scenes: dict[tuple, Scenes] = {}


def _draw_part(job: tuple[Path, Path | None, Path, int, int]) -> int:
    head_path, assets, path, start, size = job
    import cv2

    from ofer_models.head.model import HeadModel

    cv2.setNumThreads(1)
    if (key := (head_path, assets)) not in _scenes:
        head = HeadModel.load(head_path)
        _scenes[key] = PlainScenes(head) if assets is None else PeopleScenes(head, load_library(assets))
    rows = [draw(_scenes[key], index) for index in range(start, start + size)]
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    for which in BOTH:
        arrays[f"{which}_landmarks"] = arrays[f"{which}_landmarks"].astype(np.float16)
        for name in ("visible", "covered"):
            arrays[f"{which}_{name}"] = np.packbits(arrays[f"{which}_{name}"], axis=1)
    partial = path.with_suffix(".tmp.npz")
    np.savez(partial, **arrays)
    os.replace(partial, path)
    return size
