"""How well meshes agree with the landmarks seen in a frame: pose, reprojection errors, and weights from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ofer_models.head.landmark_sets import INNER_CORNERS, LOWER_LIDS, N_WITH_IRISES, OUTER_CORNERS, UPPER_LIDS
from ofer_models.perception.head_pose import HeadPose, estimate_head_pose, estimate_head_poses
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.point_fusion import MEDIAPIPE_DEVIATION, PointEstimate, fuse, inter_ocular


@dataclass(frozen=True)
class SeenLandmarks:
    """A face's landmarks points (L, 2) px without lens distortion, camera matrix K (3, 3), inter-ocular distance px.

    deviation, (L,) or one for all: of each coordinate, in parts of the inter-ocular distance. visible (478,): the
    chance that each of MediaPipe's points is seen, where a landmark network tells it. opening (2,): of the right and
    the left eye, in parts of its width.
    """

    points: np.ndarray
    K: np.ndarray
    between_eyes: float
    deviation: np.ndarray | float = MEDIAPIPE_DEVIATION
    visible: np.ndarray | None = None
    opening: np.ndarray | None = None

    @classmethod
    def of(cls, landmarks: np.ndarray, chosen: np.ndarray, intrinsics: Intrinsics) -> SeenLandmarks:
        """MediaPipe's landmarks (478, >=2) px as the frame shows them, chosen (L,) those that the head model knows."""
        points = intrinsics.undistort(landmarks[:N_WITH_IRISES, :2])
        return cls(points[chosen], intrinsics.K, inter_ocular(points), opening=_opening(points))

    @classmethod
    def of_both(
        cls, landmarks: np.ndarray, own: PointEstimate, chosen: np.ndarray, intrinsics: Intrinsics
    ) -> SeenLandmarks:
        """What MediaPipe's landmarks and a bundle's own network (of 478 points) say together."""
        both = fuse(landmarks, own)
        face = cls.of(both.points, chosen, intrinsics)
        deviation = both.deviation[chosen] / inter_ocular(landmarks)
        return replace(face, deviation=deviation, visible=own.visible[:N_WITH_IRISES])

    def at(self, rows: np.ndarray) -> SeenLandmarks:
        """The same face at some of its landmarks, rows (n,)."""
        own = self.deviation[rows] if isinstance(self.deviation, np.ndarray) else self.deviation
        return replace(self, points=self.points[rows], deviation=own)

    def pose(self, model: np.ndarray, previous: HeadPose | None = None) -> HeadPose:
        """Pose of a mesh whose landmarks are model (L, 3) in the head frame."""
        return estimate_head_pose(self.points, model, self.K, previous)

    def distances(self, models: np.ndarray, pose: HeadPose) -> np.ndarray:
        """Distances (..., L) of posed landmarks (..., L, 3) from those seen, as a part of the inter-ocular distance."""
        camera = (self.K @ np.column_stack([pose.rotation, pose.translation])).astype(models.dtype)
        placed = models.reshape(-1, 3) @ camera[:, :3].T + camera[:, 3]
        apart = (placed[:, :2] / placed[:, 2:]).reshape(*models.shape[:-1], 2) - self.points
        return np.sqrt(np.einsum("...i,...i->...", apart, apart)) / self.between_eyes

    def log_weights(self, models: np.ndarray, pose: HeadPose, trust: np.ndarray | None = None) -> np.ndarray:
        """Logarithms (...) of Gaussian weights of models (..., L, 3) by their mean distance, trust (L,) in each point
        where it is given.

        Distances saturate at three times the median: hidden points, which are guesses, shall not decide.
        """
        distances = self.distances(models, pose)
        saturated = np.minimum(distances, 3 * np.median(distances))
        share = np.ones(len(self.points)) if trust is None else trust
        share = share / max(float(share.sum()), 1e-9)
        variance = share @ np.broadcast_to(np.square(self.deviation), len(self.points))
        return -0.5 * (saturated @ share) ** 2 / max(float(variance), 1e-9)


def _opening(points: np.ndarray) -> np.ndarray:
    """(2,) how far the right and the left eye are open, in parts of their width, of points (>= 468, 2) px."""
    height = np.linalg.norm(points[list(UPPER_LIDS)] - points[list(LOWER_LIDS)], axis=-1)
    width = np.linalg.norm(points[list(INNER_CORNERS)] - points[list(OUTER_CORNERS)], axis=-1)
    return height / np.maximum(width, 1e-6)


def poses_of(
    seen: Sequence[SeenLandmarks], models: np.ndarray, previous: Sequence[HeadPose | None], **how: int
) -> list[HeadPose | None]:
    """`SeenLandmarks.pose` of B meshes with landmarks models (B, L, 3), each on its own face, in one go.

    how: as `estimate_head_poses` takes it. None for those that have no pose.
    """
    points, cameras = (np.stack([getattr(face, name) for face in seen]) for name in ("points", "K"))
    return estimate_head_poses(points, models, cameras, previous, **how)


def best_pose_log_weights(seen: SeenLandmarks, models: np.ndarray) -> np.ndarray:
    """`SeenLandmarks.log_weights` (N,) of models (N, L, 3), each in its own best pose.

    Zeros, which change nothing, where the landmarks fit no pose.
    """
    (start,) = poses_of([seen], models.mean(0)[None], [None])
    poses = poses_of([seen] * len(models), models, [start] * len(models))
    if any(pose is None for pose in poses):
        return np.zeros(len(models))
    return np.array([seen.log_weights(model, pose) for model, pose in zip(models, poses, strict=True)])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Weights (N,) that sum to one, from their logarithms up to a constant."""
    odds = np.exp(logits - logits.max())
    return (odds / odds.sum()).astype(np.float32)
