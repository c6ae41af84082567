"""What is known of a frame between the steps of a pipeline, so that steps can be done on several threads, and for
several frames at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.tracker import Track
from ofer_models.tracking.face import Face
from ofer_models.tracking.face_poser import TrackMemory
from ofer_models.tracking.identity_cache import ShownHead
from ofer_models.tracking.load_plan import TIERS, Tier
from ofer_models.tracking.pose_filter import CameraPose
from ofer_models.tracking.reprojection import SeenLandmarks


class LookOwner(Protocol):
    """What of a `FacePipeline` its looks are asked for."""

    drift: float
    hypotheses: int
    timings: dict[str, float]

    @property
    def stages_key(self) -> tuple: ...

    def draw(self, looks: Sequence[Look]) -> None: ...

    def identify(self, look: Look) -> None: ...

    def pose(self, looks: Sequence[Look]) -> list[list[Face]]: ...


@dataclass
class Look:
    """A frame on its way through a pipeline: after how many new beginnings and when its work began (time.perf_counter),
    its time on the stream's clock, the camera and where it is, if known; the ids of all tracks, and of each face that
    it shows: track, landmarks, memory; rows `fresh` have been looked at closely; rows `due` get new hypotheses, `count`
    of them, at this tier, of `inputs`, which `cut` makes of rows; heads: which it shows. timings: what each step took,
    ms.

    Perception gives it up to the landmarks; the rest is filled in by who takes it over.
    """

    pipeline: LookOwner  # which makes it
    beginning: int
    started: float
    now: float
    camera: Intrinsics
    camera_pose: CameraPose | None
    tracked: list[str] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    seen: list[SeenLandmarks] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)
    cut: Callable[[list[int]], dict[str, np.ndarray]] = lambda rows: {}
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    memories: list[TrackMemory] = field(default_factory=list)
    due: list[int] = field(default_factory=list)
    count: int = 0
    tier: Tier = TIERS[0]
    heads: list[ShownHead] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def batch_key(self) -> tuple:
        """Frames with the same can be drawn and posed together."""
        return self.pipeline.stages_key, self.pipeline.drift, self.pipeline.hypotheses, self.tier

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note what the block takes."""
        started = time.perf_counter()
        yield
        self.timings[name] = 1000 * (time.perf_counter() - started)


def due_rows(look: Look, gathering: Collection[str]) -> list[int]:
    """Rows of the faces whose hypotheses are drawn in a frame: those looked at closely or whose heads are being
    gathered, by the tracks' ids, of which the load plan may leave the less visible half out every other time, and those
    that have none. Between, hypotheses follow the landmarks."""
    spared: set[int] = set()
    if look.tier.alternate:
        # What is seen of a face: its area, without what is hidden of it.
        pairs = zip(look.tracks, look.memories, strict=True)
        visible = [float(track.box[2] * track.box[3]) * (1 - memory.occlusion) for track, memory in pairs]
        spared = set(np.argsort(visible, kind="stable")[: len(visible) // 2].tolist())
    due = []
    for row, memory in enumerate(look.memories):
        known = memory.drawn is not None and len(memory.drawn) == look.count
        if known and row not in look.fresh and look.tracks[row].id not in gathering:
            continue
        memory.spared = known and row in spared and not memory.spared
        if not memory.spared:
            due.append(row)
    return due
