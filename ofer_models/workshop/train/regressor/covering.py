"""Covering faces for a student: rectangles of arbitrary pixels, as Learner does, and hands, masks, glasses, objects."""

from __future__ import annotations

import numpy as np

from ofer_models.workshop.pictures.occluders import add_occluders

_RECTANGLES = 0.5  # share of covered faces that rectangles of arbitrary pixels cover, and not drawn things
_SIDES = (0.2, 0.65)  # of a rectangle, in parts of the face


def cover(crop: np.ndarray, marks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A face's crop (S, S, 3) uint8 with something before it; marks (68, 2) px."""
    if rng.uniform() >= _RECTANGLES:
        drawn, _ = add_occluders(crop.astype(np.float32) / 255, marks, rng, share=1.0, hats=True)
        return (drawn.clip(0, 1) * 255).round().astype(np.uint8)
    crop = crop.copy()
    face = np.ptp(marks, axis=0)
    for _ in range(1 + (rng.uniform() < 0.3)):
        centre, side = marks[rng.integers(len(marks))], face * rng.uniform(*_SIDES, 2)
        (x0, y0), (x1, y1) = (np.clip(centre + sign * side / 2, 0, len(crop)).astype(int) for sign in (-1, 1))
        area = crop[y0:y1, x0:x1]
        crop[y0:y1, x0:x1] = rng.integers(0, 256, area.shape, dtype=np.uint8)
    return crop


def covered(crops: np.ndarray, marks: np.ndarray, seed: int) -> np.ndarray:
    """Crops (n, S, S, 3) covered, each by its own, always the same, for a seed."""
    return np.stack([cover(crop, marks[row], np.random.default_rng((seed, row))) for row, crop in enumerate(crops)])
