"""Head pose in metres from 2D landmarks, the same points on the head model and the camera matrix."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ofer_models.perception.intrinsics import project

_ROUNDS = 12  # at most
_CONVERGED = 1e-4  # step in radians and in parts of the distance
_SHIFTS = np.arange(6) >= 3  # of a step (6,)
_ONE = np.eye(6)
_NOISE_FLOOR = 0.3  # px; below this residuals tell nothing about outliers
_GOOD_FIT = 0.03  # a median error above this part of the face's extent asks for a fresh start
_MIN_POINTS = 6
_SUBSETS = 24
_NO_POSE = "the landmarks fit no head pose in front of the camera"

_Pose = tuple[np.ndarray, np.ndarray]  # rotation (3, 3), translation (3,)
_Poses = tuple[np.ndarray, np.ndarray, np.ndarray]  # (B, 3, 3), (B, 3), and (B,) bool: whether there is one


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
) -> HeadPose:
    """Pose that minimises a robust (Cauchy) reprojection error, by iteratively reweighted Levenberg-Marquardt.

    points_px (L, 2): undistorted landmarks in px.  points_head (L, 3): the same points in the head frame, metres.
    K (3, 3).  previous: pose of the last frame, the start if it leads to a good fit; otherwise a fresh start is made.
    The Cauchy scale is twice the residuals' robust deviation, so hidden points that the landmark network has guessed
    wrongly hardly count.

    Raises NoPoseError (a ValueError) for fewer than six usable points or no pose in front of the camera, ValueError for
    shapes that disagree.
    """
    points_px, points_head, K = (np.asarray(a, np.float64) for a in (points_px, points_head, K))
    count = len(points_px)
    if points_px.shape != (count, 2) or points_head.shape != (count, 3) or K.shape != (3, 3):
        raise ValueError(
            f"expected points (L, 2) and (L, 3), K (3, 3); got {points_px.shape}, {points_head.shape}, {K.shape}"
        )
    usable = np.isfinite(points_px).all(axis=1) & np.isfinite(points_head).all(axis=1)
    if usable.sum() < _MIN_POINTS:
        raise NoPoseError(f"head pose needs at least {_MIN_POINTS} finite points, got {usable.sum()}")
    pose = _solve(points_px[None, usable], points_head[None, usable], K[None], [previous])
    (found,) = _with_errors(points_px[None], points_head[None], K[None], pose)
    if found is None:
        raise NoPoseError(_NO_POSE)
    return found


def estimate_head_poses(
    points_px: np.ndarray, points_head: np.ndarray, K: np.ndarray, previous: Sequence[HeadPose | None],
    rounds: int = _ROUNDS,
) -> list[HeadPose | None]:  # fmt: skip
    """`estimate_head_pose` of B faces in one go: points_px (B, L, 2), points_head (B, L, 3), K (B, 3, 3) or one for
    all, previous one for each. rounds: at most so many from a previous pose; two lead to within 0.01 degrees where the
    head moves on.

    The same arithmetic for each face as alone; B small problems cost little more than one. None in the place of a face
    that has no pose.
    """
    points_px, points_head, K = (np.asarray(a, np.float64) for a in (points_px, points_head, K))
    count = points_px.shape[1]
    K = np.broadcast_to(K, (len(points_px), 3, 3))
    whole = np.isfinite(points_px).all(axis=(1, 2)) & np.isfinite(points_head).all(axis=(1, 2)) & (count >= _MIN_POINTS)
    poses: list[HeadPose | None] = [None] * len(points_px)
    for row in np.flatnonzero(~whole):  # each of them has its own usable points
        with contextlib.suppress(NoPoseError):
            poses[row] = estimate_head_pose(points_px[row], points_head[row], K[row], previous[row])
    rows = np.flatnonzero(whole)
    if rows.size:
        seen, model, cameras = points_px[rows], points_head[rows], K[rows]
        solved = _solve(seen, model, cameras, [previous[row] for row in rows], rounds)
        for row, pose in zip(rows, _with_errors(seen, model, cameras, solved), strict=True):
            poses[row] = pose
    return poses


def _with_errors(points_px: np.ndarray, points_head: np.ndarray, K: np.ndarray, poses: _Poses) -> list[HeadPose | None]:
    rotation, translation, solved = poses
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.linalg.norm(_project(points_head, K, rotation, translation) - points_px, axis=-1)
    rows = zip(rotation, translation, errors, solved, strict=True)
    return [HeadPose(*parts) if good else None for *parts, good in rows]


def _solve(
    seen: np.ndarray, model: np.ndarray, K: np.ndarray, previous: Sequence[HeadPose | None], rounds: int = _ROUNDS
) -> _Poses:
    """From the last pose where there is one, and from a fresh start where that leads to no good fit."""
    count = len(seen)
    rotation, translation = np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 3))
    error = np.full(count, np.inf)
    known = np.array([i for i, pose in enumerate(previous) if pose is not None], int)
    if known.size:
        start = np.stack([previous[i].rotation for i in known]), np.stack([previous[i].translation for i in known])
        rotation[known], translation[known] = _refine(seen[known], model[known], K[known], *start, rounds)
        error[known] = _median_errors(seen[known], model[known], K[known], rotation[known], translation[known])
    poor = np.flatnonzero(~(error < _GOOD_FIT * np.ptp(seen, axis=1).max(axis=-1)))
    starts = {i: start for i in poor if (start := _start(seen[i], model[i], K[i])) is not None}
    if starts:
        rows = np.array(list(starts))
        fresh = _refine(seen[rows], model[rows], K[rows], *(np.stack(p) for p in zip(*starts.values(), strict=True)))
        fresh_error = _median_errors(seen[rows], model[rows], K[rows], *fresh)
        better = ~(error[rows] <= fresh_error)
        chosen = rows[better]
        rotation[chosen], translation[chosen] = fresh[0][better], fresh[1][better]
        error[chosen] = fresh_error[better]
    return rotation, translation, np.isfinite(error)


def _start(seen: np.ndarray, model: np.ndarray, K: np.ndarray) -> _Pose | None:
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
            error = float(_median_errors(seen[None], model[None], K[None], pose[0][None], pose[1][None])[0])
            if error < best_error:
                best, best_error = pose, error
    return best


def _median_errors(
    seen: np.ndarray, model: np.ndarray, K: np.ndarray, rotation: np.ndarray, translation: np.ndarray
) -> np.ndarray:
    """(B,) px; infinite for a pose that puts any point behind the camera."""
    with np.errstate(divide="ignore", invalid="ignore"):
        error = _medians(_lengths(_project(model, K, rotation, translation) - seen))
    depth = (model @ rotation[:, 2, :, None])[..., 0] + translation[:, 2:]
    return np.where((depth > 0).all(axis=-1), error, np.inf)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("...i,...i->...", vectors, vectors))


def _medians(values: np.ndarray) -> np.ndarray:
    """Medians (B,) of values (B, L): np.median's own checks take longer than the work at this size."""
    low, high = (values.shape[-1] - 1) // 2, values.shape[-1] // 2
    sorted_there = np.partition(values, (low, high), axis=-1)
    return (sorted_there[..., low] + sorted_there[..., high]) / 2


def _project(model: np.ndarray, K: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    return project(model @ rotation.swapaxes(-1, -2) + translation[:, None], K)


def _refine(
    seen: np.ndarray, model: np.ndarray, K: np.ndarray, rotation: np.ndarray, translation: np.ndarray,
    rounds: int = _ROUNDS,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Levenberg-Marquardt on (rotation vector about the head's origin, translation), weights renewed in every round.

    Each face goes its own way and leaves when it has converged; a round is one set of array operations for all others.
    """
    rotation, translation = rotation.copy(), translation.copy()
    seen, model = (np.ascontiguousarray(points.swapaxes(-1, -2)) for points in (seen, model))  # (B, 2, L), (B, 3, L)
    damping = np.full(len(seen), 1e-4)
    place = _Placed.of(seen, model, K, rotation, translation)
    active = np.arange(len(seen))
    for _ in range(rounds):
        squared = place.squared()
        error = np.sqrt(squared)
        scale = np.maximum(2 * 1.4826 * _medians(error), _NOISE_FLOOR) ** 2
        relative = squared / scale[:, None]
        jacobian = place.jacobian(K)
        weighted = (jacobian / (1 + relative)[:, None, None]).reshape(len(active), 6, -1)
        normal = weighted @ jacobian.reshape(len(active), 6, -1).swapaxes(-1, -2)
        gradient = weighted @ place.residual.reshape(len(active), -1, 1)
        damped = normal + (normal * damping[:, None, None] + 1e-12) * _ONE
        step = np.linalg.solve(damped, gradient)[..., 0]
        turn = np.stack([cv2.Rodrigues(vector)[0] for vector in step[:, :3]])
        candidate = turn @ rotation[active], translation[active] + step[:, 3:]
        new = _Placed.of(seen, model, K, *candidate)
        taken = np.log1p(new.squared() / scale[:, None]).sum(-1) <= np.log1p(relative).sum(-1)
        rows = active[taken]
        rotation[rows], translation[rows] = candidate[0][taken], candidate[1][taken]
        damping = np.where(taken, damping / 5, np.maximum(damping, 1e-5) * 20)
        limits = _CONVERGED * np.where(_SHIFTS, np.abs(translation[active, 2:]), 1)
        staying = ~(taken & (np.abs(step) < limits).all(-1))
        if not staying.any():
            break
        place = new if taken.all() else new.where(taken, place)
        if not staying.all():
            active, damping, place = active[staying], damping[staying], place[staying]
            seen, model, K = seen[staying], model[staying], K[staying]
    return rotation, translation


@dataclass
class _Placed:
    """Points before the camera: turned (B, 3, L) about the head's origin, over (B, 1, L): one over their depths, rays
    (B, 2, L): x / z and y / z, and residual (B, 2, L) px."""

    turned: np.ndarray
    over: np.ndarray
    rays: np.ndarray
    residual: np.ndarray

    @classmethod
    def of(cls, seen: np.ndarray, model: np.ndarray, K: np.ndarray, rotation: np.ndarray, shift: np.ndarray) -> _Placed:
        """Of model (B, 3, L), seen at (B, 2, L) by cameras K (B, 3, 3)."""
        turned = rotation @ model
        camera = turned + shift[..., None]
        over = 1 / camera[:, 2:]
        rays = camera[:, :2] * over
        return cls(turned, over, rays, seen - (K[:, :2, :2] @ rays + K[:, :2, 2:]))

    def __getitem__(self, rows: np.ndarray) -> _Placed:
        return _Placed(self.turned[rows], self.over[rows], self.rays[rows], self.residual[rows])

    def where(self, rows: np.ndarray, others: _Placed) -> _Placed:
        """These in some rows (B,), the others elsewhere."""
        pick = rows[:, None, None]
        parts = ("turned", "over", "rays", "residual")
        return _Placed(*(np.where(pick, getattr(self, name), getattr(others, name)) for name in parts))

    def squared(self) -> np.ndarray:
        """Squared distances (B, L) px."""
        return np.einsum("bil,bil->bl", self.residual, self.residual)

    def jacobian(self, K: np.ndarray) -> np.ndarray:
        """(B, 6, 2, L) derivative of u and v by a small further rotation and a shift."""
        jacobian = np.empty((len(self.turned), 6, 2, self.turned.shape[-1]))
        shift = jacobian[:, 3:]
        shift[:, :2] = K[:, :2, :2].swapaxes(-1, -2)[..., None] * self.over[:, None]
        np.multiply(K[:, :2, :2] @ self.rays, -self.over, out=shift[:, 2])
        x, y, z = (self.turned[:, axis, None] for axis in range(3))
        dx, dy, dz = shift[:, 0], shift[:, 1], shift[:, 2]
        # The cross product of the turned point and its derivatives.
        jacobian[:, 0], jacobian[:, 1], jacobian[:, 2] = y * dz - z * dy, z * dx - x * dz, x * dy - y * dx
        return jacobian
