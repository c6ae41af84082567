"""The first half of a frame's way: which faces it shows, their landmarks, and what the encoders will see of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from ofer_models.perception.frontend import FaceFrontend
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.landmark_watch import LandmarkWatch
from ofer_models.perception.mediapipe_graph import check_rgb
from ofer_models.perception.point_fusion import LandmarkNetwork
from ofer_models.pipeline_look import Look, LookOwner
from ofer_models.tracking.pose_filter import CameraPose
from ofer_models.tracking.reprojection import SeenLandmarks
from ofer_models.tracking.stream_clock import StreamClock

Inputs = dict[str, np.ndarray]


class FramePerception:
    """Makes a `Look` of each frame of one camera, while its lock is held. What it keeps from frame to frame, tracks and
    the stream's clock, nothing else uses: a frame can be looked at while the one before is still being drawn."""

    def __init__(
        self,
        frontend: FaceFrontend,
        clock: StreamClock,
        inputs: Callable[[np.ndarray, np.ndarray], Inputs],
        landmarks: LandmarkNetwork | None,
        chosen: np.ndarray,
    ) -> None:
        """inputs(frame, points) cuts what the encoders see of faces with points (F, 478, 3); landmarks: a bundle's own
        network; chosen (L,): MediaPipe's points that the head model knows."""
        self.lock = threading.Lock()
        self.frontend = frontend
        self._clock = clock
        self._inputs = inputs
        self._watch = None if landmarks is None else LandmarkWatch(landmarks)
        self._chosen = chosen
        self.beginning = 0  # how often everybody was forgotten

    def begin_anew(self) -> None:
        """Forget every track; `lock` is held."""
        self.frontend.reset()
        if self._watch is not None:
            self._watch.reset()
        self._clock.reset()
        self.beginning += 1

    def __call__(
        self, pipeline: LookOwner, frame: np.ndarray, stamp: float, intrinsics: Intrinsics | None,
        camera_pose: CameraPose | None,
    ) -> Look:  # fmt: skip
        """Arguments and errors as of a `FacePipeline`, which the look will belong to; `lock` is held."""
        started = time.perf_counter()
        check_rgb(frame)
        if self._clock.starts_anew(stamp):
            self.begin_anew()
        now = self._clock(stamp)
        height, width = frame.shape[:2]
        camera = intrinsics.scaled_to(width, height) if intrinsics else Intrinsics.from_field_of_view(width, height)
        look = Look(pipeline, self.beginning, started, now, camera, camera_pose)
        with look.timed("perception"):
            tracks = self.frontend(frame, now)
        look.tracked = [track.id for track in tracks]
        look.tracks = [track for track in tracks if track.visible]
        if look.tracks:
            points = np.stack([track.points for track in look.tracks])
            look.seen = self._see(look, frame, points)
            look.cut = lambda rows: self._inputs(frame, points[rows])
        return look

    def _see(self, look: Look, frame: np.ndarray, points: np.ndarray) -> list[SeenLandmarks]:
        """What is seen of each face with MediaPipe's points (F, 478, 3) px: these, and where the bundle has a landmark
        network, what both say together."""
        look.fresh = list(range(len(points)))
        if self._watch is None:
            return [SeenLandmarks.of(face, self._chosen, look.camera) for face in points]
        with look.timed("landmarks"):
            told, look.fresh = self._watch(frame, [track.id for track in look.tracks], points, look.now)
            pairs = zip(points, told, strict=True)
            return [SeenLandmarks.of_both(*pair, self._chosen, look.camera) for pair in pairs]
