"""Clean pictures of faces with 68 landmarks, of which CFR's stages hide parts: renderings of people, or a user's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from ofer_models.files.arrays import read_npy
from ofer_models.files.refusal import FileRefused
from ofer_models.head.landmark_sets import LANDMARKS68, N_MEDIAPIPE
from ofer_models.head.model import HeadModel
from ofer_models.perception.landmark_crop import INPUT
from ofer_models.perception.pictures import SUFFIXES, PictureError, read_picture
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.pictures.people import dataset
from ofer_models.workshop.train.regressor.targets import HeadTargets

_HIDDEN = 0.03  # share of a face's points that may be covered in a picture that counts as clean
_HELD_OUT = 20  # every so manieth of a user's pictures is held out


class CleanFaces(Protocol):
    """n pictures of one size."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """A picture (S, S, 3) uint8 RGB, its landmarks (68, 2) px, and the same picture occluded, if there is one."""

    def digest(self) -> str:
        """A hash of which pictures these are."""


@dataclass(frozen=True)
class CleanPeople:
    """Those of the drawn people before whose face nothing is."""

    people: dataset.PeopleSet
    kept: np.ndarray
    name: str

    @classmethod
    def load(cls, head: HeadModel, folder: Path, count: int) -> CleanPeople:
        """Of the first `count` pictures of a folder of `ofer train eyes`. Raises DataError where there are fewer."""
        people = dataset.load(folder, count)
        facing = HeadTargets.of(head, people, dataset.load_truth(folder, count)).facing
        covered = (facing & ~people.visible[:, :N_MEDIAPIPE]).sum(1) / np.maximum(facing.sum(1), 1)
        return cls(people, np.flatnonzero(covered < _HIDDEN), f"{folder.name} {count}")

    def __len__(self) -> int:
        return len(self.kept)

    def picture(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        row = int(self.kept[index])
        image = self.people.image(row)
        margin = (len(image) - INPUT) // 2
        inner = slice(margin, margin + INPUT)
        return np.ascontiguousarray(image[inner, inner]), self.people.points[row, LANDMARKS68] - margin, None

    def digest(self) -> str:
        return self.name


@dataclass(frozen=True)
class AlignedPhotographs:
    """A user's folder as CFR's: `images/NAME.jpg`, aligned to the regressor's crop; `landmarks/NAME.npy`, (68, 2 or 3)
    px of it; and for some or all `occluded/NAME.jpg`.
    """

    folder: Path
    files: tuple[Path, ...]
    size: int

    @classmethod
    def find(cls, folder: Path, size: int) -> tuple[AlignedPhotographs, AlignedPhotographs]:
        """Those to train on, and every twentieth, which is held out. Raises DataError for a folder without."""
        files = tuple(path for path in sorted((folder / "images").glob("*")) if path.suffix.lower() in SUFFIXES)
        if len(files) < 2:
            raise DataError(f"{folder}/images holds no pictures; docs/regressors.md says how --data is laid out")
        for path in files:
            if not cls._marks(folder, path).is_file():
                raise DataError(f"{path} has no landmarks {cls._marks(folder, path)}")
        held_out = files[_HELD_OUT - 1 :: _HELD_OUT] or files[-1:]
        learned = tuple(path for path in files if path not in set(held_out))
        return cls(folder, learned, size), cls(folder, held_out, size)

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        path = self.files[index]
        image, scale = self._read(path)
        occluded = next((self.folder / "occluded").glob(f"{path.stem}.*"), None)
        try:
            marks = read_npy(self._marks(self.folder, path))
        except FileRefused as error:
            raise DataError(f"{self.folder}/landmarks: {error}") from None
        if marks.shape not in ((68, 2), (68, 3)) or not np.isfinite(marks).all():
            raise DataError(f"{self._marks(self.folder, path)} holds {marks.shape}, should be 68 points")
        return image, marks[:, :2] * scale, None if occluded is None else self._read(occluded)[0]

    def digest(self) -> str:
        names = "".join(f"{path.name} {path.stat().st_size}\n" for path in self.files)
        return hashlib.sha256(names.encode()).hexdigest()[:16]

    def _read(self, path: Path) -> tuple[np.ndarray, float]:
        """A picture at the crop's size, and how much smaller it is than the file's."""
        try:
            image = read_picture(path)
        except PictureError as error:
            raise DataError(f"{path}: {error}") from None
        if image.shape[0] != image.shape[1]:
            raise DataError(f"{path} is {image.shape[1]} x {image.shape[0]} px, an aligned crop is square")
        scale = self.size / len(image)
        return cv2.resize(image, (self.size,) * 2, interpolation=cv2.INTER_AREA) if scale != 1 else image, scale

    @staticmethod
    def _marks(folder: Path, picture: Path) -> Path:
        return (folder / "landmarks" / picture.name).with_suffix(".npy")
