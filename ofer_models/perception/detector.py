"""Face detection: MediaPipe's short- and full-range models together.

The short-range model is the better one on large, turned or half-hidden faces, the full-range model on small ones (it
finds faces down to about 30 px in a 640 x 480 frame, the short-range one down to about 60).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ofer_models.perception.crops import overlap
from ofer_models.perception.mediapipe_graph import SharedGraph, check_rgb

_LONGEST_SIDE = 384  # twice the larger model's input; more detail changes nothing but the time
_SAME_FACE = 0.5  # two boxes that share this part of the smaller one show one face

_GRAPH = """
input_stream: "image"
output_stream: "detections"
executor {{ type: "ApplicationThreadExecutor" }}
node {{
  calculator: "{calculator}"
  input_stream: "IMAGE:image"
  output_stream: "DETECTIONS:detections"
  node_options {{
    [type.googleapis.com/mediapipe.FaceDetectionOptions] {{ min_score_thresh: {threshold} }}
  }}
}}
"""


@dataclass(frozen=True)
class Detection:
    """box (4,) float: x, y, width, height in px, may reach outside the image.  score: 0..1.

    keypoints (6, 2) px: eye at image left, eye at image right, nose tip, mouth, ear at image left, ear at image right
    (left and right on an upright face).
    """

    box: np.ndarray
    score: float
    keypoints: np.ndarray


class FaceDetector:
    """Both models on the whole image, merged; from any thread.

    min_confidence: lowest score that counts.  The default is below MediaPipe's own (0.5 and 0.6) because landmarks are
    asked next whether a face is there.
    """

    def __init__(self, min_confidence: float = 0.4) -> None:
        self._graphs = [
            SharedGraph(
                _GRAPH.format(calculator=calculator, threshold=float(min_confidence)),
                np.zeros((8, 8, 3), np.uint8), outputs=["detections"],
            )
            for calculator in ("FaceDetectionShortRangeCpu", "FaceDetectionFullRangeCpu")
        ]  # fmt: skip

    def detect(self, rgb: np.ndarray, quarters: int = 0) -> list[Detection]:
        """Faces of an RGB image (H, W, 3) uint8 of any size, best first, after so many quarter turns counterclockwise;
        places are those in the image as given.  Raises ValueError for anything else.
        """
        height, width = check_rgb(rgb).shape[:2]
        shrink = min(1.0, _LONGEST_SIDE / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if shrink < 1 else rgb
        small = np.ascontiguousarray(np.rot90(small, quarters))
        found = []
        for graph in self._graphs:
            for raw in graph.process(small).detections or []:
                place = raw.location_data
                box = place.relative_bounding_box
                points = [(box.xmin, box.ymin), (box.xmin + box.width, box.ymin + box.height)]
                points += [(k.x, k.y) for k in place.relative_keypoints]
                points = _turned_back(np.array(points), quarters) * (width, height)
                low, high = points[:2].min(axis=0), points[:2].max(axis=0)
                box = np.concatenate([low, high - low])
                found.append(Detection(box, float(raw.score[0]), points[2:] - 0.5))
        return suppress(found)


def _turned_back(points: np.ndarray, quarters: int) -> np.ndarray:
    """Points (P, 2) as parts of the width and height, in the image from which it was turned counterclockwise."""
    for _ in range(quarters % 4):
        points = np.stack([1 - points[:, 1], points[:, 0]], axis=-1)
    return points


def suppress(detections: list[Detection]) -> list[Detection]:
    """Best detection of each face, best first: greedy suppression of boxes that share half of the smaller one."""
    kept: list[Detection] = []
    for candidate in sorted(detections, key=lambda d: -d.score):
        if all(overlap(candidate.box, other.box) < _SAME_FACE for other in kept):
            kept.append(candidate)
    return kept
