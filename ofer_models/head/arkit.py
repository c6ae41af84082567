"""ARKit's 52 blendshapes of an expression: read off where the head's coefficients are ARKit's units, else fitted.

The open head's 50 coefficients are the units by name, and its jaw's pitch is `jawOpen`: exact. Another head's (FLAME's
expression components have no meaning of their own) are translated at the 68 landmarks that both heads have: w in
0..1 minimises

    | D w - d |^2 + RIDGE |D|^2 / 51 |w|^2

with D (204, 51) the landmarks' displacements by the units of the open head, scaled to this head's inter-ocular
distance, and d (204,) those by the expression and jaw of this head. Units that move few landmarks (`cheekPuff`, the
eyes' directions, which show in the lids alone) are told poorly; units that move them alike share what they explain.

Error, measured on the open head with its expressions turned into nameless principal components (200 faces with 8 units
each at 0 to 1 and the jaw open by up to its whole angle, tests/test_head_arkit.py): 0.06 a weight on average, 0.13 root
mean square where the weights have 0.24; the landmarks are met to 0.4 mm. On FLAME add what its basis cannot express;
`residual` tells, face by face, what the weights leave unexplained.

Names: Apple, ARFaceAnchor.BlendShapeLocation.
"""

from __future__ import annotations

import numpy as np

from ofer_models.head.decoders import HypothesisDecoder
from ofer_models.head.model import HeadModel

ARKIT_NAMES = (
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft", "eyeSquintLeft",
    "eyeWideLeft", "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight", "eyeLookOutRight", "eyeLookUpRight",
    "eyeSquintRight", "eyeWideRight", "jawForward", "jawLeft", "jawRight", "jawOpen", "mouthClose", "mouthFunnel",
    "mouthPucker", "mouthLeft", "mouthRight", "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft",
    "mouthFrownRight", "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthPressLeft", "mouthPressRight",
    "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight", "browDownLeft",
    "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff", "cheekSquintLeft",
    "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip
_JAW_OPEN, _TONGUE = ARKIT_NAMES.index("jawOpen"), ARKIT_NAMES.index("tongueOut")
_LANDMARKS, _EYES = "landmarks68", (36, 45)  # the embedding compared, and its outer eye corners
RIDGE = 0.003
_ROUNDS = 60  # of projected gradients with momentum; the fit no longer moves in the third digit


class ArkitExact:
    """For a head whose coefficients are ARKit's units by name, with the jaw's pitch for `jawOpen`."""

    def __init__(self, head: HeadModel) -> None:
        """Raises ValueError for a head of another kind."""
        if not has_units(head):
            raise ValueError("the head's expression coefficients are not ARKit's units")
        self._columns = [ARKIT_NAMES.index(name) for name in head.expression_names]
        self._angle = head.jaw_open_angle

    def __call__(self, expression: np.ndarray, jaw: np.ndarray) -> tuple[np.ndarray, float]:
        """Weights (52,) float32 in 0..1 of an expression (E,) and jaw (3,) rad, and their residual: 0."""
        weights = np.zeros(len(ARKIT_NAMES), np.float32)
        weights[self._columns] = expression
        weights[_JAW_OPEN] = jaw[0] / self._angle
        return np.clip(weights, 0, 1), 0.0


class ArkitFit:
    """For any other head: the least-squares fit of this module's description."""

    def __init__(self, head: HeadModel, units: HeadModel) -> None:
        """units: a head that `has_units`, the open one. Raises ValueError where a head lacks the 68 landmarks."""
        for one in (head, units):
            if _LANDMARKS not in one.embeddings:
                raise ValueError("blendshapes of this head need its 68 landmarks; run `ofer import` with --landmarks")
        embedding = head.embeddings[_LANDMARKS]
        corners = head.faces[embedding.triangle]
        used, inverse = np.unique(corners, return_inverse=True)
        self._corners, self._bary = inverse.reshape(corners.shape), embedding.bary
        self._decode = HypothesisDecoder(head, used)
        self._neutral = head.identity(np.zeros(head.n_shape, np.float32))
        self._rest = head.landmarks(head.v_template, _LANDMARKS)
        self._seen = [row for row, name in enumerate(ARKIT_NAMES) if name != "tongueOut"]
        basis = unit_displacements(units)[self._seen]
        rest = units.landmarks(units.v_template, _LANDMARKS)
        scale = _inter_ocular(self._rest) / _inter_ocular(rest)
        self._basis = scale * basis.reshape(len(basis), -1).T  # (204, 51)
        gram = self._basis.T @ self._basis
        self._gram = gram + RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
        self._step = 1 / np.linalg.eigvalsh(self._gram)[-1]

    def __call__(self, expression: np.ndarray, jaw: np.ndarray) -> tuple[np.ndarray, float]:
        """Weights (52,) float32 in 0..1 of an expression (E,) and jaw (3,) rad, and the residual.

        The residual is the root mean square distance (m) between this head's landmarks and those that the weights
        stand for.
        """
        moved = self._decode(self._neutral, np.asarray(expression)[None], np.asarray(jaw)[None])[0]
        target = (np.einsum("lc,lcx->lx", self._bary, moved[self._corners]) - self._rest).ravel()
        fitted = self._fit(self._basis.T @ target)
        weights = np.zeros(len(ARKIT_NAMES), np.float32)
        weights[self._seen] = fitted
        left = (self._basis @ fitted - target).reshape(-1, 3)
        return weights, float(np.sqrt((left**2).sum(axis=1).mean()))

    def _fit(self, right: np.ndarray) -> np.ndarray:
        """Bounded least squares by projected gradients with Nesterov's momentum."""
        weights = ahead = np.zeros(len(right))
        pace = 1.0
        for _ in range(_ROUNDS):
            following = np.clip(ahead - self._step * (self._gram @ ahead - right), 0, 1)
            next_pace = (1 + np.sqrt(1 + 4 * pace**2)) / 2
            ahead = following + (pace - 1) / next_pace * (following - weights)
            weights, pace = following, next_pace
        return weights


def has_units(head: HeadModel) -> bool:
    """Whether a head's coefficients are ARKit's units by name, all but `jawOpen` and `tongueOut`."""
    return head.jaw_open_angle is not None and set(ARKIT_NAMES) - set(head.expression_names) == {"jawOpen", "tongueOut"}


def unit_displacements(head: HeadModel) -> np.ndarray:
    """Displacements (52, 68, 3) in metres of the landmarks of a head that `has_units`, by each unit at 1."""
    rest = head.landmarks(head.v_template, _LANDMARKS)
    moved = np.zeros((len(ARKIT_NAMES), *rest.shape), np.float32)
    none = np.zeros(head.n_shape, np.float32)
    for row, name in enumerate(ARKIT_NAMES):
        expression = np.array([name == own for own in head.expression_names], np.float32)
        jaw = np.array([head.jaw_open_angle if name == "jawOpen" else 0.0, 0.0, 0.0], np.float32)
        moved[row] = head.landmarks(head.decode(none, expression, jaw), _LANDMARKS) - rest
    return moved


def _inter_ocular(landmarks: np.ndarray) -> float:
    return float(np.linalg.norm(landmarks[_EYES[0]] - landmarks[_EYES[1]]))
