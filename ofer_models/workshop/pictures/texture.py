"""What skin and things before a face are painted with: tones and smooth noise. numpy and OpenCV alone."""

from __future__ import annotations

import cv2
import numpy as np

# A walk through human skin albedo from very light to very dark.
_SKIN_TONES = np.array(
    [
        [0.96, 0.84, 0.76],
        [0.92, 0.76, 0.65],
        [0.84, 0.65, 0.51],
        [0.70, 0.50, 0.37],
        [0.52, 0.35, 0.24],
        [0.32, 0.21, 0.15],
    ]
)


def random_skin_tone(rng: np.random.Generator) -> np.ndarray:
    """An RGB albedo (3,) somewhere on the walk from light to dark, slightly off it."""
    position = rng.uniform(0, len(_SKIN_TONES) - 1)
    low = min(int(position), len(_SKIN_TONES) - 2)
    tone = _SKIN_TONES[low] + (position - low) * (_SKIN_TONES[low + 1] - _SKIN_TONES[low])
    return np.clip(tone * rng.uniform(0.93, 1.07, 3), 0.05, 1)


def smooth_noise(size: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size) noise in about -1..1 that varies over size / cells pixels."""
    return cv2.resize(
        rng.uniform(-1, 1, (cells, cells)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )
