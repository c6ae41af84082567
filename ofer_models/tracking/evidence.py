"""What a frame's landmarks say about each hypothesis: samples moved to the points that are seen.

ExpGen draws from what its context leaves open, and its context is unsure of what a landmark says plainly. The samples
are an ensemble that the points correct (ensemble Kalman filter, Evensen 1994). Its mean moves to the minimum of

    sum over points of w |p - f(x, pose, shape)|^2 + |x - drawn mean|^2 in the prior's metric

over expression and jaw x, with the pose, what the head's shape is off and what a part of the face is off as a whole
marginalised; weights w are by the points' deviations, and 0 where a point is hidden. The metric is a Student's: where
the mean has to move far, the context was wrong, and binds less. The samples' deviations from their mean shrink as a
linear model says, with noise of the points' deviation added, so that members differ as much as the points leave open;
what only hidden points would tell stays as it was drawn. Beforehand they are spread (covariance inflation, Anderson and
Anderson 1999): ExpGen has believed hidden points as well and is too sure of them. The first member is the mean itself,
as the control run of a weather ensemble is: the likeliest reading.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.decoders import RestingLandmarks
from ofer_models.head.landmark_sets import tracked_landmarks
from ofer_models.perception.head_pose import HeadPose
from ofer_models.tracking.landmark_system import LandmarkSystem, Poses, bounded_solve, free_pose
from ofer_models.tracking.point_weights import WeighedPoints, fewer_points, parts_of, point_weights
from ofer_models.tracking.reprojection import SeenLandmarks

INFLATION = 2.7
_ROUNDS = 2  # through the derivatives of the first place
_RIDGE = 1e-4  # of the mean information, so that its root exists
# Deviation of a sample from the truth, in those of the population, and of the samples' mean, by how a unit's name
# begins. The mean is worth more than one sample, but not of gazes, and less of lids and brows, of whose movement the
# context tells little.
_PRIOR = 1.5
_PRIOR_OF_MEAN = (("eyeLook", 1.2), ("eye", 0.8), ("brow", 0.8), ("", 0.15))
_SELDOM = 0.1  # deviation of coefficients that the population seldom uses
_FAR = 9.0  # squared deviations that the mean is usually moved by
_EDGE, _LEAST_ROOM = 0.02, 0.01  # of an end of their range, within which members draw together; and what counts as it
_CENTRINGS = 3  # rounds in which members within their bounds get the ensemble's mean
_SHAPE_OFF = 0.3  # deviations by which the chosen head may still be wrong in each component


class LandmarkEvidence:
    """Moves the hypotheses of faces to their landmarks, all faces of a frame in one go."""

    def __init__(
        self, system: LandmarkSystem, deviation: np.ndarray, bounds: tuple[float, float] | None, n_expression: int,
        names: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """deviation (E + 3,) of expression and jaw in the population; bounds of the expression; names of its units,
        where they have any."""
        self.system = system
        self.deviation = deviation = np.asarray(deviation, np.float64)
        usual = np.maximum(deviation, _SELDOM)
        self.precision = 1 / (_PRIOR * usual) ** 2
        named = [*names, *[""] * (len(deviation) - len(names))]
        priors = [next(prior for start, prior in _PRIOR_OF_MEAN if name.startswith(start)) for name in named]
        self._of_mean = 1 / (np.array(priors) * usual) ** 2
        self.bounds, self._bounded = bounds, slice(n_expression)
        self._one = np.eye(len(deviation))

    @classmethod
    def of(cls, bundle: Bundle, every_point: bool = False) -> LandmarkEvidence | None:
        """Of a bundle's head and coefficients; None where it says that hypotheses are as drawn. every_point: not only
        as many as a frame has time for, and each by itself: where the parts of a face are is what tells heads apart."""
        if not bundle.landmark_evidence:
            return None
        deviation = bundle.stages["expgen"].deviation.copy()
        deviation[bundle.n_expression :] *= bundle.jaw_scale
        embedding, points = tracked_landmarks(bundle.head)
        weights = point_weights(points)
        if not every_point:
            weights = fewer_points(bundle.head, embedding, points, weights, deviation[: bundle.n_expression])
        weighed = WeighedPoints.of(embedding, points, weights)
        system = LandmarkSystem(bundle.head, weighed, None if every_point else parts_of(weighed.numbers))
        return cls(system, deviation, bundle.expression_range, bundle.n_expression, bundle.head.expression_names)

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
        system, drawn, n = self.system, drawn.astype(np.float64), self.system.others
        pairs = zip(seen, visible, strict=True)
        pictures = system.pictures(seen, np.stack([system.weights(*pair) for pair in pairs]))
        start = drawn.mean(1)
        place = start
        linear = system.linear(pictures, resting, start, at)
        own = linear.normal[:, :n, :n] + np.diag(free_pose(1 / _SHAPE_OFF**2, system.shapes))
        cross = linear.normal[:, :n, n:]
        freed = np.linalg.inv(own)
        without = freed @ cross
        known = linear.normal[:, n:, n:] - cross.swapaxes(-1, -2) @ without
        residual, prior = linear.off, np.broadcast_to(self._of_mean, start.shape)
        for round_ in range(_ROUNDS):
            if round_:
                residual = system.residuals(pictures, system.models(resting, place[:, None]), at)[:, 0]
                far = np.square(place - start) @ self._of_mean
                prior = self._of_mean * (2 * _FAR / (_FAR + far))[:, None]
            gradient = linear.gradient(residual)
            right = gradient[:, n:] - (gradient[:, None, :n] @ without)[:, 0] + prior * (start - place)
            normal = known + prior[..., None] * self._one
            place, step = bounded_solve(normal, right, place, self.bounds, self._bounded)
            left = gradient[:, :n] - (cross @ step[..., None])[..., 0]
            at = at.moved((freed[:, system.shapes :] @ left[..., None])[..., 0])
        place = place[:, None]
        apart = noise @ _root(known).swapaxes(-1, -2) + self.precision * INFLATION * (drawn - start[:, None])
        apart[:, 0] = 0
        # What is at an end of its range in the mean stays there in all members, and is the surer the nearer it is:
        # opposite muscles, one of which is at rest, would spread together as soon as its mean trembles off the end.
        room = self._room(place)
        sure = known + (self.precision / np.maximum(room, _LEAST_ROOM) ** 2)[:, 0, :, None] * self._one
        return self._within(place, _solve_free(sure, apart, room == 0)), at

    def _room(self, place: np.ndarray) -> np.ndarray:
        """(F, 1, D) 0..1: 0 where the means (F, 1, D) are at an end of their range, 1 from _EDGE off it on."""
        room = np.ones(place.shape)
        if self.bounds is not None:
            low, high = self.bounds
            off = np.minimum(place - low, high - place)[..., self._bounded]
            room[..., self._bounded] = np.clip(off / _EDGE, 0, 1)
        return room

    def _within(self, place: np.ndarray, apart: np.ndarray) -> np.ndarray:
        """Members (F, H, D) apart from the means (F, 1, D), the first at the mean, within the bounds and with that mean
        as nearly as these allow."""
        members = place + apart
        if self.bounds is None:
            return members
        for _ in range(_CENTRINGS if members.shape[1] > 1 else 0):
            members[..., self._bounded] = np.clip(members[..., self._bounded], *self.bounds)
            members[:, 1:] += place - members[:, 1:].mean(1, keepdims=True)
        members[..., self._bounded] = np.clip(members[..., self._bounded], *self.bounds)
        return members


def _solve_free(normal: np.ndarray, right: np.ndarray, held: np.ndarray) -> np.ndarray:
    """(F, H, D) solutions of normal (F, D, D) for right (F, H, D), with 0 for those that are held (F, 1, D)."""
    alone = np.where(held.swapaxes(-1, -2) | held, np.eye(normal.shape[-1]), normal)
    return np.linalg.solve(alone, np.where(held, 0, right).swapaxes(-1, -2)).swapaxes(-1, -2)


def _root(known: np.ndarray) -> np.ndarray:
    """(F, D, D) whose products with their transposes are the information `known`, which may lack directions.

    Cholesky's is the one that changes as slowly as the information does: eigenvectors change places and signs, and the
    hypotheses of a still face would jump.
    """
    size = known.shape[-1]
    ridge = _RIDGE * np.maximum(np.trace(known, axis1=1, axis2=2) / size, 1.0)
    return np.linalg.cholesky((known + known.swapaxes(-1, -2)) / 2 + ridge[:, None, None] * np.eye(size))
