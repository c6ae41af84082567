"""MediaPipe's points and those of a bundle's own landmark network become one set with a deviation for each.

Inverse variances weigh the two: the network tells its deviations, MediaPipe's are those that it has on photographs.
Where both disagree by more than these explain, one of them is wrong and nobody knows which: the result's deviation
grows by as much (the ratio of Birge 1932, of measurements that do not agree within their errors).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ofer_models.head.landmark_sets import INNER_CORNERS, OUTER_CORNERS
from ofer_models.perception.encoder_inputs import crop_blob
from ofer_models.perception.landmark_crop import landmark_crop

# Of a coordinate of MediaPipe's on photographs, in parts of the inter-ocular distance: alone, and beside a network from
# which its gross errors stand out.
MEDIAPIPE_DEVIATION, MEDIAPIPE_WATCHED = 0.02, 0.014
_OUTER, _INNER = np.array(OUTER_CORNERS), np.array(INNER_CORNERS)


@dataclass(frozen=True)
class PointEstimate:
    """points (P, 2) px, deviation (P,) px of each coordinate, visible (P,) 0..1: the chance that a point is seen."""

    points: np.ndarray
    deviation: np.ndarray
    visible: np.ndarray

    @classmethod
    def from_crop(
        cls, points: np.ndarray, deviation: np.ndarray, visible: np.ndarray, to_crop: np.ndarray
    ) -> PointEstimate:
        """Of what the network says in a crop's px, and the map (2, 3) from the picture to the crop, a similarity."""
        scale = float(np.hypot(to_crop[0, 0], to_crop[1, 0]))
        return cls((points - to_crop[:, 2]) @ to_crop[:, :2] / scale**2, deviation / scale, visible)


def look(network: Callable[..., dict[str, np.ndarray]], rgb: np.ndarray, points: np.ndarray) -> list[PointEstimate]:
    """What a bundle's landmark network says of the faces at points (F, 478, >= 2) px of a picture (H, W, 3) uint8."""
    crops, matrices = zip(*(landmark_crop(rgb, face) for face in points), strict=True)
    return look_at(network, np.stack(crops), matrices)


def look_at(
    network: Callable[..., dict[str, np.ndarray]], crops: np.ndarray, matrices: Sequence[np.ndarray]
) -> list[PointEstimate]:
    """The same of crops (F, 128, 128, 3) uint8 with the maps (2, 3) from the picture to each."""
    told = network(crop128=crop_blob(crops))
    columns = (told[name] for name in ("points", "deviation", "visible"))
    return [PointEstimate.from_crop(*parts, matrix) for *parts, matrix in zip(*columns, matrices, strict=True)]


def inter_ocular(points: np.ndarray) -> float:
    """Distance px between the eyes of mesh points (>= 468, >= 2) px: the unit in which they are judged."""
    right, left = points[_OUTER, :2] + points[_INNER, :2]
    across, height = (points[:, :2].max(axis=0) - points[:, :2].min(axis=0)).tolist()
    # A profile shows both eyes at one place.
    return max(math.dist(left, right) / 2, 0.35 * max(across, height), 1e-3)


def fuse(mediapipe: np.ndarray, own: PointEstimate) -> PointEstimate:
    """Both as one: mediapipe (P, >= 2) px."""
    told, usual = own.deviation**2, (MEDIAPIPE_WATCHED * inter_ocular(mediapipe)) ** 2
    apart = own.points - mediapipe[:, :2]
    together = told + usual
    birge = np.maximum((apart**2).mean(-1) / together, 1)
    points = mediapipe[:, :2] + (usual / together)[:, None] * apart
    return PointEstimate(points, np.sqrt(birge * told * usual / together), own.visible)
