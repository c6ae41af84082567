"""Photographs with FLAME parameters as training pictures: three folder layouts, read into the shards of a picture set.

Layouts (`--layout`), see `README.md` here: `ofer`, this project's own; `mica`, lists of actors as MICA and OFER keep
them; `famos`, the same with one file of shape, expression and pose a frame.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ofer_models.files.arrays import read_npz
from ofer_models.files.refusal import FileRefused, one_line
from ofer_models.head.model import HeadModel
from ofer_models.perception.pictures import SUFFIXES
from ofer_models.workshop.bundle_writer import Provenance
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.made_of import check_record, write_record
from ofer_models.workshop.official.pickle_machine import UnsafePickleError
from ofer_models.workshop.official.pickle_numbers import numbers
from ofer_models.workshop.official.pickle_standins import StoredArray
from ofer_models.workshop.official.safe_pickle import read_object_npy
from ofer_models.workshop.pictures import dataset
from ofer_models.workshop.pictures.dataset import PictureSet

LAYOUTS = ("ofer", "mica", "famos")
_JAW = {
    15: slice(6, 9),
    12: slice(3, 6),
    6: slice(3, 6),
}  # by the length of a pose: root, neck, jaw, eyes; no root; ...
_HELD_OUT = 10  # every tenth actor is kept for evaluation
_MICA_SHAPE = 300  # of MICA's 400 betas
_NAMES = ("shape", "betas", "exp", "expression", "jaw", "pose")


@dataclass(frozen=True)
class Item:
    """One photograph with the file of its parameters, and who it shows."""

    actor: str
    picture: Path
    parameters: Path


@dataclass(frozen=True)
class Photographs:
    """A user's own pictures for `OpenTraining`: found, cropped and landmarked once, kept as shards under `folder`."""

    head: HeadModel
    root: Path
    layout: str
    folder: Path

    @property
    def provenance(self) -> Provenance:
        return Provenance(f"trained by `ofer train` on {self.root.name}", "that of the pictures and parameters", False)

    def prepare(self, progress: Callable) -> None:
        """Look for the face in every photograph; a stopped run goes on with the next actors."""
        items = find(self.root, self.layout)
        actors = [list(group) for _, group in groupby(sorted(items, key=lambda item: item.actor),
                                                      key=lambda item: item.actor)]  # fmt: skip
        made_of = {"head": self.head.sha256[:16], "pictures": _digest(items, self.root), "layout": self.layout}
        if not check_record(self.folder, made_of, "give another --work, or remove that folder"):
            write_record(self.folder, made_of)
        finder = None
        for number, group in enumerate(progress(actors, "reading photographs", len(actors))):
            where = "held_out" if number % _HELD_OUT == _HELD_OUT - 1 else "train"
            path = self.folder / where / f"{number:07d}.npz"
            if path.exists():
                continue
            if finder is None:
                from ofer_models.perception.frontend import FaceFrontend

                finder = FaceFrontend(1)
            rows = [row for item in group if (row := observe(item, self.head, finder))]
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".tmp.npz")
            np.savez(partial, **_stacked(rows, self.head, number))
            os.replace(partial, path)

    def load(self) -> PictureSet:
        try:
            return dataset.load(self.folder / "train")
        except FileNotFoundError:
            raise DataError(f"no face was found in the photographs of {self.root}") from None


def find(root: Path, layout: str) -> list[Item]:
    """All photographs of a folder in one of LAYOUTS. Raises DataError when there are none, or files are missing."""
    items = list(_own(root) if layout == "ofer" else _listed(root))
    if not items:
        raise DataError(f"{root} holds no pictures in the layout {layout!r}; `ofer train --help` names the layouts")
    return items


def read_parameters(path: Path, n_shape: int, n_expression: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Betas (S,), expression (E,) and jaw (3,) of a parameter file, by whichever names it uses.

    `shape` or `betas` (MICA's: 300 shape, then expression), `exp` or `expression`, `jaw` or the jaw's part of `pose`;
    what is missing of expression and jaw is zero.
    """
    content = _content(path)
    betas = _vector(content.get("shape", content.get("betas")))
    rest = content.get("exp", content.get("expression"))
    if betas is None:
        raise DataError(f"{path} holds neither `shape` nor `betas`")
    if rest is None and len(betas) > _MICA_SHAPE:
        betas, rest = betas[:_MICA_SHAPE], betas[_MICA_SHAPE:]
    if len(betas) < n_shape:
        raise DataError(f"{path} holds {len(betas)} shape coefficients, the head has {n_shape}")
    expression, given = np.zeros(n_expression, np.float32), _vector(rest)
    if given is not None:
        expression[: len(given)] = given[:n_expression]
    jaw, pose = _vector(content.get("jaw")), _vector(content.get("pose"))
    if jaw is None and pose is not None:
        if len(pose) not in _JAW:
            raise DataError(f"{path}: a pose of {len(pose)} numbers; known are {', '.join(map(str, _JAW))}")
        jaw = pose[_JAW[len(pose)]]
    jaw = np.zeros(3, np.float32) if jaw is None else jaw[:3]
    if len(jaw) != 3 or not all(np.isfinite(part).all() for part in (betas, expression, jaw)):
        raise DataError(f"{path} holds numbers that are not finite, or a jaw that is no rotation")
    return betas[:n_shape], expression, jaw


def observe(item: Item, head: HeadModel, finder: Callable) -> dict[str, Any] | None:
    """One row of a picture set, or None where no face is found. What is hidden is unknown: occlusion is NaN."""
    from ofer_models.perception.crops import aligned_crop, landmark_features
    from ofer_models.perception.pictures import PictureError, read_picture

    try:
        rgb = read_picture(item.picture)
    except PictureError as error:
        raise DataError(f"{item.picture}: {error}") from None
    finder.reset()
    tracks = finder(rgb, 0.0)
    if not tracks:
        return None
    points = tracks[0].points
    betas, expression, jaw = read_parameters(item.parameters, head.n_shape, head.n_expression)
    return {"landmarks": landmark_features(points).astype(np.float16), "crop": aligned_crop(rgb, points)[0],
            "betas": betas, "expression": expression, "jaw": jaw}  # fmt: skip


def _stacked(rows: list[dict[str, Any]], head: HeadModel, number: int) -> dict[str, np.ndarray]:
    """A shard of rows, of none as well: an actor whose face is never found."""
    count, width = len(rows), -(-head.n_vertices // 8)
    shapes = {"landmarks": (478, 6), "crop": (112, 112, 3), "betas": (head.n_shape,),
              "expression": (head.n_expression,), "jaw": (3,)}  # fmt: skip
    kinds = {"landmarks": np.float16, "crop": np.uint8}
    arrays = {
        name: np.array([row[name] for row in rows], kinds.get(name, np.float32)).reshape(count, *shape)
        for name, shape in shapes.items()
    }
    return arrays | {
        "occlusion": np.full(count, np.nan, np.float32), "index": number * 100_000 + np.arange(count),
        "visible": np.full((count, width), 255, np.uint8), "covered": np.zeros((count, width), np.uint8),
    }  # fmt: skip


def _own(root: Path) -> Iterator[Item]:
    """images/<actor>/<name>.jpg with parameters/<actor>/<name>.npz."""
    for picture in sorted((root / "images").rglob("*")):
        if picture.suffix.lower() in SUFFIXES:
            part = picture.relative_to(root / "images").with_suffix(".npz")
            if not (root / "parameters" / part).is_file():
                raise DataError(f"{picture} has no {root / 'parameters' / part}")
            yield Item(part.parts[0] if len(part.parts) > 1 else part.stem, picture, root / "parameters" / part)


def _listed(root: Path) -> Iterator[Item]:
    """image_paths/<kind>/<NAME>.npy: actor -> [parameter file, pictures], in either order, in the folder <NAME>."""
    for listing in sorted((root / "image_paths").rglob("*.npy")):
        try:
            actors = read_object_npy(listing)
        except UnsafePickleError as error:
            raise DataError(f"{listing}: {error}") from None
        base = root / listing.stem
        for actor, file, pictures in _actors(listing, actors):
            parameters = _parameter_file(base, file)
            for name in pictures:
                yield Item(f"{listing.stem}/{actor}", _picture(base / "arcface_input", name), parameters)


def _actors(listing: Path, actors: Any) -> Iterator[tuple[str, str, list[str]]]:
    """Actor, name of the parameter file and names of the pictures, in the order of the actors."""
    if not isinstance(actors, Mapping) or not all(isinstance(actor, str) for actor in actors):
        raise DataError(f"{listing} is no dictionary of actors")
    for actor, entry in sorted(actors.items()):
        pair = [_strings(part) for part in entry] if isinstance(entry, (list, tuple)) and len(entry) == 2 else [None]
        if None in pair:
            raise DataError(f"{listing}: {one_line(actor)!r} has no pair of a parameter file and pictures")
        file, pictures = pair if isinstance(entry[0], str) else reversed(pair)
        for name in (*file, *pictures):
            if Path(name).is_absolute() or ".." in Path(name).parts or not name.isprintable():
                raise DataError(f"{listing}: {one_line(actor)!r} names a file outside of its folder")
        yield actor, file[0], pictures


def _strings(value: Any) -> list[str] | None:
    """A text, or the texts of a list or array; None for anything else."""
    if isinstance(value, StoredArray):
        value = value.value
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        value = value.ravel().tolist()
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else None
    return texts if texts and all(isinstance(text, str) for text in texts) else None


def _digest(items: list[Item], root: Path) -> str:
    """A hash of which photographs and parameter files a folder has, and of their sizes."""
    digest = hashlib.sha256()
    for path in (path for item in items for path in (item.picture, item.parameters)):
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def _parameter_file(base: Path, name: str) -> Path:
    """In <NAME>/FLAME*_parameters/ (MICA) or in <NAME>/ itself (FaMoS), as .npz or .npy whatever the list says."""
    for folder in (*sorted(base.glob("FLAME*_parameters")), base):
        for path in (folder / name, (folder / name).with_suffix(".npz"), (folder / name).with_suffix(".npy")):
            if path.is_file():
                return path
    raise DataError(f"{base} holds no parameters {name}")


def _picture(folder: Path, name: str) -> Path:
    for ending in (Path(name).suffix, *SUFFIXES):
        path = (folder / name).with_suffix(ending)
        if ending.lower() in SUFFIXES and path.is_file():
            return path
    raise DataError(f"{folder} holds no picture {name}")


def _content(path: Path) -> Mapping[str, Any]:
    """Arrays of an .npz, whatever its ending, or of a pickled dictionary, by name."""
    with path.open("rb") as file:
        archive = file.read(2) == b"PK"
    try:
        content = read_npz(path) if archive else read_object_npy(path)
        if not isinstance(content, Mapping):
            raise DataError(f"{path} is no dictionary of parameters")
        return {name: numbers(content[name], name) for name in _NAMES if name in content}
    except (UnsafePickleError, FileRefused) as error:
        raise DataError(f"{path.parent}: {error}") from None


def _vector(values: np.ndarray | None) -> np.ndarray | None:
    return None if values is None else values.astype(np.float32).reshape(-1)
