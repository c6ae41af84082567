"""A head's pose over time, filtered in a frame that stands still while the camera moves, where that is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofer_models.tracking.one_euro import OneEuroFilter, RotationFilter

_LEAP = 0.05  # of a face's distance, by which it moves in the fixed frame at least where that frame itself has leapt


@dataclass(frozen=True)
class CameraPose:
    """Where a camera is in a frame that does not move: x_fixed = rotation @ x_camera + translation.

    rotation (3, 3), translation (3,) in metres. Camera: optical frame, x right, y down, z forward.
    """

    rotation: np.ndarray
    translation: np.ndarray


class PoseFilter:
    """One-euro filters of a rotation and a translation.

    In the camera's own frame a face that stands still is one that moves as soon as the camera does, and what is
    filtered lags behind it. In a fixed frame it stands still. Where that frame leaps, as a map does that is corrected,
    or comes back after a gap in which the camera has moved, the filters begin anew.
    """

    def __init__(self) -> None:
        self._camera: CameraPose | None = None
        self._seen = self._fixed = np.zeros(3)  # where the face was measured last, before the camera and in that frame
        self._begin()

    def _begin(self) -> None:
        # Slow enough to take the landmarks' tremble away, quick enough to lag by less than a frame in a nod.
        self._rotation = RotationFilter(1.5, 10.0)
        self._translation = OneEuroFilter(1.5, 60.0, joint=True)

    def __call__(
        self, rotation: np.ndarray, translation: np.ndarray, stamp: float, camera: CameraPose | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Filtered rotation (3, 3) and translation (3,) m at `stamp` (seconds), in the camera's frame as those given.

        camera: where it was when it saw this. None: where it was the last time, and if it never was told, anywhere.
        """
        if camera is not None:
            if self._camera is None or self._leapt(translation, camera):  # what was filtered was in another frame
                self._begin()
            self._camera = camera
        if self._camera is None:
            return self._rotation(rotation, stamp), self._translation(translation, stamp)
        turn, place = self._camera.rotation, self._camera.translation
        self._seen, self._fixed = translation, turn @ translation + place
        fixed = self._translation(self._fixed, stamp)
        return turn.T @ self._rotation(turn @ rotation, stamp), turn.T @ (fixed - place)

    def _leapt(self, translation: np.ndarray, camera: CameraPose) -> bool:
        """Whether the face leaps in the fixed frame while it moves much less before the camera: then it is not the
        face that does."""
        fixed = np.linalg.norm(camera.rotation @ translation + camera.translation - self._fixed)
        seen = np.linalg.norm(translation - self._seen)
        return bool(fixed > max(_LEAP * np.linalg.norm(translation), 2 * seen))
