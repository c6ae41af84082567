"""How well meshes agree with the landmarks seen in a frame: pose, reprojection errors, and weights from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofer_models.head.landmark_sets import N_MEDIAPIPE
from ofer_models.perception.head_pose import HeadPose, estimate_head_pose, estimate_head_poses
from ofer_models.perception.intrinsics import Intrinsics, project

_RIGHT_EYE, _LEFT_EYE = (33, 133), (362, 263)  # eye corners among MediaPipe's points
_DEVIATION = 0.02  # reprojection noise, as a part of the inter-ocular distance, in a mesh's weight


@dataclass(frozen=True)
class SeenLandmarks:
    """A face's landmarks points (L, 2) px without lens distortion, camera matrix K (3, 3), inter-ocular distance px."""

    points: np.ndarray
    K: np.ndarray
    between_eyes: float

    @classmethod
    def of(cls, landmarks: np.ndarray, chosen: np.ndarray, intrinsics: Intrinsics) -> SeenLandmarks:
        """landmarks (478, >=2) px as the frame shows them, chosen (L,) those of them that the head model knows."""
        points = intrinsics.undistort(landmarks[:N_MEDIAPIPE, :2])
        eyes = float(np.linalg.norm(points[list(_LEFT_EYE)].mean(0) - points[list(_RIGHT_EYE)].mean(0)))
        # A profile shows both eyes at one place.
        eyes = max(eyes, 0.35 * float(np.ptp(points, axis=0).max()), 1e-3)
        return cls(points[chosen], intrinsics.K, eyes)

    def at(self, rows: np.ndarray) -> SeenLandmarks:
        """The same face at some of its landmarks, rows (n,)."""
        return SeenLandmarks(self.points[rows], self.K, self.between_eyes)

    def pose(self, model: np.ndarray, previous: HeadPose | None = None) -> HeadPose:
        """Pose of a mesh whose landmarks are model (L, 3) in the head frame."""
        return estimate_head_pose(self.points, model, self.K, previous)

    def distances(self, models: np.ndarray, pose: HeadPose) -> np.ndarray:
        """Distances (..., L) of posed landmarks (..., L, 3) from those seen, as a part of the inter-ocular distance."""
        pixels = project(models.reshape(-1, 3) @ pose.rotation.T + pose.translation, self.K)
        apart = pixels.reshape(*models.shape[:-1], 2) - self.points
        return np.sqrt(np.einsum("...i,...i->...", apart, apart)) / self.between_eyes

    def log_weights(self, models: np.ndarray, pose: HeadPose, trust: np.ndarray | None = None) -> np.ndarray:
        """Logarithms (...) of Gaussian weights of models (..., L, 3) by their mean distance, trust (L,) in each point
        where it is given.

        Distances saturate at three times the median: hidden points, which are guesses, shall not decide.
        """
        distances = self.distances(models, pose)
        saturated = np.minimum(distances, 3 * np.median(distances))
        robust = saturated.mean(-1) if trust is None else saturated @ (trust / max(float(trust.sum()), 1e-9))
        return -0.5 * (robust / _DEVIATION) ** 2


def poses_of(
    seen: Sequence[SeenLandmarks], models: np.ndarray, previous: Sequence[HeadPose | None]
) -> list[HeadPose | None]:
    """`SeenLandmarks.pose` of B meshes with landmarks models (B, L, 3), each on its own face, in one go.

    All faces are of one camera. None for those that have no pose.
    """
    return estimate_head_poses(np.stack([face.points for face in seen]), models, seen[0].K, previous)


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
