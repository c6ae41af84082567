"""How well meshes agree with the landmarks seen in a frame: pose, reprojection errors, and weights from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ofer_models.head.landmark_sets import INNER_CORNERS, LOWER_LIDS, N_WITH_IRISES, OUTER_CORNERS, UPPER_LIDS
from ofer_models.perception.head_pose import HeadPose, estimate_head_pose, estimate_head_poses
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.point_fusion import MEDIAPIPE_DEVIATION, PointEstimate, fuse, inter_ocular

_POSED = 10  # whole faces at once: more of them leave the processor's cache, and take 0.3 MB each


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
        return replace(face, deviation=both.deviation[chosen] / face.between_eyes, visible=own.visible[:N_WITH_IRISES])

    def at(self, rows: np.ndarray) -> SeenLandmarks:
        """The same face at some of its landmarks, rows (n,)."""
        own = self.deviation[rows] if isinstance(self.deviation, np.ndarray) else self.deviation
        return replace(self, points=self.points[rows], deviation=own)

    def pose(self, model: np.ndarray, previous: HeadPose | None = None) -> HeadPose:
        """Pose of a mesh whose landmarks are model (L, 3) in the head frame."""
        return estimate_head_pose(self.points, model, self.K, previous)


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


def distances(seen: Sequence[SeenLandmarks], models: np.ndarray, poses: Sequence[HeadPose]) -> np.ndarray:
    """(F, H, L) of landmarks models (F, H, L, 3) in one pose a face from those seen, as a part of the inter-ocular
    distance."""
    cameras = np.stack([face.K @ np.column_stack([pose.rotation, pose.translation])
                        for face, pose in zip(seen, poses, strict=True)]).astype(models.dtype)  # fmt: skip
    flat = models.reshape(len(seen), -1, 3)
    placed = flat @ cameras[:, :, :3].swapaxes(-1, -2) + cameras[:, None, :, 3]
    apart = (placed[..., :2] / placed[..., 2:]).reshape(*models.shape[:-1], 2)
    apart = apart - np.stack([face.points for face in seen])[:, None]
    eyes = np.array([face.between_eyes for face in seen])
    return np.sqrt(np.einsum("...i,...i->...", apart, apart)) / eyes[:, None, None]


def log_weights(
    seen: Sequence[SeenLandmarks], models: np.ndarray, poses: Sequence[HeadPose], trusts: np.ndarray | None = None
) -> np.ndarray:
    """Logarithms (F, H) of Gaussian weights of models (F, H, L, 3) by their mean distance, trusts (F, L) in each point
    where they are given.

    Distances saturate at three times a face's median: hidden points, which are guesses, shall not decide.
    """
    apart = distances(seen, models, poses)
    medians = np.median(apart.reshape(len(seen), -1), axis=-1)
    saturated = np.minimum(apart, 3 * medians[:, None, None])
    shares = np.ones((len(seen), models.shape[2])) if trusts is None else trusts
    shares = shares / np.maximum(shares.sum(-1, keepdims=True), 1e-9)
    variances = [share @ np.broadcast_to(np.square(face.deviation), share.shape)
                 for share, face in zip(shares, seen, strict=True)]  # fmt: skip
    means = (saturated @ shares[..., None])[..., 0]
    return -0.5 * means**2 / np.maximum(np.array(variances), 1e-9)[:, None]


def best_pose_log_weights(seen: SeenLandmarks, models: np.ndarray, start: HeadPose | None = None) -> np.ndarray:
    """`log_weights` (N,) of models (N, L, 3) on one face, each in its own best pose; start: a pose near these, that of
    their mean by default.

    Zeros, which change nothing, where the landmarks fit no pose.
    """
    if start is None:
        (start,) = poses_of([seen], models.mean(0)[None], [None])
    poses: list[HeadPose | None] = []
    for some in np.split(models, range(_POSED, len(models), _POSED)):
        poses += poses_of([seen] * len(some), some, [start] * len(some))
    if any(pose is None for pose in poses):
        return np.zeros(len(models))
    return log_weights([seen] * len(models), models[:, None], poses)[:, 0]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Weights (N,) that sum to one, from their logarithms up to a constant."""
    odds = np.exp(logits - logits.max())
    return (odds / odds.sum()).astype(np.float32)
