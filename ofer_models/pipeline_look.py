"""What is known of a frame between the steps of a pipeline, so that steps can be done for several frames at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.tracker import Track
from ofer_models.tracking.face_poser import TrackMemory
from ofer_models.tracking.identity_cache import ShownHead
from ofer_models.tracking.load_plan import TIERS, Tier
from ofer_models.tracking.pose_filter import CameraPose
from ofer_models.tracking.reprojection import SeenLandmarks


@dataclass
class Look:
    """A frame on its way through a pipeline: when its work began (time.perf_counter), its time on the stream's clock,
    the camera and where it is, if known, and of each face that it shows: track, memory, landmarks, crops; rows `due`
    get new hypotheses, `count` of them, at this tier; heads: which it shows."""

    pipeline: Any  # a FacePipeline, which makes it
    started: float
    now: float
    camera: Intrinsics
    camera_pose: CameraPose | None
    tracks: list[Track]
    memories: list[TrackMemory] = field(default_factory=list)
    seen: list[SeenLandmarks] = field(default_factory=list)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    due: list[int] = field(default_factory=list)
    count: int = 0
    tier: Tier = TIERS[0]
    heads: list[ShownHead] = field(default_factory=list)

    @property
    def batch_key(self) -> tuple:
        """Frames with the same can be drawn and posed together."""
        return self.pipeline.stages_key, self.pipeline.drift, self.pipeline.hypotheses, self.pipeline.plan.tier
