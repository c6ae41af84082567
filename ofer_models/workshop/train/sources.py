"""Where training pictures come from: renderings of the head, or somebody's photographs with FLAME parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ofer_models.workshop.bundle_writer import Provenance
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.pictures import dataset
from ofer_models.workshop.pictures.dataset import PictureSet

_RENDERED = Provenance("trained by this project on renderings of the open head (`ofer train`)", "Apache-2.0", True)


class Source(Protocol):
    """Pictures with the truth that the networks learn. provenance is what a bundle trained on them says of itself."""

    provenance: Provenance

    def prepare(self, progress: Callable) -> None:
        """Make the pictures ready to load; what is there already stays."""

    def load(self) -> PictureSet:
        """All training pictures, those of one person together."""


@dataclass(frozen=True)
class Rendered:
    """`count` renderings for training and `held_out` ones for `ofer evaluate --set held_out`, under `folder`.

    wide: of the training pictures, see `PictureSource`; the held-out set stays what it always was.
    """

    head_path: Path
    folder: Path
    count: int
    held_out: int
    seed: int = 1
    workers: int = 2
    wide: bool = False
    provenance: Provenance = _RENDERED

    def prepare(self, progress: Callable) -> None:
        for name, count, seed, wide in (
            ("train", self.count, self.seed, self.wide),
            ("held_out", self.held_out, dataset.HELD_OUT_SEED, False),
        ):
            dataset.generate(
                self.head_path, self.folder / name, count, seed=seed, workers=self.workers, wide=wide,
                progress=progress,
            )  # fmt: skip

    def load(self) -> PictureSet:
        try:
            return dataset.load(self.folder / "train", self.count)
        except FileNotFoundError as error:
            raise DataError(f"{error}; `ofer train` draws them first") from None
