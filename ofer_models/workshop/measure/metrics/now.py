"""The NoW challenge's error, non-metrical and metrical.

Protocol: Sanyal et al., "Learning to regress 3D face shape and expression from an image without 3D supervision" (2019),
as its public evaluation computes it; the metrical form is that of Zielonka et al. (MICA, 2022). Figures of
the challenge come only from its own server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofer_models.workshop.measure.metrics.alignment import align_points, align_scan
from ofer_models.workshop.measure.metrics.closest_point import TriangleSurface


@dataclass(frozen=True)
class NowErrors:
    """Distances in mm pooled over all scan vertices of all images; missing: images without a prediction."""

    median: float
    mean: float
    std: float
    images: int
    missing: int


def crop_scan(vertices: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Which scan vertices (P,) bool take part: those within the challenge's sphere round the face.

    vertices (P, 3), landmarks (7, 3): eye corners right outer, right inner, left inner, left outer, nose bottom, mouth
    corners right, left. Bridge b = mean(l1, l2), centre = l4 + 0.3 (b - l4), radius = 1.4 (|l0 - l3| + |b - l4|) / 2.
    """
    landmarks = np.asarray(landmarks, np.float64)
    bridge, nose = landmarks[[1, 2]].mean(0), landmarks[4]
    centre = nose + 0.3 * (bridge - nose)
    radius = 1.4 * (np.linalg.norm(landmarks[0] - landmarks[3]) + np.linalg.norm(bridge - nose)) / 2
    return np.linalg.norm(np.asarray(vertices) - centre, axis=1) <= radius


def scan_distances(
    scan: np.ndarray,
    scan_landmarks: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    landmarks: np.ndarray,
    *,
    metrical: bool = False,
) -> np.ndarray:
    """Unsigned distances (P',) of the cropped scan's vertices from the aligned prediction, in the scan's unit (mm).

    scan (P, 3) with scan_landmarks (7, 3); prediction: vertices (V, 3), faces (F, 3), landmarks (7, 3) in a unit of
    their own. The seven points align first, then the distances themselves are refined. metrical: sizes stay as they
    are, so the prediction must be in mm as well.
    """
    kept = np.asarray(scan, np.float64)[crop_scan(scan, scan_landmarks)]
    if not len(kept):
        raise ValueError("no scan vertex lies near the scan's landmarks: are both in mm and in one frame?")
    surface = TriangleSurface(vertices, faces)
    start = align_points(landmarks, scan_landmarks, scale=not metrical)
    transform = align_scan(kept, surface, start, scale=not metrical)
    on, _ = surface.closest(transform.back(kept))
    return np.linalg.norm(kept - transform(on), axis=1)


def pool(distances: Sequence[np.ndarray | None]) -> NowErrors:
    """Pool images' distances; None stands for an image without a prediction, which is counted, not dropped silently."""
    found = [np.asarray(d, np.float64) for d in distances if d is not None]
    if not found:
        nothing = float("nan")
        return NowErrors(nothing, nothing, nothing, 0, len(distances))
    every = np.concatenate(found)
    return NowErrors(
        float(np.median(every)), float(every.mean()), float(every.std()), len(found), len(distances) - len(found)
    )
