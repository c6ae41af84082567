"""How far the hypotheses of a face lie apart, in millimetres."""

from __future__ import annotations

import numpy as np

# MediaPipe's points by region: the right half's, and the left half's at the mirrored places.
REGIONS = {
    "mouth": (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409, 78, 95, 88,
              178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415),
    "eyes": (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246, 263, 249, 390, 373, 374, 380,
             381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
    "brows": (70, 63, 105, 66, 107, 55, 65, 52, 53, 46, 300, 293, 334, 296, 336, 285, 295, 282, 283, 276),
}  # fmt: skip


def spread_mm(hypotheses: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Spread (..., P) in mm at each point of hypotheses (..., H, P, 3) in metres: the root mean square distance to
    their mean. weights (..., H) sum to one; without them every hypothesis counts the same. NaN of a single
    hypothesis, which says nothing of others.
    """
    count = hypotheses.shape[-3]
    if count == 1:
        return np.full((*hypotheses.shape[:-3], hypotheses.shape[-2]), np.nan)
    weights = np.full(count, 1 / count) if weights is None else np.asarray(weights, np.float64)
    weights = np.broadcast_to(weights, hypotheses.shape[:-2])[..., None, :]  # (..., 1, H)
    flat = hypotheses.reshape(*hypotheses.shape[:-2], -1).astype(np.float64)
    mean = (weights @ flat)[..., 0, :].reshape(*hypotheses.shape[:-3], 1, *hypotheses.shape[-2:])
    apart = ((hypotheses - mean) ** 2).sum(-1)
    return 1000 * np.sqrt((weights @ apart)[..., 0, :])


def region_rows(points: np.ndarray) -> dict[str, np.ndarray]:
    """Region -> rows of `points` (L,), MediaPipe's numbers of a head's landmarks, that lie in it."""
    return {name: np.flatnonzero(np.isin(points, members)) for name, members in REGIONS.items()}
