"""Random people and random faces they make: betas, ARKit coefficients and jaw rotations of the open head.

Expressions come in actions that move several units together, mostly alike on both sides, as people make them;
independent uniform units would show a network faces that nobody makes and each unit too seldom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Action: probability in a picture, and the strength that each unit takes at full action; `*` stands for Left and Right.
_ACTIONS: dict[str, tuple[float, dict[str, float]]] = {
    "frown brows": (0.20, {"browDown*": 1.0, "noseSneer*": 0.2}),
    "raise brows": (0.20, {"browInnerUp": 0.9, "browOuterUp*": 0.9, "eyeWide*": 0.3}),
    "worry": (0.08, {"browInnerUp": 1.0, "mouthFrown*": 0.4}),
    "blink": (0.14, {"eyeBlink*": 1.0}),
    "half blink": (0.12, {"eyeBlink*": 0.45}),
    "squint": (0.14, {"eyeSquint*": 1.0, "cheekSquint*": 0.6}),
    "widen": (0.10, {"eyeWide*": 1.0}),
    "smile": (0.25, {"mouthSmile*": 1.0, "cheekSquint*": 0.4, "mouthDimple*": 0.2}),
    "grin": (0.12, {"mouthSmile*": 0.8, "mouthUpperUp*": 0.7, "mouthLowerDown*": 0.5, "cheekSquint*": 0.5}),
    "frown mouth": (0.12, {"mouthFrown*": 1.0, "mouthShrugLower": 0.4}),
    "pucker": (0.12, {"mouthPucker": 1.0}),
    "funnel": (0.12, {"mouthFunnel": 1.0}),
    "stretch": (0.10, {"mouthStretch*": 1.0}),
    "upper lip": (0.12, {"mouthUpperUp*": 1.0, "noseSneer*": 0.4}),
    "lower lip": (0.12, {"mouthLowerDown*": 1.0}),
    "press": (0.10, {"mouthPress*": 1.0}),
    "dimple": (0.07, {"mouthDimple*": 1.0}),
    "roll": (0.10, {"mouthRollLower": 0.8, "mouthRollUpper": 0.8}),
    "shrug": (0.10, {"mouthShrugLower": 0.9, "mouthShrugUpper": 0.7}),
    "sneer": (0.08, {"noseSneer*": 1.0}),
    "puff": (0.07, {"cheekPuff": 1.0}),
    "jaw forward": (0.06, {"jawForward": 0.8}),
}
_SIDEWAYS = (("mouthLeft", "mouthRight", 0.12), ("jawLeft", "jawRight", 0.10))
_OPEN = 0.45  # share of pictures with an open mouth
_ONE_SIDED = 0.12


@dataclass(frozen=True)
class Population:
    """Draws coefficients for a head with these expression_names whose jawOpen = 1 is a pitch of jaw_open_angle rad."""

    expression_names: tuple[str, ...]
    n_shape: int
    jaw_open_angle: float

    def betas(self, rng: np.random.Generator) -> np.ndarray:
        """(S,) standard normal, the heads' own distribution, kept within three deviations."""
        return np.clip(rng.standard_normal(self.n_shape), -3, 3).astype(np.float32)

    def expression(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """ARKit coefficients (50,) in 0..1 and jaw (3,) axis-angle in radians."""
        strength: dict[str, float] = {}
        for probability, units in _ACTIONS.values():
            if rng.uniform() < probability:
                self._act(units, rng.beta(1.3, 1.2), strength, rng)
        for left, right, probability in _SIDEWAYS:
            if rng.uniform() < probability:
                strength[left if rng.uniform() < 0.5 else right] = rng.beta(1.3, 1.5)
        self._look(strength, rng)
        opening = rng.beta(1.2, 2.0) if rng.uniform() < _OPEN else 0.0
        if opening and rng.uniform() < 0.12:
            strength["mouthClose"] = opening * rng.uniform(0.3, 1.0)  # lips that meet over an open jaw
        coefficients = np.array([strength.get(name, 0.0) for name in self.expression_names])
        idle = np.maximum(0, rng.normal(0, 0.02, len(coefficients))) * (np.array(self.expression_names) != "mouthClose")
        jaw = np.array([opening * self.jaw_open_angle, rng.normal(0, 0.012), rng.normal(0, 0.008)])
        return np.clip(coefficients + idle, 0, 1).astype(np.float32), jaw.astype(np.float32)

    def _act(self, units: dict[str, float], level: float, strength: dict[str, float], rng: np.random.Generator) -> None:
        sides = {"Left": np.clip(rng.normal(1, 0.12), 0, 1.2), "Right": np.clip(rng.normal(1, 0.12), 0, 1.2)}
        if rng.uniform() < _ONE_SIDED:
            sides["Left" if rng.uniform() < 0.5 else "Right"] *= rng.uniform(0, 0.4)
        for unit, share in units.items():
            share = share * np.clip(rng.normal(1, 0.2), 0.3, 1.5) * level
            for side in ("Left", "Right") if unit.endswith("*") else ("",):
                name = unit.removesuffix("*") + side
                strength[name] = min(1.0, strength.get(name, 0.0) + share * sides.get(side, 1.0))

    def _look(self, strength: dict[str, float], rng: np.random.Generator) -> None:
        """Both eyes to one point: x to the person's left, y up, each in -1..1."""
        x, y = (np.clip(rng.normal(0, 0.35, 2), -1, 1)) if rng.uniform() < 0.7 else (0.0, 0.0)
        toward = {"eyeLookOutLeft": x, "eyeLookInRight": x, "eyeLookInLeft": -x, "eyeLookOutRight": -x}
        toward |= {f"eyeLookUp{side}": y for side in ("Left", "Right")} | {
            f"eyeLookDown{side}": -y for side in ("Left", "Right")
        }
        strength.update({name: max(0.0, float(value)) for name, value in toward.items()})
