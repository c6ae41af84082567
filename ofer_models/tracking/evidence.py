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

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.landmark_sets import tracked_landmarks
from ofer_models.head.model import HeadModel, Identity, LandmarkEmbedding
from ofer_models.perception.head_pose import HeadPose
from ofer_models.tracking.landmark_system import LandmarkSystem, Pose, bounded_solve, free_pose, normal
from ofer_models.tracking.reprojection import SeenLandmarks

INFLATION = 2.8
_ROUNDS = 2
_RIDGE = 1e-4  # of the mean information, so that its root exists
_PRIOR = 1.5  # deviation about a sample, in those of the population
_LEAST_PRIOR = 0.15  # of coefficients that the population seldom uses
_SHAPE_OFF = 0.3  # deviations by which the chosen head may still be wrong in each component


class LandmarkEvidence:
    """Moves the hypotheses of a face to its landmarks."""

    def __init__(
        self, head: HeadModel, embedding: LandmarkEmbedding, points: np.ndarray, deviation: np.ndarray,
        bounds: tuple[float, float] | None,
    ) -> None:  # fmt: skip
        """points (L,): MediaPipe's numbers of the embedding's landmarks; deviation (E + 3,) of expression and jaw in
        the population; bounds of the expression."""
        self.system = LandmarkSystem(head, embedding, points)
        self.precision = 1 / np.maximum(_PRIOR * np.asarray(deviation, np.float64), _LEAST_PRIOR) ** 2
        self.bounds, self._n, self._count = bounds, head.n_expression, len(points)

    @classmethod
    def of(cls, bundle: Bundle) -> LandmarkEvidence | None:
        """Of a bundle's head and coefficients; None where it says that hypotheses are as drawn."""
        if not bundle.landmark_evidence:
            return None
        deviation = bundle.stages["expgen"].deviation.copy()
        deviation[bundle.n_expression :] *= bundle.jaw_scale
        return cls(bundle.head, *tracked_landmarks(bundle.head), deviation, bundle.expression_range)

    def __call__(
        self,
        seen: SeenLandmarks,
        visible: np.ndarray | None,
        identity: Identity,
        drawn: np.ndarray,
        noise: np.ndarray,
        pose: HeadPose,
    ) -> tuple[np.ndarray, HeadPose]:
        """Coefficients (H, E + 3) float32 of drawn (H, E + 3), moved, and the pose of their mean (its reprojection is
        not measured). noise (H, E + 3) is standard normal; visible (468,) 0..1; pose: of the mean of those drawn.

        What was drawn and the pose as they are, where points and pose allow no solution: a mesh that reaches behind the
        camera, landmarks in one place.
        """
        try:
            with np.errstate(all="ignore"):
                place, moved = self._solve(seen, visible, identity, drawn, noise, pose)
        except np.linalg.LinAlgError:
            return drawn.astype(np.float32), pose
        usable = np.isfinite(place).all() and np.isfinite(moved.translation).all()
        return (place, moved) if usable else (drawn.astype(np.float32), pose)

    def _solve(
        self,
        seen: SeenLandmarks,
        visible: np.ndarray | None,
        identity: Identity,
        drawn: np.ndarray,
        noise: np.ndarray,
        pose: HeadPose,
    ) -> tuple[np.ndarray, HeadPose]:
        system, start = self.system, self._inflated(drawn)
        place, at = start, Pose.of(pose)
        linear = system.linear(seen, visible, identity, start.mean(0), at)
        others = np.concatenate([linear.pose, linear.shape], axis=1)
        own = normal(others, others, linear.weights) + np.diag(free_pose(1 / _SHAPE_OFF**2, system.shapes))
        cross = normal(others, linear.expression, linear.weights)
        without = np.linalg.solve(own, cross)
        known = normal(linear.expression, linear.expression, linear.weights) - cross.T @ without
        scatter = noise @ _root(known).T
        for _ in range(_ROUNDS):  # through the derivatives of the first place
            residual = system.residuals(seen, system.models(identity, place), at).astype(np.float32)
            weighed = residual * linear.weights
            off = weighed @ others
            right = weighed @ linear.expression - off @ without + scatter + self.precision * (start - place)
            place, step = bounded_solve(known + np.diag(self.precision), right, place, self.bounds, self._n)
            at = at.moved(np.linalg.solve(own, off.mean(0) - cross @ step.mean(0))[:6])
        return place.astype(np.float32), HeadPose(at.rotation, at.translation, np.zeros(0))

    def trust(self, visible: np.ndarray | None) -> np.ndarray:
        """(L,) how much each of the embedding's landmarks tells of a face whose points are visible (468,)."""
        trust = np.zeros(self._count)
        trust[self.system.rows] = self.system.weights(visible)[::2]
        return trust

    def _inflated(self, drawn: np.ndarray) -> np.ndarray:
        drawn = drawn.astype(np.float64)
        middle = drawn.mean(0)
        wide = middle + INFLATION * (drawn - middle)
        if self.bounds is not None:
            wide[:, : self._n] = np.clip(wide[:, : self._n], *self.bounds)
        return wide


def _root(known: np.ndarray) -> np.ndarray:
    """(D, D) whose product with its transpose is the information `known`, which may lack directions.

    Cholesky's is the one that changes as slowly as the information does: eigenvectors change places and signs, and the
    hypotheses of a still face would jump.
    """
    ridge = _RIDGE * max(float(np.trace(known)) / len(known), 1.0)
    return np.linalg.cholesky((known + known.T) / 2 + ridge * np.eye(len(known)))
