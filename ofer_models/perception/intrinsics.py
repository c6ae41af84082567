"""Camera intrinsics: from CameraInfo's numbers or from a stated field of view; distortion; other image sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

DEFAULT_FIELD_OF_VIEW = 60.0  # degrees along the longer side, typical of webcams
_FISHEYE_MODELS = ("equidistant", "fisheye")


@dataclass(frozen=True)
class Intrinsics:
    """K (3, 3): focal lengths and principal point in px of a width x height image (first pixel's centre at 0, 0).

    distortion: (n,) OpenCV coefficients, empty for none.  fisheye: they are of the equidistant model.
    metric: K was measured; False where it is only a guess, so that distances derived from it are guesses too.
    """

    K: np.ndarray
    width: int
    height: int
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(0))
    fisheye: bool = False
    metric: bool = True

    @classmethod
    def from_field_of_view(cls, width: int, height: int, degrees: float = DEFAULT_FIELD_OF_VIEW) -> Intrinsics:
        """A guess: square pixels, centred, `degrees` along the longer side; not metric.  Raises ValueError."""
        if not (1 <= width and 1 <= height and 1 <= degrees < 180):
            raise ValueError(f"need a size of at least 1 x 1 and 1 <= degrees < 180, got {width} x {height}, {degrees}")
        focal = max(width, height) / 2 / math.tan(math.radians(degrees) / 2)
        K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
        return cls(K, width, height, metric=False)

    @classmethod
    def from_camera_info(
        cls, k: Sequence[float], width: int, height: int, d: Sequence[float] = (), distortion_model: str = "plumb_bob"
    ) -> Intrinsics | None:
        """From the fields of a sensor_msgs/CameraInfo; None for an uncalibrated one (zeros, as drivers send them).

        k: (9,) row-major.  d: coefficients of `distortion_model`: plumb_bob, rational_polynomial or equidistant.
        """
        K = np.array(k, np.float64).reshape(3, 3)
        if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0 and width > 0 and height > 0):
            return None
        distortion = np.array(d, np.float64)
        if not (np.isfinite(distortion).all() and distortion.any()):
            distortion = np.zeros(0)
        return cls(K, int(width), int(height), distortion, distortion_model in _FISHEYE_MODELS)

    def scaled_to(self, width: int, height: int) -> Intrinsics:
        """The same camera with its image resized to width x height px (binning, a smaller stream)."""
        if (width, height) == (self.width, self.height):
            return self
        sx, sy = width / self.width, height / self.height
        to_scaled = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
        return replace(self, K=to_scaled @ self.K, width=width, height=height)

    def undistort(self, points: np.ndarray) -> np.ndarray:
        """(L, 2) px where a camera with this K and no distortion would see what this one sees at `points` (L, 2) px."""
        if not self.distortion.size:
            return np.asarray(points, np.float64)
        undistort = cv2.fisheye.undistortPoints if self.fisheye else cv2.undistortPoints
        pixels = np.ascontiguousarray(points, np.float64)[:, None]
        return undistort(pixels, self.K, self.distortion, P=self.K)[:, 0]

    def project(self, points: np.ndarray) -> np.ndarray:
        """(L, 2) px of points (L, 3) in the optical frame (x right, y down, z forward, z > 0), distortion included."""
        if not self.distortion.size:
            return project(np.asarray(points, np.float64), self.K)
        points, zero = np.ascontiguousarray(points, np.float64)[:, None], np.zeros(3)
        distorted = cv2.fisheye.projectPoints if self.fisheye else cv2.projectPoints
        return distorted(points, zero, zero, self.K, self.distortion)[0][:, 0]


def project(points: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Pixels (..., 2) of points (..., 3) in the optical frame through a pinhole camera K (3, 3), skew included."""
    return points[..., :2] / points[..., 2:] @ K[:2, :2].T + K[:2, 2]
