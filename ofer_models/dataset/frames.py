"""What a reader of videos or bags gives of each frame. No pyarrow in here: readers import it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ofer_models.perception.intrinsics import Intrinsics


@dataclass(frozen=True)
class ArchivedFrame:
    """rgb (H, W, 3) uint8, None where the frame cannot be decoded, which `problem` then says in one line.

    stamp: seconds on the source's own clock. camera: as recorded, None where it is not known.
    """

    rgb: np.ndarray | None
    stamp: float
    camera: Intrinsics | None = None
    problem: str = ""


# path (with `#topic` for a bag's) -> its frames in time order; ValueError or OSError for what cannot be read
FrameReader = Callable[[str], Iterator[ArchivedFrame]]
