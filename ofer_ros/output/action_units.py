"""Action units (Ekman and Friesen's Facial Action Coding System) from ARKit's weights, as REP-155 publishes them."""

from __future__ import annotations

import numpy as np

from ofer_models.head.arkit import ARKIT_NAMES

CODES = 99  # of hri_msgs/FacialActionUnits: an intensity for each code from 0 on
_BOTH = ("Left", "Right")
# Code -> the weights whose mean it is. Left and right are the person's, in both.
_UNITS: dict[int, tuple[str, ...]] = {
    1: ("browInnerUp",),
    17: ("mouthShrugLower",),
    18: ("mouthPucker",),
    19: ("tongueOut",),
    22: ("mouthFunnel",),
    26: ("jawOpen",),
    28: ("mouthRollLower", "mouthRollUpper"),
    29: ("jawForward",),
    34: ("cheekPuff",),
    61: ("eyeLookOutLeft", "eyeLookInRight"),
    62: ("eyeLookInLeft", "eyeLookOutRight"),
} | {
    code: tuple(name + side for side in _BOTH)
    for code, name in {
        2: "browOuterUp", 4: "browDown", 5: "eyeWide", 6: "cheekSquint", 7: "eyeSquint", 9: "noseSneer",
        10: "mouthUpperUp", 12: "mouthSmile", 14: "mouthDimple", 15: "mouthFrown", 16: "mouthLowerDown",
        20: "mouthStretch", 24: "mouthPress", 43: "eyeBlink", 63: "eyeLookUp", 64: "eyeLookDown",
    }.items()
}  # fmt: skip
ESTIMATED = tuple(sorted(_UNITS))
_MEANS = np.zeros((CODES, len(ARKIT_NAMES)), np.float32)
for _code, _names in _UNITS.items():
    _MEANS[_code, [ARKIT_NAMES.index(name) for name in _names]] = 1 / len(_names)


def action_units(weights: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Intensities and confidences (99,) float32, both 0..1, of ARKit's weights (52,).

    Codes that the weights say nothing of have the confidence 0; the others have that of the face.
    """
    confidences = np.zeros(CODES, np.float32)
    confidences[list(ESTIMATED)] = confidence
    return _MEANS @ np.asarray(weights, np.float32), confidences
