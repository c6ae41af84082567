"""What an avatar needs of a face in one frame: ARKit's weights, how sure they are, where head and eyes turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ofer_models.head.arkit import ARKIT_NAMES

SELECTED, MEAN = "selected", "mean"
# Head frame (x to the person's left, y up, z out of the face) to the optical frame of a camera that it looks into.
FACING = np.diag([1.0, -1.0, -1.0])
# Eye rotation in degrees at a weight of 1, as far as people turn their eyes: across, and up or down.
EYE_ACROSS, EYE_UPRIGHT = 30.0, 25.0

WeightMap = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]]  # expression, jaw -> weights (52,), residual


@dataclass(frozen=True)
class Performance:
    """A face at `stamp` (seconds).

    weights (52,) in 0..1 in the order of `ARKIT_NAMES`; uncertainty (52,): standard deviation of each over the
    hypotheses, NaN where there is but one. rotation (3, 3): of the head, in its own axes, against looking straight into
    the camera; translation (3,) m of the head frame's origin in the same axes, the camera in the origin.
    """

    stamp: float
    weights: np.ndarray
    uncertainty: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray


def performance(
    to_weights: WeightMap,
    expressions: np.ndarray,
    jaws: np.ndarray,
    scores: np.ndarray,
    selected: int,
    rotation: np.ndarray,
    translation: np.ndarray,
    stamp: float,
    hypothesis: str = SELECTED,
) -> Performance:
    """The performance of hypotheses expressions (H, E), jaws (H, 3) rad, scores (H,) of which row `selected` is shown,
    with the head's pose in the optical frame: rotation (3, 3), translation (3,) m.

    hypothesis: `selected`, `mean` (weighed by the scores), or a row's number. Raises ValueError, in one line, for a row
    that is not there and for anything else, for arrays that do not fit each other and numbers that are none.
    """
    _check(expressions, jaws, scores, selected, rotation, translation)
    every = np.stack([to_weights(*row)[0] for row in zip(expressions, jaws, strict=True)])
    check_hypothesis(hypothesis, len(every))
    if hypothesis == MEAN:
        weights = np.average(every, axis=0, weights=scores)
    else:
        weights = every[selected if hypothesis == SELECTED else int(hypothesis)]
    deviation = every.std(axis=0) if len(every) > 1 else np.full(len(ARKIT_NAMES), np.nan)
    return Performance(
        stamp, weights.astype(np.float32), deviation.astype(np.float32), FACING @ rotation, FACING @ translation
    )


def eye_angles(weights: np.ndarray) -> np.ndarray:
    """Yaw and pitch in degrees (2, 2) of the left and the right eye from weights (52,): yaw to the person's left and
    pitch up are positive. The eyeLook weights are taken to be proportional to the angle."""
    weight = dict(zip(ARKIT_NAMES, weights.tolist(), strict=True))
    angles = []
    for side, outward in (("Left", 1), ("Right", -1)):
        yaw = outward * (weight[f"eyeLookOut{side}"] - weight[f"eyeLookIn{side}"])
        angles.append((EYE_ACROSS * yaw, EYE_UPRIGHT * (weight[f"eyeLookUp{side}"] - weight[f"eyeLookDown{side}"])))
    return np.array(angles)


def head_angles(rotation: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch and roll in radians of a `Performance.rotation`: yaw to the person's left, pitch up and roll towards
    the person's left shoulder are positive; rotation = Ry(yaw) Rx(-pitch) Rz(-roll)."""
    yaw = np.arctan2(rotation[0, 2], rotation[2, 2])
    pitch = np.arcsin(np.clip(rotation[1, 2], -1, 1))
    roll = -np.arctan2(rotation[1, 0], rotation[1, 1])
    return float(yaw), float(pitch), float(roll)


def _check(
    expressions: np.ndarray, jaws: np.ndarray, scores: np.ndarray, selected: int, rotation: np.ndarray,
    translation: np.ndarray,
) -> None:  # fmt: skip
    """An avatar that once gets a number that is none keeps it."""
    count = len(expressions)
    if not len(jaws) == len(scores) == count or not 0 <= selected < count:
        raise ValueError(
            f"a face has {count} expressions, {len(jaws)} jaws, {len(scores)} scores, and row {selected} is selected"
        )
    if not all(np.isfinite(part).all() for part in (expressions, jaws, scores, rotation, translation)):
        raise ValueError("a face has coefficients or a pose that are no numbers")
    if (scores < 0).any() or not scores.sum() > 0:
        raise ValueError("a face's scores are no weights: they are negative, or all 0")


def check_hypothesis(hypothesis: str, count: int | None = None) -> None:
    """Raise ValueError for what is neither `selected`, `mean` nor the number of one of `count` rows (None: of any)."""
    if hypothesis in (SELECTED, MEAN):
        return
    if not hypothesis.isdecimal():
        raise ValueError(f"hypothesis {hypothesis!r} is neither `{SELECTED}`, `{MEAN}` nor a number")
    if count is not None and int(hypothesis) >= count:
        raise ValueError(f"hypothesis {hypothesis} is asked for, the face has {count}: 0 to {count - 1}")
