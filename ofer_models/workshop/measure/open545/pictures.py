"""Open-545, the occlusion test anyone can make: 545 renderings of 11 held-out people, without and with an occluder.

It follows CO-545 (545 frontal pictures of 11 people, covered by hands, objects and random shapes) with renderings of
the open head, where the truth is known to the vertex. All is drawn from one seed; `open545.json` holds the hashes that
the result must have.
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
from ofer_models.perception.landmark_crop import landmark_crop
from ofer_models.workshop.errors import EvaluationError
from ofer_models.workshop.pictures.dataset import PictureSet
from ofer_models.workshop.progress import Progress, silent

SEED, PEOPLE, PICTURES = 545, 11, 545
GROUPS = ("hand", "object", "random")
_PART = 55  # pictures a file, the step in which a stopped run goes on
_LEAST = 0.05  # share of the visible face that an occluder covers at least
_ATTEMPTS = 40
_HASHES = Path(__file__).with_name("open545.json")
_VIEW = {"yaw": np.radians(8), "pitch": np.radians(6), "roll": np.radians(5)}  # CO-545's pictures are frontal
_BOTH = ("clean", "occluded")


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
        return Open545(**{name: getattr(self, name)[:count] for name in self.__dataclass_fields__})


def require_head(head_path: Path) -> None:
    """Raise EvaluationError unless this is the head that the repository's set shows."""
    if sha256_of(head_path) != json.loads(_HASHES.read_text())["head"]:
        raise EvaluationError(
            f"Open-545 shows the open head, and {head_path} is another; measure this bundle on a licensed set (--set)"
        )


def generate(
    head_path: Path,
    folder: Path,
    *,
    count: int = PICTURES,
    workers: int = 2,
    progress: Progress = silent,
) -> None:
    """Draw the parts of the set that are not in `folder` yet."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(head_path, folder / f"{start:03d}.npz", start, min(_PART, count - start))
            for start in range(0, count, _PART)]  # fmt: skip
    jobs = [job for job in jobs if not job[1].exists()]
    if not jobs:
        return
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
        for which in _BOTH
    }
    own = [name for name in Open545.__dataclass_fields__ if name not in _BOTH]
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


def check(found: dict[str, str]) -> str:
    """One line on how the set compares with the repository's hashes.

    Raises EvaluationError when it is of another head or truth: figures would not be comparable.
    """
    expected = json.loads(_HASHES.read_text())
    for part in ("head", "truth"):
        if found[part] != expected[part]:
            raise EvaluationError(
                f"Open-545: the {part}'s hash is {found[part][:12]}, the repository's is {expected[part][:12]}; "
                "delete its folder to draw the set again"
            )
    if found["pictures"] == expected["pictures"]:
        return f"Open-545, pictures {found['pictures'][:12]}: equal to the bit to the repository's hash"
    return (
        f"Open-545: the truth is the repository's; the pictures ({found['pictures'][:12]}) differ in some bits from "
        f"its {expected['pictures'][:12]}, as other processors and library versions make them"
    )


_sources: dict[Path, object] = {}


def _draw_part(job: tuple[Path, Path, int, int]) -> int:
    head_path, path, start, size = job
    import cv2

    from ofer_models.head.model import HeadModel
    from ofer_models.workshop.pictures.pictures import PictureSource

    cv2.setNumThreads(1)
    if head_path not in _sources:
        _sources[head_path] = PictureSource(HeadModel.load(head_path), SEED)
    rows = [_draw(_sources[head_path], index) for index in range(start, start + size)]
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    for which in _BOTH:
        arrays[f"{which}_landmarks"] = arrays[f"{which}_landmarks"].astype(np.float16)
        for name in ("visible", "covered"):
            arrays[f"{which}_{name}"] = np.packbits(arrays[f"{which}_{name}"], axis=1)
    partial = path.with_suffix(".tmp.npz")
    np.savez(partial, **arrays)
    os.replace(partial, path)
    return size


def _draw(source, index: int) -> dict[str, np.ndarray]:
    """Picture `index` both ways: the first attempt at which MediaPipe finds the face and the occluder covers some."""
    from ofer_models.workshop.pictures.camera_effects import camera_effects
    from ofer_models.workshop.pictures.occluders import add_occluder
    from ofer_models.workshop.pictures.pictures import View

    person, group = index % PEOPLE, index // PEOPLE % len(GROUPS)
    betas = source.population.betas(np.random.default_rng([SEED, 1, person]))
    for attempt in range(_ATTEMPTS):

        def stream(number: int, attempt: int = attempt) -> np.random.Generator:
            return np.random.default_rng([SEED, 2, index, attempt, number])

        rng = stream(0)
        scene = source.scene(betas, *source.population.expression(rng), rng, View(**_VIEW), paint=person)
        covered, cover = add_occluder(scene.image, scene.points68, stream(1), GROUPS[group])
        truths = source.truth(scene, np.zeros_like(cover)), source.truth(scene, cover)
        if truths[1]["occlusion"] < _LEAST:
            continue
        images = [camera_effects(image, stream(2)) for image in (scene.image, covered)]
        samples = [
            source.observe(image, truth, stream(3), stream(4)) for image, truth in zip(images, truths, strict=True)
        ]
        if None in samples:
            continue
        row = {"person": np.int64(person), "group": np.int64(group), "camera": scene.camera}
        for which, image, sample in zip(_BOTH, images, samples, strict=True):
            row[f"{which}_index"], row[f"{which}_points"] = np.int64(index), sample.points.astype(np.float32)
            row[f"{which}_crop128"] = landmark_crop(image, sample.points)[0]
            for name in ("landmarks", "crop", "betas", "expression", "jaw", "visible", "covered"):
                row[f"{which}_{name}"] = getattr(sample, name)
            row[f"{which}_occlusion"] = np.float32(sample.occlusion)
        return row
    raise EvaluationError(
        f"Open-545: no face was found in picture {index} at {_ATTEMPTS} attempts; is MediaPipe whole?"
    )
