"""What a face does, in numbers from its 68 points: openings, widths, lifts; and how two series of them go together.

Everything is a part of the distance between the eyes' centres, along or across the line between the eyes, so that where
a face is, how large it is and how its head is tilted do not matter.
"""

from __future__ import annotations

import numpy as np

# Measures that a slope is asked of; the first ones by side.
MEASURES = (
    "eye aperture", "wink", "mouth opening", "mouth width", "corner lift", "brow height", "inner brow", "outer brow",
    "brow asymmetry",
)  # fmt: skip
INNER = slice(17, 68)  # the 51 points inside the face's contour
_RIGHT_EYE, _LEFT_EYE = slice(36, 42), slice(42, 48)


def between_eyes(points: np.ndarray) -> np.ndarray:
    """Distance (...) of the eyes' centres of points (..., 68, 2)."""
    return np.linalg.norm(points[..., _LEFT_EYE, :].mean(-2) - points[..., _RIGHT_EYE, :].mean(-2), axis=-1)


def measures(points: np.ndarray) -> dict[str, np.ndarray]:
    """MEASURES -> (...) of points (..., 68, 2) px in iBUG's order; y points down, the person's right comes first.

    Eye aperture: mean height of both eyes' openings; wink: the left one's minus the right one's. Mouth opening: between
    the lips' inner edges. Corner lift: how far the corners lie above the middle between the lips' outer edges. Brow
    height: above the eyes' corners; inner and outer: of the two points at that end; asymmetry: left minus right.
    """
    right, left = points[..., _RIGHT_EYE, :].mean(-2), points[..., _LEFT_EYE, :].mean(-2)
    along = left - right
    unit = np.linalg.norm(along, axis=-1)[..., None, None]
    along = along / unit[..., 0]
    up = np.stack([along[..., 1], -along[..., 0]], axis=-1)
    level = (points - right[..., None, :]) / unit
    x, y = (level * along[..., None, :]).sum(-1), (level * up[..., None, :]).sum(-1)

    def height(rows: tuple[int, ...]) -> np.ndarray:
        return y[..., list(rows)].mean(-1)

    eyes = height((37, 38)) - height((40, 41)), height((43, 44)) - height((46, 47))  # right, left
    brows = height((18, 19, 20)) - height((36, 39)), height((23, 24, 25)) - height((42, 45))
    lips = height((50, 51, 52)) + height((56, 57, 58))
    return {
        "eye aperture": (eyes[0] + eyes[1]) / 2,
        "wink": eyes[1] - eyes[0],
        "mouth opening": height((61, 62, 63)) - height((65, 66, 67)),
        "mouth width": x[..., 54] - x[..., 48],
        "corner lift": height((48, 54)) - lips / 2,
        "brow height": (brows[0] + brows[1]) / 2,
        "inner brow": height((20, 21, 22, 23)) - height((36, 39, 42, 45)),
        "outer brow": height((17, 18, 25, 26)) - height((36, 39, 42, 45)),
        "brow asymmetry": brows[1] - brows[0],
    }


def slope(values: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """How much of the reference's (n,) variation comes through in values (n,): slope of values on the reference (1:
    all, 0: nothing), and their correlation. NaN for less than three pairs."""
    if len(values) < 3:
        return float("nan"), float("nan")
    a, b = values - values.mean(), reference - reference.mean()
    spread = max(float(b @ b), 1e-12)
    return float(a @ b) / spread, float(a @ b) / max(float(np.sqrt((a @ a) * spread)), 1e-12)


def point_errors(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Distances (..., 68) of points (..., 68, 2) from reference (68, 2), as parts of the reference's between_eyes."""
    return np.linalg.norm(points - reference, axis=-1) / between_eyes(reference)
