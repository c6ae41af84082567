"""Camera intrinsics: from CameraInfo's numbers or from a stated field of view; distortion; other image sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

DEFAULT_FIELD_OF_VIEW = 60.0  # degrees along the longer side, typical of webcams

# sensor_msgs/CameraInfo's distortion models, and how many coefficients OpenCV takes of each.
_FISHEYE_MODELS = ("equidistant", "fisheye", "kannala_brandt4")  # one model by three names
_COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), **dict.fromkeys(_FISHEYE_MODELS, (4,))}
_FOCAL = 0.05, 200.0  # of the image's longer side: from beyond any fisheye to beyond any telescope
_OFF_CENTRE = 2.0  # image sides that a principal point may lie off
_UNDONE = 1.0  # px within which distortion must bring the middle of the image back to where it was
_UNDISTORT_UNTIL = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-7)


class IntrinsicsError(ValueError):
    """A calibration that cannot be used; one line says why."""


@dataclass(frozen=True)
class Intrinsics:
    """K (3, 3): focal lengths and principal point in px of a width x height image (first pixel's centre at 0, 0).

    distortion: (n,) OpenCV coefficients, empty for none.  fisheye: they are of the equidistant model.
    metric: K was measured; False where it is only a guess, so that distances derived from it are guesses too.

    rectification (3, 3) and offset (3,) metres take points of the optical frame that poses are given in to the camera
    that K is about: of a stereo pair that is the rectified first camera's frame. Else nothing happens in them.
    """

    K: np.ndarray
    width: int
    height: int
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(0))
    fisheye: bool = False
    metric: bool = True
    rectification: np.ndarray = field(default_factory=lambda: np.eye(3))
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))

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
        cls,
        k: Sequence[float],
        width: int,
        height: int,
        d: Sequence[float] = (),
        distortion_model: str = "",
        r: Sequence[float] = (),
        p: Sequence[float] = (),
        rectified: bool = False,
    ) -> Intrinsics:
        """Of the whole sensor, from the fields of a sensor_msgs/CameraInfo, used as that message defines them.

        k (9,), r (9,) and p (12,): row-major; zeros, or nothing, for r and p that are not known.  d: coefficients of
        `distortion_model`.  rectified: the image is, so that p is about it; of others it is k and d.

        Raises IntrinsicsError for an uncalibrated camera (zeros, as drivers send them) and for what cannot be.
        """
        if width < 1 or height < 1:
            raise IntrinsicsError(f"its size is {width} x {height}")
        P, R = np.array(p, np.float64).reshape(-1, 4), np.array(r, np.float64).reshape(-1, 3)
        offset = np.zeros(3)
        if P.any():
            _check_camera_matrix("P", P[:, :3], width, height)
            offset = np.linalg.solve(P[:, :3], P[:, 3])
            if not np.isfinite(offset).all():
                raise IntrinsicsError("P is not finite")
        if rectified:
            if not P.any():
                raise IntrinsicsError("P is zero: nothing is known of the rectified image")
            return cls(P[:, :3], int(width), int(height), offset=offset)
        K = np.array(k, np.float64).reshape(3, 3)
        _check_camera_matrix("K", K, width, height)
        if R.any() and not (np.allclose(R @ R.T, np.eye(3), atol=1e-3) and np.linalg.det(R) > 0):
            raise IntrinsicsError("R is no rotation")
        to_sensor = R.T if R.any() else np.eye(3)
        distortion, fisheye = _distortion(d, distortion_model)
        camera = cls(K, int(width), int(height), distortion, fisheye, True, to_sensor, offset)
        middle = np.array([[width / 2, height / 2], [width / 3, height / 3], [2 * width / 3, 2 * height / 3]])
        rays = _homogeneous(camera.undistort(middle)) @ np.linalg.inv(K).T
        if not (np.abs(camera.project(rays - offset) - middle) < _UNDONE).all():  # also where they are not finite
            raise IntrinsicsError(f"its distortion cannot be undone: {np.array(d).tolist()}")
        return camera

    def window(self, x: int, y: int, width: int, height: int) -> Intrinsics:
        """The same camera, of whose image only a part is read, at (x, y) px.  Raises IntrinsicsError."""
        if width < 1 or height < 1 or x + width > self.width or y + height > self.height:
            raise IntrinsicsError(
                f"its region of interest, {width} x {height} at ({x}, {y}), is not of {self.width} x {self.height} px"
            )
        return replace(self, K=self.K - [[0, 0, x], [0, 0, y], [0, 0, 0]], width=width, height=height)

    def scaled_to(self, width: int, height: int) -> Intrinsics:
        """The same camera with its image resized to width x height px (binning, a smaller stream).

        Raises IntrinsicsError for a size of nothing.
        """
        if width < 1 or height < 1:
            raise IntrinsicsError(f"its image would be {width} x {height}")
        if (width, height) == (self.width, self.height):
            return self
        sx, sy = width / self.width, height / self.height
        to_scaled = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
        return replace(self, K=to_scaled @ self.K, width=width, height=height)

    def undistort(self, points: np.ndarray) -> np.ndarray:
        """(L, 2) px where a camera in the axes of the poses' frame, with this K and no distortion, would see what this
        one sees at `points` (L, 2) px."""
        if not self.distortion.size and np.array_equal(self.rectification, np.eye(3)):
            return np.asarray(points, np.float64)
        # By rays: OpenCV's own use of K leaves its skew out.
        rays = _homogeneous(points) @ np.linalg.inv(self.K).T
        if self.distortion.size:
            flat, eye = np.ascontiguousarray(rays[:, None, :2]), np.eye(3)
            if self.fisheye:
                undone = cv2.fisheye.undistortPoints(flat, eye, self.distortion, criteria=_UNDISTORT_UNTIL)
            else:
                undone = cv2.undistortPointsIter(flat, eye, self.distortion, None, None, _UNDISTORT_UNTIL)
            rays = _homogeneous(undone[:, 0])
        return project(rays @ self.rectification, self.K)

    def project(self, points: np.ndarray) -> np.ndarray:
        """(L, 2) px of points (L, 3) in the optical frame (x right, y down, z forward, z > 0), distortion included."""
        points = (np.asarray(points, np.float64) + self.offset) @ self.rectification.T
        if not self.distortion.size:
            return project(points, self.K)
        zero, distorted = np.zeros(3), cv2.fisheye.projectPoints if self.fisheye else cv2.projectPoints
        rays = distorted(np.ascontiguousarray(points[:, None]), zero, zero, np.eye(3), self.distortion)[0][:, 0]
        return project(_homogeneous(rays), self.K)


def project(points: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Pixels (..., L, 2) of points (..., L, 3) in the optical frame through pinhole cameras K (..., 3, 3), skew
    included."""
    return points[..., :2] / points[..., 2:] @ K[..., :2, :2].swapaxes(-1, -2) + K[..., None, :2, 2]


def _homogeneous(points: np.ndarray) -> np.ndarray:
    """(L, 3) of points (L, 2), float64."""
    return np.concatenate([points, np.ones((len(points), 1))], axis=1, dtype=np.float64)


def _check_camera_matrix(name: str, K: np.ndarray, width: int, height: int) -> None:
    """Raise IntrinsicsError for what is no camera matrix of an image of this size."""
    if not np.isfinite(K).all():
        raise IntrinsicsError(f"{name} is not finite")
    if not K.any():
        raise IntrinsicsError(f"{name} is zero: the camera is not calibrated")
    if not (np.array_equal(K[2], [0, 0, 1]) and K[1, 0] == 0):
        raise IntrinsicsError(f"{name} is no camera matrix: {K.tolist()}")
    low, high = (bound * max(width, height) for bound in _FOCAL)
    if not (low <= K[0, 0] <= high and low <= K[1, 1] <= high and abs(K[0, 1]) <= K[0, 0]):
        raise IntrinsicsError(f"{name} has no focal lengths of a {width} x {height} image: {K[0, 0]:g}, {K[1, 1]:g}")
    if (np.abs(K[:2, 2] / (width, height) - 0.5) > _OFF_CENTRE).any():
        raise IntrinsicsError(f"{name} has its principal point far beside the image: {K[0, 2]:g}, {K[1, 2]:g}")


def _distortion(d: Sequence[float], model: str) -> tuple[np.ndarray, bool]:
    """OpenCV's coefficients, none for zeros, and whether they are a fisheye's. Raises IntrinsicsError."""
    coefficients = np.array(d, np.float64)
    if not np.isfinite(coefficients).all():
        raise IntrinsicsError("D is not finite")
    if not coefficients.any() and model in ("", *_COEFFICIENTS):
        return np.zeros(0), False
    if model not in _COEFFICIENTS:
        raise IntrinsicsError(f"its distortion model '{model}' is not known; known are {', '.join(_COEFFICIENTS)}")
    lengths = _COEFFICIENTS[model]
    used = len(np.trim_zeros(coefficients, "b"))  # some drivers fill up with zeros
    length = len(coefficients) if len(coefficients) in lengths else next((n for n in lengths if n >= used), 0)
    if len(coefficients) < min(lengths) or not length or len(coefficients) < length:
        known = " or ".join(map(str, lengths))
        raise IntrinsicsError(f"D has {len(coefficients)} coefficients, its model '{model}' has {known}")
    return coefficients[:length], model in _FISHEYE_MODELS
