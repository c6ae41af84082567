"""What a frame's landmarks say about each hypothesis: samples moved to the points that are seen.

ExpGen draws from what its context leaves open, and its context is unsure of what a landmark says plainly. Here each
sample x_k is the prior mean of one member of an ensemble, and is moved to the minimum of

    sum over points of w |p + e_k - f(x, pose, shape)|^2 + |x - x_k|^2 in the prior's metric

over expression and jaw x, with the pose and what the head's shape is off marginalised: randomised maximum a posteriori
(Oliver, He and Reynolds 1996), for a linear model the ensemble Kalman update. e_k is noise of the points' deviation,
so that members differ as much as the points leave open; weights w are 0 where a point is hidden, and what only hidden
points would tell stays as it was drawn. Beforehand the ensemble is spread about its mean (covariance inflation,
Anderson and Anderson 1999): ExpGen has believed hidden points as well and is too sure of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.decoders import RestingLandmarks
from ofer_models.head.landmark_sets import tracked_landmarks
from ofer_models.perception.head_pose import HeadPose
from ofer_models.tracking.landmark_system import LandmarkSystem, Poses, bounded_solve, free_pose
from ofer_models.tracking.point_weights import WeighedPoints, fewer_points, point_weights
from ofer_models.tracking.reprojection import SeenLandmarks

INFLATION = 2.8
_RIDGE = 1e-4  # of the mean information, so that its root exists
_PRIOR = 1.5  # deviation about a sample, in those of the population
_LEAST_PRIOR = 0.15  # of coefficients that the population seldom uses
_SHAPE_OFF = 0.3  # deviations by which the chosen head may still be wrong in each component


class LandmarkEvidence:
    """Moves the hypotheses of faces to their landmarks, all faces of a frame in one go."""

    def __init__(
        self, system: LandmarkSystem, deviation: np.ndarray, bounds: tuple[float, float] | None, n_expression: int
    ) -> None:
        """deviation (E + 3,) of expression and jaw in the population; bounds of the expression."""
        self.system = system
        self.precision = 1 / np.maximum(_PRIOR * np.asarray(deviation, np.float64), _LEAST_PRIOR) ** 2
        self.bounds, self._bounded = bounds, slice(n_expression)

    @classmethod
    def of(cls, bundle: Bundle, every_point: bool = False) -> LandmarkEvidence | None:
        """Of a bundle's head and coefficients; None where it says that hypotheses are as drawn. every_point: not only
        as many points as a frame has time for."""
        if not bundle.landmark_evidence:
            return None
        deviation = bundle.stages["expgen"].deviation.copy()
        deviation[bundle.n_expression :] *= bundle.jaw_scale
        embedding, points = tracked_landmarks(bundle.head)
        weights = point_weights(points)
        if not every_point:
            weights = fewer_points(bundle.head, embedding, weights, deviation[: bundle.n_expression])
        system = LandmarkSystem(bundle.head, WeighedPoints.of(embedding, points, weights))
        return cls(system, deviation, bundle.expression_range, bundle.n_expression)

    def __call__(
        self,
        seen: Sequence[SeenLandmarks],
        visible: Sequence[np.ndarray | None],
        resting: RestingLandmarks,
        drawn: np.ndarray,
        noise: np.ndarray,
        poses: Sequence[HeadPose],
    ) -> tuple[np.ndarray, list[HeadPose]]:
        """Coefficients (F, H, E + 3) float32 of drawn (F, H, E + 3), moved, and the poses of their means (their
        reprojection is not measured). resting: of the system's decoder; noise (F, H, E + 3) is standard normal;
        visible: (468,) 0..1 of each face; poses: of the means of those drawn.

        What was drawn and the pose as they are, where points and pose allow no solution: a mesh that reaches behind the
        camera, landmarks in one place.
        """
        try:
            with np.errstate(all="ignore"):
                place, moved = self._solve(seen, visible, resting, drawn, noise, Poses.of(poses))
        except np.linalg.LinAlgError:
            if len(seen) == 1:
                return drawn.astype(np.float32), list(poses)
            # One of them has no solution: each by itself.
            rows = (slice(i, i + 1) for i in range(len(seen)))
            parts = [self(seen[i], visible[i], resting[i], drawn[i], noise[i], poses[i]) for i in rows]
            return np.concatenate([part for part, _ in parts]), [pose for _, (pose,) in parts]
        usable = np.isfinite(place).all((1, 2)) & np.isfinite(moved.translation).all(1)
        found = [HeadPose(*parts, np.zeros(0)) for parts in zip(moved.rotation, moved.translation, strict=True)]
        return (
            np.where(usable[:, None, None], place, drawn).astype(np.float32),
            [new if good else old for new, old, good in zip(found, poses, usable, strict=True)],
        )

    def _solve(
        self,
        seen: Sequence[SeenLandmarks],
        visible: Sequence[np.ndarray | None],
        resting: RestingLandmarks,
        drawn: np.ndarray,
        noise: np.ndarray,
        at: Poses,
    ) -> tuple[np.ndarray, Poses]:
        system, start, n = self.system, self._inflated(drawn), self.system.others
        pictures = system.pictures(seen, np.stack([system.weights(each) for each in visible]))
        middle = start.mean(1)
        linear = system.linear(pictures, resting, middle, at)
        own = linear.normal[:, :n, :n] + np.diag(free_pose(1 / _SHAPE_OFF**2, system.shapes))
        cross = linear.normal[:, :n, n:]
        without = np.linalg.solve(own, cross)
        known = linear.normal[:, n:, n:] - cross.swapaxes(-1, -2) @ without
        scatter = noise @ _root(known).swapaxes(-1, -2)
        whole = known + np.diag(self.precision)

        def step(gradient: np.ndarray, place: np.ndarray, at: Poses) -> tuple[np.ndarray, Poses]:
            off = gradient[..., :n]
            right = gradient[..., n:] - off @ without + scatter + self.precision * (start - place)
            place, step = bounded_solve(whole, right, place, self.bounds, self._bounded)
            left = off.mean(1) - (cross @ step.mean(1)[..., None])[..., 0]
            return place, at.moved(np.linalg.solve(own, left[..., None])[:, system.shapes :, 0])

        # Once along the derivatives, from what is off at the mean; once from where that has led, with the same ones.
        first = linear.gradient(linear.off)[:, None] - (start - middle[:, None]) @ linear.normal[:, n:]
        place, at = step(first, start, at)
        return step(linear.gradient(system.residuals(pictures, system.models(resting, place), at)), place, at)

    def _inflated(self, drawn: np.ndarray) -> np.ndarray:
        drawn = drawn.astype(np.float64)
        middle = drawn.mean(1, keepdims=True)
        wide = middle + INFLATION * (drawn - middle)
        if self.bounds is not None:
            wide[..., self._bounded] = np.clip(wide[..., self._bounded], *self.bounds)
        return wide


def _root(known: np.ndarray) -> np.ndarray:
    """(F, D, D) whose products with their transposes are the information `known`, which may lack directions.

    Cholesky's is the one that changes as slowly as the information does: eigenvectors change places and signs, and the
    hypotheses of a still face would jump.
    """
    size = known.shape[-1]
    ridge = _RIDGE * np.maximum(np.trace(known, axis1=1, axis2=2) / size, 1.0)
    return np.linalg.cholesky((known + known.swapaxes(-1, -2)) / 2 + ridge[:, None, None] * np.eye(size))
