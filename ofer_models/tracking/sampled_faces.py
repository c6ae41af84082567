"""OFER's method: hypotheses of each face drawn by ExpGen, its head drawn by IdGen and ranked by IdRank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np

from ofer_models.bundle.manifest import Bundle, BundleError
from ofer_models.head.decoders import LandmarkDecoder
from ofer_models.head.landmark_sets import N_MEDIAPIPE
from ofer_models.perception.encoder_inputs import encoder_inputs
from ofer_models.perception.tracker import Track
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.drifting_noise import DriftingNoise
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.face_poser import TrackMemory
from ofer_models.tracking.identity_cache import IdentityCache
from ofer_models.tracking.identity_candidates import CandidateDrawer
from ofer_models.tracking.identity_ranking import Ranking
from ofer_models.tracking.identity_state import View
from ofer_models.tracking.load_plan import Tier
from ofer_models.tracking.reprojection import SeenLandmarks
from ofer_models.tracking.view_quality import facing, sharpness, view_quality

Inputs = dict[str, np.ndarray]
Timed = Callable[[str], AbstractContextManager[None]]


class SampledFaces:
    """What the pipeline asks of a method, on the five stages of OFER."""

    def __init__(
        self, bundle: Bundle, stages: StageSet, landmarks: LandmarkDecoder, candidates: int, *,
        keep: float, background: bool, seed: tuple[int, ...],
    ) -> None:  # fmt: skip
        """keep, background, seed: of the `IdentityCache`. Raises BundleError."""
        told = stages.expression_context.outputs.get("visible")
        if told is not None and told[-1] != N_MEDIAPIPE:
            raise BundleError(
                f"{bundle.path}: 'visible' of expression_context has {told[-1]} points, should be {N_MEDIAPIPE}"
            )
        self._bundle, self._stages = bundle, stages
        evidence = LandmarkEvidence.of(bundle, every_point=True)
        self._drawer = CandidateDrawer(bundle, stages, landmarks, candidates, evidence)
        self.identities = IdentityCache(
            self._drawer, bundle.head, *bundle.same_face, keep=keep, background=background, seed=seed
        )

    def hypotheses(self, wanted: int) -> int:
        """How many a face has."""
        return wanted

    @property
    def fixed_steps(self) -> bool:
        """Whether hypotheses take all steps at every tier."""
        return self._stages.expgen.fixed_steps

    def set_steps(self, steps: int | None) -> None:
        """Sampling steps from now on. Raises ValueError for a count that is refused."""
        for sampler in (self._stages.idgen, self._stages.expgen):
            sampler.set_steps(steps)

    def rank_elsewhere(self, ranking: Ranking | None) -> None:
        """Have candidates drawn and ranked by `ranking` from the next draw on."""
        self._drawer.elsewhere = ranking

    def remember(self, hypotheses: int, rng: np.random.Generator) -> TrackMemory:
        """The memory of a new track."""
        width = self._stages.expgen.n_coefficients * (2 if self._bundle.landmark_evidence else 1)
        return TrackMemory(DriftingNoise(hypotheses, width, rng))

    def inputs(self, frame: np.ndarray, points: np.ndarray) -> Inputs:
        """What the encoders see of faces with points (F, 478, 3)."""
        return encoder_inputs(frame, points, self._stages.encoder_inputs)

    def draw(
        self, memories: Sequence[TrackMemory], inputs: Inputs, stamps: Sequence[float], tier: Tier, count: int,
        drift: float, rng: np.random.Generator, timed: Timed,
    ) -> None:  # fmt: skip
        """Draw `count` hypotheses for each of some tracks, in one batch, into their memories; stamps: of each."""
        with timed("context"):
            encoded = _call(self._stages.expression_context, inputs)
            occlusion = np.clip(encoded.get("occlusion", np.zeros((len(memories), 1)))[:, 0], 0, 1)
            visible = encoded.get("visible")
        with timed("expression"):
            width = self._stages.expgen.n_coefficients
            noise = np.stack([one.noise.at(stamp, drift)[:count] for one, stamp in zip(memories, stamps, strict=True)])
            start = np.ascontiguousarray(noise[..., :width])
            drawn = self._stages.expgen(encoded["context"], start, rng, tier.steps).astype(np.float32)
            drawn[..., -3:] *= np.float32(self._bundle.jaw_scale)
            if self._bundle.expression_range:
                np.clip(drawn[..., :-3], *self._bundle.expression_range, out=drawn[..., :-3])
        for row, memory in enumerate(memories):
            memory.drawn, memory.scatter, memory.occlusion = drawn[row], noise[row, :, width:], float(occlusion[row])
            memory.visible = visible[row] if visible is not None else None

    def identify(
        self, tracked: Sequence[str], tracks: Sequence[Track], memories: Sequence[TrackMemory],
        seen: Sequence[SeenLandmarks], rows: Sequence[int], inputs: Inputs, stamp: float,
    ) -> None:  # fmt: skip
        """Show the identity cache the views that it asks for, with their contexts drawn in one batch. tracked: the ids
        of all tracks, also of those out of sight. rows: the tracks that the inputs are of."""
        crops = next((inputs[name] for name in ("crop112", "crop112_bgr", "crop224") if name in inputs), None)
        qualities: dict[int, float] = {}  # of those wanted, by their places among the inputs
        for place, row in enumerate(rows):
            track, memory = tracks[row], memories[row]
            quality = view_quality(track.points, facing(track.points, memory.pose), memory.occlusion)
            if crops is not None and self.identities.wants(track.id, quality, stamp):  # else it need not be measured
                quality *= sharpness(crops[place])
            if self.identities.wants(track.id, quality, stamp):
                qualities[place] = quality
        views: dict[str, View] = {}
        if qualities:
            places = list(qualities)
            contexts = _call(self._stages.identity_context, {name: inputs[name][places] for name in inputs})["context"]
            for place, context in zip(places, contexts, strict=True):
                row = rows[place]
                needed = {
                    name: inputs[name][place : place + 1] for name in self._stages.idrank.inputs if name in inputs
                }
                mean = memories[row].drawn.mean(0)
                views[tracks[row].id] = View(
                    stamp, qualities[place], context, memories[row].occlusion, needed, seen[row],
                    memories[row].visible, mean[:-3], mean[-3:], memories[row].pose,
                )  # fmt: skip
        self.identities.update(tracked, [track.id for track in tracks], views, stamp)

    def warm_up(self, faces: int, hypotheses: int, share: float) -> None:
        """Run once, at this size, what a frame needs."""
        self._stages.warm_up(faces, hypotheses, share)

    def warm_up_identities(self) -> None:
        """Run once what drawing identities needs."""
        self._drawer.warm_up()


def _call(stage, inputs: Inputs) -> Inputs:
    """Run a stage on those of the inputs that it asks for."""
    return stage(**{name: inputs[name] for name in stage.inputs})
