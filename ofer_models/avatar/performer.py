"""One face followed from frame to frame, its weights steady: from what was seen of all faces to a `Performance`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ofer_models.avatar.performance import SELECTED, Performance, WeightMap, check_hypothesis, performance
from ofer_models.avatar.weight_filter import WeightFilter
from ofer_models.head.arkit import ARKIT_NAMES

PATIENCE = 1.0  # s in which a new face's head usually becomes known
_SLOW = np.array([name.startswith(("eyeLook", "brow")) for name in ARKIT_NAMES])  # gaze and brows rest where they went


@dataclass(frozen=True)
class SeenFace:
    """What is needed of a face in one frame: its id and area in px^2, expressions (H, E), jaws (H, 3) rad, scores (H,),
    the selected row, and the head's rotation (3, 3) and translation (3,) m in the optical frame. head_known: False
    while its head is still being gathered or on its way there: expressions change with it."""

    id: str
    area: float
    expressions: np.ndarray
    jaws: np.ndarray
    scores: np.ndarray
    selected: int
    rotation: np.ndarray
    translation: np.ndarray
    head_known: bool = True


class Performer:
    """performer(faces, stamp) -> Performance, or None while the face that it follows is not there, and until its head
    is known: the same face reads otherwise on another head, and an avatar would move with nobody moving.

    followed: its id, '' for none.
    """

    def __init__(
        self, to_weights: WeightMap, face: str = "", hypothesis: str = SELECTED, patience: float = PATIENCE
    ) -> None:
        """to_weights: `arkit_map` of the head. face: an id; '': the largest, and then the same one until it is lost.
        hypothesis: as `performance` has it. patience: s after which a new face performs with whatever head it has.
        Raises ValueError for a hypothesis that no face can have."""
        check_hypothesis(hypothesis)
        self._to_weights, self._face, self._hypothesis = to_weights, face, hypothesis
        self._patience, self._since = patience, -math.inf
        self.followed, self._performs = "", False
        self._steady = WeightFilter(_SLOW)

    def __call__(self, faces: Sequence[SeenFace], stamp: float) -> Performance | None:
        """stamp: seconds. Raises ValueError for a hypothesis that the face does not have."""
        face = self._choose(faces)
        if face is None:
            self.followed = ""
            return None
        if face.id != self.followed:
            self.followed, self._since, self._performs, self._steady = face.id, stamp, False, WeightFilter(_SLOW)
        acted = performance(
            self._to_weights, face.expressions, face.jaws, face.scores, face.selected, face.rotation, face.translation,
            stamp, self._hypothesis,
        )  # fmt: skip
        # A stamp before the first one is of a clock that was set back.
        if not self._performs and (face.head_known or not 0 <= stamp - self._since < self._patience):
            self._performs = True
        steady = self._steady(acted.weights, stamp)  # while it waits, to learn how the weights tremble and where
        return replace(acted, weights=steady.astype(np.float32)) if self._performs else None

    def _choose(self, faces: Sequence[SeenFace]) -> SeenFace | None:
        wanted = self._face or self.followed
        for face in faces:
            if face.id == wanted:
                return face
        return None if self._face else max(faces, key=lambda face: face.area, default=None)
