"""From hypotheses to faces: weights by reprojection, the selected one, head poses, and what is smoothed over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ofer_models.head.decoders import LandmarkDecoder
from ofer_models.head.model import Identity
from ofer_models.perception.head_pose import HeadPose
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.tracker import Track
from ofer_models.tracking.drifting_noise import DriftingNoise
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.face import Face
from ofer_models.tracking.identity_cache import ShownHead
from ofer_models.tracking.one_euro import OneEuroFilter, RotationFilter
from ofer_models.tracking.reprojection import SeenLandmarks, poses_of, softmax
from ofer_models.tracking.selection import SteadySelection
from ofer_models.tracking.spread import region_rows, spread_mm

_BESIDE = ("rotation", "camera", "translation", "albedo", "light")  # groups of a regressor that a face shows as told


@dataclass
class TrackMemory:
    """What the pipeline remembers of a track beside its identity: hypotheses, pose, filters.

    drawn (H, E + 3): coefficients as ExpGen drew them, which become expressions (H, E) and jaws (H, 3), moved to the
    landmarks where the bundle says so; scatter (H, E + 3): the standard normal noise of that; visible
    (468,): chance that each of MediaPipe's points is seen, None where the bundle does not tell. regressed: what a
    regressor told, by group, of the crop that the map cut (2, 3) made; there is no noise then.
    """

    noise: DriftingNoise | None
    expressions: np.ndarray | None = None
    jaws: np.ndarray | None = None
    occlusion: float = 0.0
    drawn: np.ndarray | None = None
    scatter: np.ndarray | None = None
    visible: np.ndarray | None = None
    regressed: dict[str, np.ndarray] = field(default_factory=dict)
    cut: np.ndarray | None = None
    pose: HeadPose | None = None
    head: Identity | None = None
    selection: SteadySelection = field(default_factory=SteadySelection)
    # Slow enough to take the landmarks' tremble away, quick enough to lag by less than a frame in a nod or a blink.
    rotation: RotationFilter = field(default_factory=lambda: RotationFilter(1.5, 10.0))
    translation: OneEuroFilter = field(default_factory=lambda: OneEuroFilter(1.5, 60.0, joint=True))
    expression: OneEuroFilter = field(default_factory=lambda: OneEuroFilter(1.1, 3.0))


class FacePoser:
    """Makes the faces of one frame, all in one batch."""

    def __init__(
        self, landmarks: LandmarkDecoder, points: np.ndarray, evidence: LandmarkEvidence | None = None
    ) -> None:
        """points (L,): MediaPipe's numbers of the decoder's landmarks. evidence: moves drawn hypotheses to them."""
        self._landmarks, self._points, self._evidence = landmarks, points, evidence
        regions = region_rows(points)
        self._rows = np.concatenate(list(regions.values()))
        self._regions = {name: np.isin(self._rows, rows) for name, rows in regions.items()}

    def __call__(
        self,
        tracks: Sequence[Track],
        memories: Sequence[TrackMemory],
        seen: Sequence[SeenLandmarks],
        heads: Sequence[ShownHead],
        camera: Intrinsics,
        stamp: float,
    ) -> list[Face]:
        """Faces of the tracks whose landmarks fit a pose; hypotheses and what is known from the last frame come from
        the memories, which are brought up to date.
        """
        for memory, head in zip(memories, heads, strict=True):
            memory.head = head.identity
            memory.expressions, memory.jaws = memory.drawn[:, :-3], memory.drawn[:, -3:]
        models = self._models(memories)  # (F, H, L, 3)
        means = poses_of(seen, models.mean(1), [memory.pose for memory in memories])
        weighed = [row for row, pose in enumerate(means) if pose is not None]
        trusts: list[np.ndarray | None] = [None] * len(memories)
        if self._evidence is not None:
            for row in weighed:
                means[row] = self._move(memories[row], seen[row], means[row])
                trusts[row] = self._evidence.trust(memories[row].visible)
            models = self._models(memories)
        for memory in memories:
            memory.pose = None
        if not weighed:
            return []
        logs = [seen[row].log_weights(models[row], means[row], trusts[row]) for row in weighed]
        selected = [memories[row].selection(log, stamp) for row, log in zip(weighed, logs, strict=True)]
        chosen = models[weighed, selected]
        poses = poses_of([seen[row] for row in weighed], chosen, [means[row] for row in weighed])
        scores = [softmax(log) for log in logs]
        spreads = self._spreads(models[weighed], np.stack(scores))
        faces = []
        for i, row in enumerate(weighed):
            if poses[i] is None:
                continue
            memories[row].pose = poses[i]
            error = float(seen[row].distances(chosen[i], poses[i]).mean())
            faces.append(
                _face(tracks[row], memories[row], heads[row], camera, stamp, scores[i], selected[i], error, spreads[i])
            )
        return faces

    def _move(self, memory: TrackMemory, seen: SeenLandmarks, pose: HeadPose) -> HeadPose:
        """Move what was drawn to the landmarks; the pose of the new mean."""
        moved, pose = self._evidence(seen, memory.visible, memory.head, memory.drawn, memory.scatter, pose)
        memory.expressions, memory.jaws = moved[:, :-3], moved[:, -3:]
        return pose

    def _models(self, memories: Sequence[TrackMemory]) -> np.ndarray:
        """Landmarks (F, H, L, 3) m of the hypotheses."""
        expressions, jaws = (np.stack([getattr(m, name) for m in memories]) for name in ("expressions", "jaws"))
        return self._landmarks.of_faces([memory.head for memory in memories], expressions, jaws)

    def _spreads(self, models: np.ndarray, scores: np.ndarray) -> list[dict[str, float]]:
        """Spread in metres of each region, for each of models (F, H, L, 3): NaN without landmarks in it, and of a
        single hypothesis, which says nothing of others."""
        if models.shape[1] == 1:
            return [dict.fromkeys(self._regions, np.nan) for _ in models]
        squared = (spread_mm(models[:, :, self._rows], scores) / 1000) ** 2
        unknown = np.full(len(models), np.nan)
        parts = np.sqrt([squared[:, at].mean(1) if at.any() else unknown for at in self._regions.values()])
        return [dict(zip(self._regions, column.tolist(), strict=True)) for column in parts.T]


def _face(
    track: Track,
    memory: TrackMemory,
    head: ShownHead,
    camera: Intrinsics,
    stamp: float,
    scores: np.ndarray,
    selected: int,
    error: float,
    spread: dict[str, float],
) -> Face:
    drawn = np.concatenate([memory.expressions[selected], memory.jaws[selected]])
    smooth = memory.expression(drawn, stamp).astype(np.float32)
    return Face(
        id=track.id, roi=_inside(track.box, camera.width, camera.height),
        confidence=float(track.confidence), landmarks=track.points,
        rotation=memory.rotation(memory.pose.rotation, stamp),
        translation=memory.translation(memory.pose.translation - camera.offset, stamp), metric=camera.metric,
        shape=head.identity.betas, identity_revision=head.revision, identity_score=head.score,
        identity_state=head.state.value, identity_blend=head.blend,
        expressions=memory.expressions, jaws=memory.jaws, scores=scores, selected=selected,
        expression=smooth[:-3], jaw=smooth[-3:], occlusion=memory.occlusion, landmark_error=error, spread=spread,
        regressed={name: memory.regressed[name] for name in _BESIDE if name in memory.regressed},
    )  # fmt: skip


def _inside(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of box (4,) xywh px, rounded, inside an image of this size; zeros where there is none."""
    corners = np.round([box[:2], box[:2] + box[2:]])
    (left, top), (right, bottom) = np.clip(corners, 0, (width, height)).astype(int).tolist()
    return (left, top, right - left, bottom - top) if right > left and bottom > top else (0, 0, 0, 0)
