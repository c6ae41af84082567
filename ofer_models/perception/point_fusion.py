"""MediaPipe's points and those of a bundle's own landmark network become one set with a deviation for each.

Inverse variances weigh the two: the network tells its deviations, MediaPipe's are those that it has on photographs.
Where both disagree by more than these explain, one of them is wrong and nobody knows which: the result's deviation
grows by as much (the ratio of Birge 1932, of measurements that do not agree within their errors).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ofer_models.head.landmark_sets import INNER_CORNERS, OUTER_CORNERS
from ofer_models.perception.encoder_inputs import crop_blob

# Of a coordinate of MediaPipe's on photographs, in parts of the inter-ocular distance: alone, and beside a network from
# which its gross errors stand out.
MEDIAPIPE_DEVIATION, MEDIAPIPE_WATCHED = 0.02, 0.014
LandmarkNetwork = Callable[..., dict[str, np.ndarray]]
_OUTER, _INNER = np.array(OUTER_CORNERS), np.array(INNER_CORNERS)


@dataclass(frozen=True)
class PointEstimate:
    """points (P, 2) px, deviation (P,) px of each coordinate, visible (P,) 0..1: the chance that a point is seen."""

    points: np.ndarray
    deviation: np.ndarray
    visible: np.ndarray

    def in_picture(self, to_crop: np.ndarray) -> PointEstimate:
        """The same of a crop's px in those of the picture; to_crop (2, 3) leads from this to that, a similarity."""
        scale = math.hypot(to_crop[0, 0], to_crop[1, 0])
        points = (self.points - to_crop[:, 2]) @ (to_crop[:, :2] / scale**2)
        return PointEstimate(points, self.deviation / scale, self.visible)


def look_at(network: LandmarkNetwork, crops: np.ndarray) -> list[PointEstimate]:
    """What a bundle's landmark network says of crops (F, 128, 128, 3) uint8, in their px."""
    told = network(crop128=crop_blob(crops))
    return [PointEstimate(*parts) for parts in zip(told["points"], told["deviation"], told["visible"], strict=True)]


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
