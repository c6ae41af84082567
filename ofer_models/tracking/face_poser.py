"""From hypotheses to faces: weights by reprojection, the selected one, head poses, and what is smoothed over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ofer_models.head.decoders import LandmarkDecoder, RestingLandmarks
from ofer_models.head.model import HeadModel, Identity, LandmarkEmbedding
from ofer_models.perception.head_pose import HeadPose
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.tracker import Track
from ofer_models.tracking.drifting_noise import DriftingNoise
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.face import Face
from ofer_models.tracking.identity_cache import ShownHead
from ofer_models.tracking.one_euro import OneEuroFilter
from ofer_models.tracking.pose_filter import CameraPose, PoseFilter
from ofer_models.tracking.reprojection import SeenLandmarks, log_weights, poses_of, softmax
from ofer_models.tracking.selection import SteadySelection
from ofer_models.tracking.spread import region_rows, spread_mm
from ofer_models.tracking.steady_hypotheses import SteadyHypotheses

_BESIDE = ("rotation", "camera", "translation", "albedo", "light")  # groups of a regressor that a face shows as told
# Rounds of the pose that the landmarks' evidence starts from, and goes on with, and of the selected hypothesis' own,
# which is near then: more of them turn it by 0.05 degrees at most.
_NEAR, _LAST = 1, 2


@dataclass
class TrackMemory:
    """What the pipeline remembers of a track beside its identity: hypotheses, pose, filters.

    drawn (H, E + 3): coefficients as ExpGen drew them, which become expressions (H, E) and jaws (H, 3), moved to the
    landmarks and steadied where the bundle says so; scatter (H, E + 3): the standard normal noise of that; visible
    (468,): chance that each of MediaPipe's points is seen, None where the bundle does not tell; spared: it was to be
    drawn anew the last time, and was not. regressed: what a regressor told, by group, of the crop that the map cut
    (2, 3) made; there is no noise then.
    """

    noise: DriftingNoise | None
    expressions: np.ndarray | None = None
    jaws: np.ndarray | None = None
    occlusion: float = 0.0
    drawn: np.ndarray | None = None
    scatter: np.ndarray | None = None
    visible: np.ndarray | None = None
    spared: bool = False
    regressed: dict[str, np.ndarray] = field(default_factory=dict)
    cut: np.ndarray | None = None
    pose: HeadPose | None = None
    head: Identity | None = None
    steady: SteadyHypotheses = field(default_factory=SteadyHypotheses)
    selection: SteadySelection = field(default_factory=SteadySelection)
    motion: PoseFilter = field(default_factory=PoseFilter)
    # Slow enough to take the landmarks' tremble away, quick enough to lag by less than a frame in a blink.
    expression: OneEuroFilter = field(default_factory=lambda: OneEuroFilter(1.1, 3.0))


class FacePoser:
    """Makes the faces of one frame, or of one each of several cameras, all in one batch."""

    def __init__(
        self,
        head: HeadModel,
        embedding: LandmarkEmbedding,
        points: np.ndarray,
        evidence: LandmarkEvidence | None = None,
    ) -> None:
        """points (L,): MediaPipe's numbers of the embedding's landmarks. evidence: moves drawn hypotheses to them, and
        its points are those that meshes are compared at; all without it."""
        self._evidence = evidence
        self._landmarks = evidence.system.decoder if evidence else LandmarkDecoder(head, embedding)
        self._rows = evidence.system.rows if evidence else np.arange(len(points))
        regions = region_rows(points[self._rows])
        self._told = np.concatenate(list(regions.values()))
        self._regions = {name: np.isin(self._told, rows) for name, rows in regions.items()}

    def __call__(
        self,
        tracks: Sequence[Track],
        memories: Sequence[TrackMemory],
        seen: Sequence[SeenLandmarks],
        heads: Sequence[ShownHead],
        cameras: Sequence[Intrinsics],
        stamps: Sequence[float],
        places: Sequence[CameraPose | None],
    ) -> list[Face | None]:
        """A face for each track, None where its landmarks fit no pose; hypotheses and what is known from the last frame
        come from the memories, which are brought up to date. places: of the cameras, where they are known.
        """
        faces: list[Face | None] = [None] * len(tracks)
        for memory, head in zip(memories, heads, strict=True):
            memory.head = head.identity
        compared = [face.at(self._rows) for face in seen]
        resting = self._landmarks.at_rest([head.identity for head in heads])
        coefficients = np.stack([memory.drawn for memory in memories])
        middle = self._models(resting, coefficients.mean(1, keepdims=True))[:, 0]
        near, last = ({}, {}) if self._evidence is None else ({"rounds": _NEAR}, {"rounds": _LAST})
        means = poses_of(compared, middle, [memory.pose for memory in memories], **near)
        weighed = [row for row, pose in enumerate(means) if pose is not None]
        trusts = None
        if self._evidence is not None and weighed:
            visible = [memories[row].visible for row in weighed]
            found, moved = self._evidence(
                [seen[row] for row in weighed], visible, resting[weighed], coefficients[weighed],
                np.stack([memories[row].scatter for row in weighed]), [means[row] for row in weighed],
            )  # fmt: skip
            for row, each, pose in zip(weighed, found, moved, strict=True):
                coefficients[row] = memories[row].steady(each, self._evidence.deviation, stamps[row])
                means[row] = pose
            pairs = zip(weighed, visible, strict=True)
            trusts = np.stack([self._evidence.system.weights(seen[row], sight) for row, sight in pairs])
        for memory, found in zip(memories, coefficients, strict=True):
            memory.expressions, memory.jaws, memory.pose = found[:, :-3], found[:, -3:], None
        if not weighed:
            return faces
        models = self._models(resting[weighed], coefficients[weighed])  # (F, H, n, 3)
        logs = log_weights([compared[row] for row in weighed], models, [means[row] for row in weighed], trusts)
        selected = [memories[row].selection(log, stamps[row]) for row, log in zip(weighed, logs, strict=True)]
        chosen = models[np.arange(len(weighed)), selected]
        poses = poses_of([compared[row] for row in weighed], chosen, [means[row] for row in weighed], **last)
        scores = [softmax(log) for log in logs]
        spreads = self._spreads(models, np.stack(scores))
        for i, row in enumerate(weighed):
            if poses[i] is None:
                continue
            memories[row].pose = poses[i]
            error = float(poses[i].reprojection_px.mean() / seen[row].between_eyes)
            faces[row] = _face(
                tracks[row], memories[row], heads[row], cameras[row], places[row], stamps[row], scores[i], selected[i],
                error, spreads[i],
            )  # fmt: skip
        return faces

    def _models(self, resting: RestingLandmarks, coefficients: np.ndarray) -> np.ndarray:
        """Landmarks (F, H, n, 3) m of coefficients (F, H, E + 3)."""
        return self._landmarks.moved(resting, coefficients[..., :-3], coefficients[..., -3:])

    def _spreads(self, models: np.ndarray, scores: np.ndarray) -> list[dict[str, float]]:
        """Spread in metres of each region, for each of models (F, H, n, 3): NaN without landmarks in it, and of a
        single hypothesis, which says nothing of others."""
        squared = (spread_mm(models[:, :, self._told], scores) / 1000) ** 2
        unknown = np.full(len(models), np.nan)
        parts = np.sqrt([squared[:, at].mean(1) if at.any() else unknown for at in self._regions.values()])
        return [dict(zip(self._regions, column.tolist(), strict=True)) for column in parts.T]


def _face(
    track: Track,
    memory: TrackMemory,
    head: ShownHead,
    camera: Intrinsics,
    place: CameraPose | None,
    stamp: float,
    scores: np.ndarray,
    selected: int,
    error: float,
    spread: dict[str, float],
) -> Face:
    drawn = np.concatenate([memory.expressions[selected], memory.jaws[selected]])
    smooth = memory.expression(drawn, stamp).astype(np.float32)
    rotation, translation = memory.motion(
        memory.pose.rotation, memory.pose.translation - camera.offset, stamp, place
    )
    return Face(
        id=track.id, roi=_inside(track.box, camera.width, camera.height),
        confidence=float(track.confidence), landmarks=track.points,
        rotation=rotation, translation=translation, metric=camera.metric,
        shape=head.identity.betas, identity_revision=head.revision, identity_score=head.score,
        identity_state=head.state.value, identity_blend=head.blend,
        expressions=memory.expressions, jaws=memory.jaws, scores=scores, selected=selected,
        expression=smooth[:-3], jaw=smooth[-3:], occlusion=memory.occlusion, landmark_error=error, spread=spread,
        regressed={name: memory.regressed[name] for name in _BESIDE if name in memory.regressed},
        visible=memory.visible,
    )  # fmt: skip


def _inside(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of box (4,) xywh px, rounded, inside an image of this size; zeros where there is none."""
    corners = np.round([box[:2], box[:2] + box[2:]])
    (left, top), (right, bottom) = np.clip(corners, 0, (width, height)).astype(int).tolist()
    return (left, top, right - left, bottom - top) if right > left and bottom > top else (0, 0, 0, 0)
