"""The whole chain without ROS: a camera frame in, tracked heads with their expression hypotheses out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ofer_models.bundle.manifest import REGRESSOR, STAGES, Bundle, BundleError
from ofer_models.head.decoders import HypothesisDecoder, LandmarkDecoder
from ofer_models.head.landmark_sets import tracked_landmarks
from ofer_models.head.model import HeadModelError, Identity
from ofer_models.perception.frontend import FaceFrontend, FaceNetworks
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.tracker import KEEP_LOST
from ofer_models.pipeline_look import Look, due_rows
from ofer_models.pipeline_perception import FramePerception
from ofer_models.pipeline_settings import PipelineSettings
from ofer_models.runtime.batches import batches
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.face import Face
from ofer_models.tracking.face_poser import FacePoser, TrackMemory
from ofer_models.tracking.identity_ranking import Ranking
from ofer_models.tracking.identity_state import State
from ofer_models.tracking.load_plan import TIERS, LoadPlan
from ofer_models.tracking.pose_filter import CameraPose
from ofer_models.tracking.regressed_faces import RegressedFaces
from ofer_models.tracking.sampled_faces import SampledFaces
from ofer_models.tracking.spread import spread_mm
from ofer_models.tracking.stream_clock import StreamClock

_NOISE, _IDENTITY = 1, 2  # streams of random numbers
_IDLE = 1.0  # s without a frame that end nothing yet


class FacePipeline:
    """pipeline(frame, stamp, intrinsics) -> faces, by OFER or by the bundle's regressor (`method`). One instance per
    camera; one thread at a time gives it frames.

    The same in two halves is `pipeline.faces(pipeline.look(frame, stamp, intrinsics))`: while one thread is at the
    second of a frame, another one may be at the first of the next.

    plan: the `LoadPlan` that is to be told measured latencies, where these are bounded.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        settings: PipelineSettings | None = None,
        arrival: Callable[[], float] = time.monotonic,
        stages: StageSet | None = None,
        networks: FaceNetworks | None = None,
        **changes: Any,
    ) -> None:
        """changes: single settings by name, `FacePipeline(bundle, hypotheses=5)`. arrival(): seconds of the machine's
        own clock, which counts where the frames' stamps do not advance. stages: those of several pipelines, which
        whoever made them closes; the settings' threads, steps, backend and method are then theirs. networks: of
        several pipelines, MediaPipe's.

        Raises BundleError when the bundle cannot be used and ValueError for settings that cannot be.
        """
        settings = replace(settings or PipelineSettings(), **changes)
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        self.head = self.bundle.head
        self.hypotheses = self.bundle.hypotheses if settings.hypotheses is None else settings.hypotheses
        self.candidates = self.bundle.candidates if settings.candidates is None else settings.candidates
        self.timings: dict[str, float] = {}  # of the last frame's steps, ms
        self.plan = LoadPlan(settings.latency_bound)
        self.drift = settings.drift
        regressed = settings.method == "regressor"
        names = (REGRESSOR,) if regressed else STAGES
        self._shares_stages = stages is not None
        self._stages = stages or StageSet(self.bundle, settings.threads, settings.steps, settings.backend, names)
        self._arrival = arrival
        try:
            embedding, points = tracked_landmarks(self.head)
        except HeadModelError as error:
            raise BundleError(f"{self.bundle.path}: {error}") from None
        landmarks = LandmarkDecoder(self.head, embedding)
        self._method: SampledFaces | RegressedFaces
        if regressed:
            self._method = RegressedFaces(self.bundle, self._stages, landmarks, keep=settings.remember)
        else:
            self._method = SampledFaces(
                self.bundle, self._stages, landmarks, self.candidates, keep=settings.remember,
                background=settings.background, seed=(settings.seed, _IDENTITY),
            )  # fmt: skip
        self.hypotheses = self._method.hypotheses(self.hypotheses)
        self.plan.fixed_steps = self._method.fixed_steps
        self._identities = self._method.identities
        evidence = None if regressed else LandmarkEvidence.of(self.bundle)
        self._pose_faces = FacePoser(self.head, embedding, points, evidence)
        self._perception = FramePerception(
            FaceFrontend(
                settings.max_faces, settings.camera_rotation, settings.small_faces, settings.ids, networks
            ),
            StreamClock(KEEP_LOST, arrival), self._method.inputs, self._stages.landmarks, points,
        )  # fmt: skip
        self._decode_all = HypothesisDecoder(self.head)
        self._seed = settings.seed
        self._max_faces = settings.max_faces
        self.lock = threading.Lock()
        self.reset()

    def warm_up(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Run every network once at each size that occurs, where a GPU needs that: numbers of faces, tiers of the load
        plan, identities. `say` gets lines of progress. Without it, the first frame at a size takes long.
        """
        if not self._stages.runtime.captures:
            return
        with self.lock:
            started = time.monotonic()
            tiers = dict.fromkeys((tier.steps, tier.count(self.hypotheses)) for tier in TIERS)
            sizes = [(faces, *tier) for faces in batches(self._max_faces) for tier in tiers]
            for done, (faces, share, count) in enumerate(sizes):
                size = f"{faces} faces, {count} hypotheses, {share:.0%} of the steps"
                say(f"warm-up {done + 1} of {len(sizes) + 1}: {size}")
                self._method.warm_up(faces, count, share)
            say(f"warm-up {len(sizes) + 1} of {len(sizes) + 1}: identities")
            self._method.warm_up_identities()
            # Once more: a size that needed more scratch memory than those before has taken their graphs along.
            for faces, share, count in sizes:
                self._method.warm_up(faces, count, share)
            self._method.warm_up_identities()
            self._stages.runtime.settle()
            say(f"warm after {time.monotonic() - started:.1f} s, {self.gpu_memory / 2**20:.0f} MB on the GPU")

    @property
    def gpu_memory(self) -> int:
        """Bytes held on a GPU; 0 without one."""
        return self._stages.runtime.memory

    def close(self) -> None:
        """Let go of everything, also on a GPU; returns when a draw at work has come to its end."""
        with self._perception.lock, self.lock:
            self._identities.close()
            if not self._shares_stages:
                self._stages.close()

    def reset(self, seed: int | None = None) -> None:
        """Forget every track and identity, and start the random numbers anew, from another seed where one is given."""
        with self._perception.lock, self.lock:
            if seed is not None:
                self._seed = seed
                self._identities.seed = (seed, _IDENTITY)
            self._clear()
            self._tracks_seen = 0
            self._rng = np.random.default_rng(self._seed)

    def forget(self) -> None:
        """Drop everything that describes anybody, at once; may be called from any thread. Faces get new ids; a frame
        that was looked at before shows nobody."""
        with self._perception.lock, self.lock:
            self._clear()

    def reset_identity(self, id: str | None = None) -> bool:
        """Gather the identity of one track, or of all, anew; False where there is no such track. From any thread."""
        with self.lock:
            ids = list(self._memory) if id is None else [id]
            return all([self._identities.reset(id) for id in ids])

    def expire(self) -> None:
        """Forget everybody when no frame has come for as long as lost faces are remembered. To be called now and then,
        from any thread: frames that do not come cannot clear anything."""
        if self._idle():  # without waiting for a frame at work
            with self._perception.lock, self.lock:
                if self._idle():
                    self._clear()

    def _idle(self) -> bool:
        return self._arrival() - self._last_frame > max(self._identities.keep, _IDLE)

    @property
    def identity_failure(self) -> str:
        """Why the last draw of an identity failed, since `reset` or `forget`; ''. Faces then show the mean head, or the
        one before."""
        return self._identities.failure

    @property
    def identity_trouble(self) -> str:
        """What keeps faces from their heads at present, in one line, or ''. From any thread, without waiting."""
        return self._identities.trouble

    def set_hypotheses(self, hypotheses: int) -> None:
        """Hypotheses a face from the next frame on; those that stay go on as they were. Raises ValueError below one."""
        if hypotheses < 1:
            raise ValueError(f"hypotheses must be at least 1, got {hypotheses}")
        with self.lock:
            self.hypotheses = self._method.hypotheses(hypotheses)
            for memory in self._memory.values():
                if memory.noise is not None:
                    memory.noise.resize(hypotheses)
        self.warm_up()

    def set_steps(self, steps: int | None) -> None:
        """Sampling steps from the next frame on; None: the bundle's. Raises ValueError for a count that is refused."""
        with self.lock:
            self._method.set_steps(steps)
            self.plan.fixed_steps = self._method.fixed_steps
        self.warm_up()

    def rank_elsewhere(self, ranking: Ranking | None) -> None:
        """Have the candidates of heads drawn and ranked by `ranking` from the next draw on, and here where it gives
        none; None: always here. It is called by the thread that draws identities. Of the method `ofer`."""
        self._method.rank_elsewhere(ranking)

    def report_latency(self, milliseconds: float) -> None:
        """Tell the load plan how long the last frame took from its arrival to its publication."""
        self.plan.measured(milliseconds, self._arrival())

    @property
    def stages_key(self) -> tuple:
        """The same for all pipelines that share their stages and take as many steps."""
        return self._stages.batch_key

    @property
    def backend(self) -> str:
        """Name of the runtime that the stages run on."""
        return self._stages.backend

    def status(self) -> dict[str, object]:
        """Load tier, and identities after the last frame, for diagnostics. From any thread, without waiting."""
        memory = {"gpu_memory_mb": f"{self.gpu_memory / 2**20:.1f}"}
        return {"tier": self.plan.tier.name, "tier_level": self.plan.level, **memory, **self._identity_status}

    def _clear(self) -> None:
        self._perception.begin_anew()
        self._begin_anew(self._perception.beginning)
        self._last_frame = self._arrival()

    def _begin_anew(self, beginning: int) -> None:
        """Forget what is known beside the tracks, as perception has begun anew so often."""
        self._beginning = beginning
        self._identities.forget()
        self._memory: dict[str, TrackMemory] = {}
        self._note_identities()

    def __call__(
        self,
        frame: np.ndarray,
        stamp: float,
        intrinsics: Intrinsics | None = None,
        camera_pose: CameraPose | None = None,
    ) -> list[Face]:
        """Faces in frame (H, W, 3) uint8 RGB taken at stamp (seconds).

        A stamp that is the same as the one before, or slightly older, counts by the frame's arrival; one that is older
        by more than a second begins anew, as `forget` does. Without intrinsics a field of view of 60 degrees is
        assumed. camera_pose: of a camera that moves, in a frame that does not, in which poses are filtered then; None
        for a single frame: as in the one before. A face whose landmarks fit no pose is left out.

        Raises ValueError for another kind of array or a stamp that is not finite.
        """
        return self.faces(self.look(frame, stamp, intrinsics, camera_pose))

    def vertices(self, face: Face, which: int | None = None) -> np.ndarray:
        """Vertices (V, 3) of one hypothesis, the selected one by default: head frame, metres."""
        index = face.selected if which is None else which
        rows = slice(index, index + 1) if index != -1 else slice(index, None)
        return self._decode_all(self._identity_of(face), face.expressions[rows], face.jaws[rows])[0]

    def filtered_vertices(self, face: Face) -> np.ndarray:
        """Vertices (V, 3) of the selected hypothesis filtered over time, what a viewer shows: head frame, metres."""
        return self._decode_all(self._identity_of(face), face.expression[None], face.jaw[None])[0]

    def spread_mm(self, face: Face) -> np.ndarray:
        """Spread (V,) of the hypotheses at each vertex, weighed by their scores, in mm."""
        return spread_mm(self._decode_all(self._identity_of(face), face.expressions, face.jaws), face.scores)

    def _identity_of(self, face: Face) -> Identity:
        memory = self._memory.get(face.id)
        if memory and memory.head is not None and memory.head.betas is face.shape:
            return memory.head
        return self.head.identity(face.shape)

    def look(
        self, frame: np.ndarray, stamp: float, intrinsics: Intrinsics | None = None,
        camera_pose: CameraPose | None = None,
    ) -> Look:  # fmt: skip
        """The first half of a call: find and follow the faces and their landmarks. Arguments and errors as of a call;
        frames in their order, one thread at a time. The frame is read again in the second half."""
        with self._perception.lock:
            look = self._perception(self, frame, stamp, intrinsics, camera_pose)
            self._last_frame = self._arrival()
            return look

    def look_ahead(self) -> None:
        """What the next `look` would begin with, as far as it can be done without its frame; between two of them."""
        with self._perception.lock:
            self._perception.frontend.look_ahead()

    def faces(self, look: Look) -> list[Face]:
        """The second half: what a call gives. Looks in their order, each once; one may be left out."""
        with self.lock:
            self.recall(look)
            self.draw([look])
            self.identify(look)
            return self.pose([look])[0]

    def recall(self, look: Look) -> None:
        """The first of the four steps of `faces`, each of them once and in this order while `lock` is held: what is
        remembered of the tracks, whose hypotheses are due, and what the encoders see of those."""
        if look.beginning > self._beginning:
            self._begin_anew(look.beginning)
        if look.beginning < self._beginning:  # everybody has been forgotten since
            look.tracked, look.tracks = [], []
        self._memory = {id: self._memory.get(id) or self._remember() for id in look.tracked}
        look.memories = [self._memory[track.id] for track in look.tracks]
        look.tier, look.count = self.plan.tier, self.plan.tier.count(self.hypotheses)
        states = self._identities.states().items()
        look.due = due_rows(look, [id for id, state in states if state is State.GATHERING])
        if look.due:
            with look.timed("crops"):
                look.inputs = look.cut(look.due)

    def draw(self, looks: Sequence[Look]) -> None:
        """Hypotheses of the faces in one or several frames, in one batch. The other frames are of pipelines with the
        same stages, drift and hypotheses, at the same tier of their load plans."""
        drawn = [look for look in looks if look.due]
        if not drawn:
            return
        memories = [look.memories[row] for look in drawn for row in look.due]
        stamps = [look.now for look in drawn for _ in look.due]
        parts = [look.inputs for look in drawn]
        inputs = parts[0] if len(parts) == 1 else {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }  # fmt: skip
        self._method.draw(
            memories, inputs, stamps, drawn[0].tier, drawn[0].count, self.drift, self._rng, drawn[0].timed
        )
        _tell_all(drawn, ("context", "expression"))

    def identify(self, look: Look) -> None:
        """Bring the identities up to date, and tell which head each face of the frame shows."""
        with look.timed("identity"):
            self._method.identify(
                look.tracked, look.tracks, look.memories, look.seen, look.due, look.inputs, look.now
            )
            look.heads = [self._identities.shown(track.id, look.now) for track in look.tracks]
        self._note_identities()

    def pose(self, looks: Sequence[Look]) -> list[list[Face]]:
        """The faces of each of one or several frames, all in one batch; the frames as of `draw`."""
        posed = [look for look in looks if look.tracks]
        found: list[Face | None] = []
        if posed:
            with posed[0].timed("pose"):
                found = self._pose_faces(
                    *([one for look in posed for one in getattr(look, name)] for name in (
                        "tracks", "memories", "seen", "heads"
                    )),
                    [look.camera for look in posed for _ in look.tracks],
                    [look.now for look in posed for _ in look.tracks],
                    [look.camera_pose for look in posed for _ in look.tracks],
                )  # fmt: skip
            _tell_all(posed, ("pose",))
        faces, ended = iter(found), time.perf_counter()
        for look in looks:
            look.timings["total"] = 1000 * (ended - look.started)
            look.pipeline.timings = look.timings
        return [[face for face in islice(faces, len(look.tracks)) if face is not None] for look in looks]

    def _note_identities(self) -> None:
        states = {f"identity/{id}": state.value for id, state in self._identities.states().items()}
        counts = {"identities_lost": self._identities.remembered, "identity_failures": self._identities.failures}
        self._identity_status = {**counts, **states}

    def _remember(self) -> TrackMemory:
        self._tracks_seen += 1
        rng = np.random.default_rng((self._seed, _NOISE, self._tracks_seen))
        return self._method.remember(self.hypotheses, rng)


def _tell_all(looks: Sequence[Look], names: Sequence[str]) -> None:
    """What a batch took, to all whose frames were in it."""
    told = {name: looks[0].timings[name] for name in names if name in looks[0].timings}
    for look in looks:
        look.timings |= told
