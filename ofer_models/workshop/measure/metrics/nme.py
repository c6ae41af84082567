"""Normalised mean error of 68 landmarks on AFLW2000-3D, by yaw.

Protocol: Zhu et al., "Face alignment across large poses: a 3D solution" (2016), on x and y; the headline is the plain
mean of the three bins, so that the many frontal pictures do not decide it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = (30.0, 60.0)  # degrees of |yaw|: at most 30, at most 60, beyond


@dataclass(frozen=True)
class NmeErrors:
    """Percent of the landmark box's size: in the bins of |yaw| up to 30, up to 60 and beyond, their plain mean, the
    mean over all pictures, and how many fell into each bin.
    """

    frontal: float
    turned: float
    profile: float
    mean: float
    pooled: float
    counts: tuple[int, int, int]


def landmark_errors(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """NME (n,) in percent of predicted (n, 68, 2) and truth (n, 68, 2) pixels: mean distance over sqrt(width * height)
    of the true landmarks' box.
    """
    predicted, truth = (np.asarray(points, np.float64)[..., :2] for points in (predicted, truth))
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted landmarks are {predicted.shape}, true ones {truth.shape}")
    size = np.sqrt(np.ptp(truth, axis=1).prod(1))
    return 100 * np.linalg.norm(predicted - truth, axis=-1).mean(1) / size


def by_yaw(errors: np.ndarray, yaw: np.ndarray) -> NmeErrors:
    """Bin errors (n,) in percent by yaw (n,) in degrees; an empty bin is NaN and makes the headline NaN."""
    turned = np.abs(np.asarray(yaw, np.float64))
    which = np.digitize(turned, BINS, right=True)
    parts = [np.asarray(errors)[which == number] for number in range(3)]
    means = [float(part.mean()) if len(part) else float("nan") for part in parts]
    return NmeErrors(*means, float(np.mean(means)), float(np.mean(errors)), tuple(len(part) for part in parts))
