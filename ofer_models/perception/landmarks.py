"""MediaPipe's attention face mesh (478 points) on a given region of interest.

The registered sub-graph `FaceLandmarkCpu` is run without MediaPipe's own detector and tracker, so a face costs exactly
one inference, and nothing is carried from one call to the next: a picture and a region always give the same points.

Pixel coordinates have the centre of the first pixel at (0, 0), as OpenCV and ROS' CameraInfo have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ofer_models.perception.mediapipe_graph import NormalizedRect, SharedGraph, check_rgb

POINTS = 478
CROP = 192  # input side of the network
ROI_MARGIN = 1.5  # MediaPipe's enlargement of a detection or landmark box
LEAST_PRESENCE = 0.5  # score below which a region counts as holding no face
# Scale and turn (rad) with which a refused region is tried again, and how far off a mesh's eyes may then be, in parts
# of the distance between those detected: meshes that sit right are 0.25 off at most, those on an ear 0.5 to 1.
_RETRIES = ((0.8, 0.0), (1.0, -0.2), (1.0, 0.2), (0.8, 0.2), (0.8, -0.2), (1.25, 0.0))
_EYES_OFF = 0.3
_EYES = np.array([[33, 133], [362, 263]])
EYE_CORNERS = (33, 263)  # outer corners, image left and image right on an upright face

# ApplicationThreadExecutor runs the graph on the caller's thread: no idle threads, no hand-over.
_GRAPH = """
input_stream: "image"
input_stream: "roi"
input_side_packet: "with_attention"
executor { type: "ApplicationThreadExecutor" }
node {
  calculator: "FaceLandmarkCpu"
  input_stream: "IMAGE:image"
  input_stream: "ROI:roi"
  input_side_packet: "WITH_ATTENTION:with_attention"
  output_stream: "LANDMARKS:landmarks"
}
"""
_PRESENCE_STREAM = "facelandmarkcpu__face_presence_score"  # inside the sub-graph


@dataclass(frozen=True)
class Roi:
    """A square region around a face.

    x, y: centre in px.  size: side in px.  angle: roll in radians, positive when the face is turned clockwise on the
    screen (the vector from the eye at image left to the eye at image right has this direction).
    """

    x: float
    y: float
    size: float
    angle: float

    def to_image(self) -> np.ndarray:
        """(2, 3) affine map from network-crop pixels (0..191) to image pixels."""
        scale = self.size / CROP
        a, b = scale * math.cos(self.angle), scale * math.sin(self.angle)
        middle = (CROP - 1) / 2
        return np.array([[a, -b, self.x - (a - b) * middle], [b, a, self.y - (a + b) * middle]])


@dataclass(frozen=True)
class LandmarkResult:
    """points (478, 3) float32: x, y in px, z in px relative to the face's centre, negative towards the camera
    (weak perspective: z has the scale of x and y).  presence: 0..1, how surely the region holds a face."""

    points: np.ndarray
    presence: float


def roi_from_keypoints(box: np.ndarray, keypoints: np.ndarray) -> Roi:
    """Region for a detection: box (4,) xywh px, keypoints (>=2, 2) px, the eyes at image left and right first."""
    x, y, w, h = (float(v) for v in box)
    return Roi(x + w / 2, y + h / 2, ROI_MARGIN * max(w, h), _direction(keypoints[0], keypoints[1]))


def roi_from_points(points: np.ndarray) -> Roi:
    """Region for the next frame from landmarks (478, >=2) px.

    MediaPipe's rule (1.5 times the longer side of the box, turned by the outer eye corners), but with the box measured
    along the face's own axes, so that the size does not depend on roll.
    """
    angle = _direction(points[EYE_CORNERS[0]], points[EYE_CORNERS[1]])
    axes = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    along = points[:, :2] @ axes
    low, high = along.min(axis=0), along.max(axis=0)
    x, y = axes @ ((low + high) / 2)
    return Roi(float(x), float(y), ROI_MARGIN * float((high - low).max()), angle)


class FaceLandmarker:
    """Face landmarks on given regions; reusable without limit, from any thread."""

    def __init__(self) -> None:
        self._whole = NormalizedRect(x_center=0.5, y_center=0.5, width=1.0, height=1.0, rotation=0.0)
        self._graph = SharedGraph(
            _GRAPH,
            {"image": np.zeros((CROP, CROP, 3), np.uint8), "roi": self._whole},
            side_inputs={"with_attention": True},
            # The score decides here, not inside the graph, which would then return nothing at all.
            calculator_params={"facelandmarkcpu__ThresholdingCalculator.threshold": 0.0},
            outputs=["landmarks", _PRESENCE_STREAM],
        )

    def __call__(self, rgb: np.ndarray, roi: Roi) -> LandmarkResult | None:
        """Landmarks of the face in `roi` of an RGB image (H, W, 3) uint8, or None where there is no face.

        Raises ValueError if `rgb` is not such an image.
        """
        check_rgb(rgb)
        if not (math.isfinite(roi.x + roi.y + roi.angle) and 1.0 <= roi.size < 1e6):
            return None
        crop, presence = self._infer(_crop(rgb, roi))
        if presence < LEAST_PRESENCE:
            return None
        to_image = roi.to_image()
        points = np.empty((POINTS, 3), np.float32)
        points[:, :2] = crop[:, :2] @ to_image[:, :2].T + to_image[:, 2]
        points[:, 2] = crop[:, 2] * (roi.size / CROP)
        return LandmarkResult(points, presence)

    def locate(self, rgb: np.ndarray, detection_roi: Roi, eyes: np.ndarray | None = None) -> LandmarkResult | None:
        """Landmarks of a newly detected face: a pass on the detection's region, then one on the region of its result.

        The second pass sees the face as a tracked one is seen, so stills and video give the same points.

        eyes (2, 2) px: where the detector saw them, at image left and right. With them a region that the network
        refuses, as it does one masked face in ten, is tried smaller, larger and turned, and a mesh counts whose eyes
        lie there: others sit on an ear or a fold of cloth.
        """
        first = self(rgb, detection_roi)
        found = None if first is None else self(rgb, roi_from_points(first.points))
        if found is not None or eyes is None:
            return found
        for scale, turn in _RETRIES:
            roi = replace(detection_roi, size=scale * detection_roi.size, angle=detection_roi.angle + turn)
            first = self(rgb, roi)
            found = None if first is None else self(rgb, roi_from_points(first.points))
            if found is not None and _has_eyes_at(found.points, eyes):
                return found
        return None

    def _infer(self, crop: np.ndarray) -> tuple[np.ndarray, float]:
        """Run the network on a (192, 192, 3) crop: (478, 3) in crop pixels and the presence score."""
        result = self._graph.process({"image": crop, "roi": self._whole})
        points = np.array([(p.x, p.y, p.z) for p in result.landmarks.landmark]) * CROP
        points[:, :2] -= 0.5  # MediaPipe counts from the pixels' edges
        return points, float(getattr(result, _PRESENCE_STREAM))


def _has_eyes_at(points: np.ndarray, eyes: np.ndarray) -> bool:
    """Whether a mesh (478, >=2) has its eyes' centres near eyes (2, 2) px."""
    centres = points[_EYES, :2].mean(1)
    apart = np.linalg.norm(centres - eyes, axis=1).mean()
    return bool(apart < _EYES_OFF * np.linalg.norm(eyes[1] - eyes[0]))


def _direction(left: np.ndarray, right: np.ndarray) -> float:
    return math.atan2(float(right[1] - left[1]), float(right[0] - left[0]))


def _crop(rgb: np.ndarray, roi: Roi) -> np.ndarray:
    """(192, 192, 3) view of `roi`, edge pixels repeated outside the image; large faces are averaged, not subsampled."""
    to_image = roi.to_image()
    shrink = int(roi.size // CROP)
    if shrink >= 2:
        height, width = rgb.shape[:2]
        reach = roi.size * (abs(math.cos(roi.angle)) + abs(math.sin(roi.angle))) / 2 + shrink
        x0, x1 = (int(np.clip(v, 0, width)) for v in (roi.x - reach, roi.x + reach + 1))
        y0, y1 = (int(np.clip(v, 0, height)) for v in (roi.y - reach, roi.y + reach + 1))
        columns, rows = (x1 - x0) // shrink, (y1 - y0) // shrink
        if columns and rows:
            part = rgb[y0 : y0 + rows * shrink, x0 : x0 + columns * shrink]
            rgb = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
            to_image[:, 2] = (to_image[:, 2] - (x0, y0) + 0.5) / shrink - 0.5
            to_image[:, :2] /= shrink
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(rgb, to_image, (CROP, CROP), flags=flags, borderMode=cv2.BORDER_REPLICATE)
