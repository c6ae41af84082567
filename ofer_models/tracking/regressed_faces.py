"""The method `regressor`: one answer a face and frame, its head averaged over the track."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.bundle.regression import CROP
from ofer_models.head.decoders import LandmarkDecoder
from ofer_models.perception.regressor_crop import regressed_pose, regressor_crop
from ofer_models.perception.tracker import Track
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.face_poser import TrackMemory
from ofer_models.tracking.identity_ranking import Ranking
from ofer_models.tracking.load_plan import Tier
from ofer_models.tracking.regressed_identities import RegressedIdentities
from ofer_models.tracking.reprojection import SeenLandmarks
from ofer_models.tracking.sampled_faces import Inputs, Timed
from ofer_models.tracking.view_quality import facing, view_quality

_MAPS = "maps"  # beside the crops: how they were cut


class RegressedFaces:
    """What the pipeline asks of a method, on a bundle's regressor."""

    def __init__(self, bundle: Bundle, stages: StageSet, landmarks: LandmarkDecoder, *, keep: float) -> None:
        self._bundle, self._regressor, self._landmarks = bundle, stages.regressor, landmarks
        self.identities = RegressedIdentities(bundle.head, keep)

    def hypotheses(self, wanted: int) -> int:
        """One, whatever is wanted."""
        return 1

    @property
    def fixed_steps(self) -> bool:
        """There are none to take fewer of."""
        return True

    def set_steps(self, steps: int | None) -> None:
        """Nothing is sampled."""

    def rank_elsewhere(self, ranking: Ranking | None) -> None:
        """Nothing is ranked."""

    def remember(self, hypotheses: int, rng: np.random.Generator) -> TrackMemory:
        """The memory of a new track."""
        return TrackMemory(None)

    def inputs(self, frame: np.ndarray, points: np.ndarray) -> Inputs:
        """The crops of faces with points (F, 478, 3)."""
        crops, maps = regressor_crop(frame, points, self._regressor.spec.crop)
        return {CROP: crops, _MAPS: maps}

    def draw(
        self, memories: Sequence[TrackMemory], inputs: Inputs, stamps: Sequence[float], tier: Tier, count: int,
        drift: float, rng: np.random.Generator, timed: Timed,
    ) -> None:  # fmt: skip
        """Tell the one hypothesis of each of some tracks, in one batch, into their memories."""
        with timed("expression"):
            groups = self._regressor(inputs[CROP])
            expression = groups["expression"]
            if self._bundle.expression_range:
                expression = np.clip(expression, *self._bundle.expression_range)
            jaw = groups.get("jaw", np.zeros((len(memories), 3), np.float32))
            drawn = np.concatenate([expression, jaw], axis=1)
            occlusion = np.clip(groups.get("occlusion", np.zeros((len(memories), 1)))[:, 0], 0, 1)
        for row, memory in enumerate(memories):
            memory.drawn, memory.occlusion = drawn[row : row + 1], float(occlusion[row])
            memory.regressed = {name: values[row] for name, values in groups.items()}
            memory.cut = inputs[_MAPS][row]

    def identify(
        self, tracked: Sequence[str], tracks: Sequence[Track], memories: Sequence[TrackMemory],
        seen: Sequence[SeenLandmarks], rows: Sequence[int], inputs: Inputs, stamp: float,
    ) -> None:  # fmt: skip
        """Average the heads, and give a track that has no pose the regressor's, to start from."""
        views = {}
        for track, memory in zip(tracks, memories, strict=True):
            quality = view_quality(track.points, facing(track.points, memory.pose), memory.occlusion)
            views[track.id] = memory.regressed["shape"], quality
        self.identities.update(tracked, views, stamp)
        for track, memory, face in zip(tracks, memories, seen, strict=True):
            if memory.pose is None:
                head = self.identities.shown(track.id, stamp).identity
                middle = self._landmarks.of_faces([head], memory.drawn[None, :, :-3], memory.drawn[None, :, -3:])
                memory.pose = regressed_pose(
                    memory.regressed, self._regressor.spec, memory.cut, face.K, head.joints[0], middle[0, 0].mean(0)
                )

    def warm_up(self, faces: int, hypotheses: int, share: float) -> None:
        """Run once, at this number of faces, what a frame needs."""
        size = self._regressor.spec.crop.size
        self._regressor(np.zeros((faces, 3, size, size), np.float32))

    def warm_up_identities(self) -> None:
        """Nothing is drawn."""
