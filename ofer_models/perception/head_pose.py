"""Head pose in metres from 2D landmarks, the same points on the head model and the camera matrix."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_ROUNDS = 12  # at most; three or four suffice from a previous pose
_CONVERGED = 1e-4  # step in radians and in parts of the distance
_NOISE_FLOOR = 0.3  # px; below this residuals tell nothing about outliers
_GOOD_FIT = 0.03  # a median error above this part of the face's extent asks for a fresh start
_MIN_POINTS = 6
_SUBSETS = 24
_NO_POSE = "the landmarks fit no head pose in front of the camera"

_Pose = tuple[np.ndarray, np.ndarray]


class NoPoseError(ValueError):
    """No head pose in front of the camera explains the landmarks."""


@dataclass(frozen=True)
class HeadPose:
    """rotation (3, 3), translation (3,) in metres: x_camera = rotation @ x_head + translation.

    Head frame: x to the person's left, y up, z out of the face.  Camera: optical frame, x right, y down, z forward.  An
    upright face that looks into the camera has rotation diag(1, -1, -1).  reprojection_px (L,): error of each point.
    """

    rotation: np.ndarray
    translation: np.ndarray
    reprojection_px: np.ndarray


def estimate_head_pose(
    points_px: np.ndarray,
    points_head: np.ndarray,
    K: np.ndarray,
    previous: HeadPose | None = None,
    weights: np.ndarray | None = None,
) -> HeadPose:
    """Pose that minimises a robust (Cauchy) reprojection error, by iteratively reweighted Levenberg-Marquardt.

    points_px (L, 2): undistorted landmarks in px.  points_head (L, 3): the same points in the head frame, metres.
    K (3, 3).  previous: pose of the last frame, the start if it leads to a good fit; otherwise a fresh start is made.
    weights (L,): trust in each point, 0 to leave it out.  The Cauchy scale is twice the residuals' robust deviation, so
    hidden points that the landmark network has guessed wrongly hardly count.

    Raises NoPoseError (a ValueError) for fewer than six usable points or no pose in front of the camera, ValueError for
    shapes that disagree.
    """
    points_px, points_head, K = (np.asarray(a, np.float64) for a in (points_px, points_head, K))
    trust = np.ones(len(points_px)) if weights is None else np.asarray(weights, np.float64)
    if points_px.shape != (len(trust), 2) or points_head.shape != (len(trust), 3) or K.shape != (3, 3):
        raise ValueError(
            f"expected points (L, 2) and (L, 3), K (3, 3), weights (L,); "
            f"got {points_px.shape}, {points_head.shape}, {K.shape}, {trust.shape}"
        )
    usable = (trust > 0) & np.isfinite(points_px).all(axis=1) & np.isfinite(points_head).all(axis=1)
    if usable.sum() < _MIN_POINTS:
        raise NoPoseError(f"head pose needs at least {_MIN_POINTS} finite points with weight, got {usable.sum()}")
    seen, model, trust = points_px[usable], points_head[usable], trust[usable]

    pose, error = None, np.inf
    if previous is not None:
        pose = _refine(seen, model, K, trust, previous.rotation, previous.translation)
        error = _median_error(seen, model, K, pose)
    if not error < _GOOD_FIT * np.ptp(seen, axis=0).max():
        fresh = _refine(seen, model, K, trust, *_start(seen, model, K))
        if pose is None or not error <= _median_error(seen, model, K, fresh):
            pose = fresh
    if not np.isfinite(_median_error(seen, model, K, pose)):
        raise NoPoseError(_NO_POSE)
    rotation, translation = pose
    error = np.linalg.norm(_project(points_head, K, rotation, translation) - points_px, axis=1)
    return HeadPose(rotation, translation, error)


def _start(seen: np.ndarray, model: np.ndarray, K: np.ndarray) -> _Pose:
    """Pose with the least median error among SQPnP on all points and on fixed random subsets (least median of squares).

    All points alone would start beside the valley of the right pose when many are off in the same way.
    """
    subsets = np.random.default_rng(0).integers(len(seen), size=(_SUBSETS, _MIN_POINTS))
    best, best_error = None, np.inf
    for chosen in (slice(None), *subsets):
        try:
            found, rotation, translation = cv2.solvePnP(model[chosen], seen[chosen], K, None, flags=cv2.SOLVEPNP_SQPNP)
        except cv2.error:  # the subset's points coincide
            continue
        if found:
            pose = cv2.Rodrigues(rotation)[0], translation[:, 0]
            error = _median_error(seen, model, K, pose)
            if error < best_error:
                best, best_error = pose, error
    if best is None:
        raise NoPoseError(_NO_POSE)
    return best


def _median_error(seen: np.ndarray, model: np.ndarray, K: np.ndarray, pose: _Pose) -> float:
    """px; infinite for a pose that puts any point behind the camera."""
    rotation, translation = pose
    if not (model @ rotation[2] + translation[2] > 0).all():
        return np.inf
    return float(np.median(np.linalg.norm(_project(model, K, rotation, translation) - seen, axis=1)))


def _project(model: np.ndarray, K: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    homogeneous = (model @ rotation.T + translation) @ K.T
    return homogeneous[:, :2] / homogeneous[:, 2:]


def _refine(
    seen: np.ndarray, model: np.ndarray, K: np.ndarray, trust: np.ndarray, rotation: np.ndarray, translation: np.ndarray
) -> _Pose:
    """Levenberg-Marquardt on (rotation vector about the head's origin, translation), weights renewed in every round."""
    damping = 1e-4
    residual = seen - _project(model, K, rotation, translation)
    for _ in range(_ROUNDS):
        error = np.linalg.norm(residual, axis=1)
        scale = max(2 * 1.4826 * float(np.median(error)), _NOISE_FLOOR)
        weight = trust / (1 + (error / scale) ** 2)
        jacobian = _jacobian(model @ rotation.T, K, translation)
        weighted = jacobian * np.tile(weight, 2)
        normal, gradient = weighted @ jacobian.T, weighted @ residual.T.ravel()
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12), gradient)
        candidate = cv2.Rodrigues(step[:3])[0] @ rotation, translation + step[3:]
        new_residual = seen - _project(model, K, *candidate)
        if _cost(new_residual, trust, scale) <= _cost(residual, trust, scale):
            (rotation, translation), residual, damping = candidate, new_residual, damping / 5
            if np.abs(step[:3]).max() < _CONVERGED and np.abs(step[3:]).max() < _CONVERGED * abs(translation[2]):
                break
        else:
            damping = max(damping, 1e-5) * 20
    return rotation, translation


def _jacobian(turned: np.ndarray, K: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """(6, 2L) derivative of all u, then all v, by a small further rotation and a shift; turned (L, 3) = R x_head."""
    a, b, c = turned.T
    x, y, z = (turned + translation).T
    fx, skew, fy = K[0, 0], K[0, 1], K[1, 1]
    jacobian = np.zeros((6, 2, len(turned)))
    ux, uy, vy = fx / z, skew / z, fy / z
    uz, vz = -(ux * x + uy * y) / z, -vy * y / z
    jacobian[:3, 0] = b * uz - c * uy, c * ux - a * uz, a * uy - b * ux  # cross product of turned and (ux, uy, uz)
    jacobian[:3, 1] = b * vz - c * vy, -a * vz, a * vy
    jacobian[3, 0], jacobian[4, 0], jacobian[5, 0] = ux, uy, uz
    jacobian[4, 1], jacobian[5, 1] = vy, vz
    return jacobian.reshape(6, -1)


def _cost(residual: np.ndarray, trust: np.ndarray, scale: float) -> float:
    return float(trust @ np.log1p((residual**2).sum(axis=1) / scale**2))
