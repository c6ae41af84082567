"""Teeth in the aligned crops of open mouths. The open head has none, and real smiles show them.

A network that only ever saw dark open mouths takes bright teeth for closed lips, so most training crops get teeth,
drawn between MediaPipe's inner lip points, which mark the gap well on renderings too.
"""

from __future__ import annotations

import cv2
import numpy as np

_UPPER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)  # inner edges, corner to corner
_LOWER_LIP = (308, 324, 318, 402, 317, 14, 87, 178, 88, 95, 78)
_LEAST_GAP = 1.5  # px between the lips, below which nothing would be seen
_SHARE, _LOWER_SHARE = 0.75, 0.3  # of open mouths that show upper teeth, and of these lower ones as well
_SUBPIXEL = 4  # bits of OpenCV's fixed-point coordinates


def show_teeth(crop: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The aligned crop (112, 112, 3) uint8 RGB, mostly with teeth where the mouth is open.

    landmarks (478, >=2) in the crop with its edge pixels at -1 and 1.
    """
    points = (np.asarray(landmarks, np.float64)[:, :2] + 1) * (len(crop) - 1) / 2
    upper, lower = points[list(_UPPER_LIP)], points[list(_LOWER_LIP)]
    gap = float(np.linalg.norm(upper[5] - lower[5]))
    if gap < _LEAST_GAP or rng.uniform() > _SHARE:
        return crop
    opening = _filled(crop, np.concatenate([upper, lower]))
    teeth = _filled(crop, _band(upper, rng.uniform(2.5, 8.0)))
    if rng.uniform() < _LOWER_SHARE:
        teeth = np.maximum(teeth, _filled(crop, _band(lower, -rng.uniform(1.5, 4.0))))
    cover = np.minimum(opening, teeth) * rng.uniform(0.6, 1.0)
    cover = cv2.GaussianBlur(cover, (0, 0), rng.uniform(0.4, 0.9))[..., None]
    # As bright as the skin round them allows: the light that falls on both is the same.
    skin = crop[20:92, 20:92].reshape(-1, 3).mean(0)
    brightness = np.clip(skin.mean() * rng.uniform(1.1, 2.2) + rng.uniform(0, 40), 40, 250)
    ivory = brightness * rng.uniform([0.97, 0.9, 0.75], 1)
    return np.round(crop * (1 - cover) + ivory * cover).astype(np.uint8)


def _band(edge: np.ndarray, height: float) -> np.ndarray:
    """The polygon between an edge (n, 2) and itself moved down by height px."""
    return np.concatenate([edge, edge[::-1] + np.array([0, height])])


def _filled(crop: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Coverage (112, 112) in 0..1 of a polygon (n, 2) px."""
    canvas = np.zeros(crop.shape[:2], np.uint8)
    cv2.fillPoly(canvas, [np.round(polygon * 2**_SUBPIXEL).astype(np.int32)], 255, cv2.LINE_AA, _SUBPIXEL)
    return canvas.astype(np.float32) / 255
