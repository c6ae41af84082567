"""Where in a picture the detector looks: the whole of it, as it stands and turned, and parts of it for small faces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from ofer_models.perception.crops import overlap
from ofer_models.perception.detector import Detection, FaceDetector, suppress

# A detector knows upright faces, up to about 60 degrees of roll. Upside down it takes the chin for a forehead, with
# scores up to 0.85; the right way round the same faces have more.
PLAIN = 0.85  # score from which, and roll up to which, a detection needs no second look
PLAIN_ROLL = math.radians(50)
TURNED = 0.75  # least score of a face that is found only in a picture turned for the purpose

# Faces are found from about 1/20 of the longer side on, so each level of tiles finds those of half the size.
_SMALLEST_TILE = 400  # px; below it the detector would see no more of them
_TILE_STEP = 2 / 3  # of a tile: what is cut by one's edge is whole in the next
_APART = 0.3  # two faces share less than this part of the smaller box
_IN_A_TILE = 0.6  # least score there: the more is looked at, the more is taken for a face


class FaceSearch:
    """The detector on whole pictures and parts of them."""

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector

    def __call__(self, rgb: np.ndarray, quarters: Iterable[int]) -> list[Detection]:
        """Faces of rgb (H, W, 3) uint8 as it is after so many quarter turns counterclockwise, best first, each once."""
        return suppress([one for quarter in quarters for one in self._detector.detect(rgb, quarter)])

    def in_tiles(self, rgb: np.ndarray, quarter: int, known: list[Detection]) -> list[Detection]:
        """Further faces that are too small for a look at the whole picture; `known` are those found there.

        Costs one run of the detector a tile: 24 for a picture of 1920 x 1080, 108 for one of 3840 x 2160.
        """
        found = list(known)
        for tiles in _levels(*rgb.shape[1::-1]):
            here: list[Detection] = []
            for x, y, side in tiles:
                for one in self._detector.detect(rgb[y : y + side, x : x + side], quarter):
                    moved = replace(one, box=one.box + [x, y, 0, 0], keypoints=one.keypoints + [x, y])
                    # A part of a larger face may look like a face.
                    sure = [other for other in found if other.score >= _IN_A_TILE]
                    if one.score >= _IN_A_TILE and all(overlap(moved.box, other.box) < _APART for other in sure):
                        here.append(moved)
            found += suppress(here)
        return found[len(known) :]


def _levels(width: int, height: int) -> Iterator[list[tuple[int, int, int]]]:
    """Squares (left, top, side) over a picture, each list with half the side of the one before."""
    side = max(width, height) // 2
    while side >= _SMALLEST_TILE:
        yield [(x, y, side) for y in _starts(height, side) for x in _starts(width, side)]
        side //= 2


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    steps = math.ceil((length - side) / (_TILE_STEP * side))
    return [round(i * (length - side) / steps) for i in range(steps + 1)]
