"""Hypotheses of Open-545's pictures moved to their landmarks, as the pipeline does where a bundle says so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.landmark_sets import tracked_landmarks
from ofer_models.head.model import Identity
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.landmark_crop import crop_map
from ofer_models.perception.point_fusion import PointEstimate, look_at
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.drifting_noise import hypothesis_noise
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.reprojection import SeenLandmarks, poses_of
from ofer_models.workshop.pictures.camera_effects import SIZE


class Observer:
    """observer(row) -> what the pipeline sees of a picture's face."""

    def __init__(
        self, bundle: Bundle, stages: StageSet, points: np.ndarray, crops: np.ndarray, cameras: np.ndarray
    ) -> None:
        """points (n, 478, 3) px through cameras (n, 3, 3); crops (n, 128, 128, 3): what the bundle's landmark network
        sees, if it has one."""
        self._numbers = tracked_landmarks(bundle.head)[1]
        self._network, self._crops = stages.landmarks, crops
        self._points, self._cameras = points, cameras

    def __call__(self, row: int) -> SeenLandmarks:
        points, own = self._points[row], self.own(row)
        if own is None:
            return SeenLandmarks.of(points, self._numbers, self.camera(row))
        return SeenLandmarks.of_both(points, own, self._numbers, self.camera(row))

    def own(self, row: int) -> PointEstimate | None:
        """What the bundle's landmark network says, in px of the picture; None without one."""
        if self._network is None:
            return None
        (own,) = look_at(self._network, self._crops[row : row + 1])
        return own.in_picture(crop_map(self._points[row]))

    def camera(self, row: int) -> Intrinsics:
        """A picture's camera."""
        return Intrinsics(self._cameras[row], SIZE, SIZE)


class Mover:
    """Moves drawn coefficients of one picture after the other; a bundle without evidence leaves them."""

    def __init__(self, bundle: Bundle, seen: Callable[[int], SeenLandmarks], seed: int) -> None:
        """seen(row): the landmarks of a picture."""
        self._evidence, self._seen = LandmarkEvidence.of(bundle), seen
        self._rng = np.random.default_rng(seed)

    def __call__(self, row: int, visible: np.ndarray | None, identity: Identity, drawn: np.ndarray) -> np.ndarray:
        """Coefficients (K, E + 3) of drawn ones of picture `row` with visible (468,); as drawn without a pose."""
        if self._evidence is None:
            return drawn
        system = self._evidence.system
        seen = self._seen(row)
        resting = system.decoder.at_rest([identity])
        middle = system.models(resting, drawn.mean(0)[None, None])[0]
        (pose,) = poses_of([seen.at(system.rows)], middle, [None])
        if pose is None:
            return drawn
        noise = hypothesis_noise(self._rng, (1, *drawn.shape))
        return self._evidence([seen], [visible], resting, drawn[None], noise, [pose])[0][0]
