"""A bundle's landmark network looks at a followed face in every other frame; between, what it has corrected of
MediaPipe's points goes along with the face.

MediaPipe sees every frame and with it every movement. What the network says differently changes slowly: where this
person's points lie, what is hidden, how sure that is. Where a face moves within itself, as in a blink, the network
looks at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.perception.landmark_crop import crop_map, cut
from ofer_models.perception.point_fusion import LandmarkNetwork, PointEstimate, look_at

_LONGEST = 0.1  # s between frames, up to which anything is carried from one to the next
_INNER = np.array(LANDMARKS68[17:])  # brows, nose, eyes and lips
_STILL = 0.6  # px of the crop that these move within a face (root mean square), up to which it holds still


@dataclass(frozen=True)
class _Told:
    """What the network said of a face in frame number `frame` at `stamp`: MediaPipe's points (478, 2) then, and the
    network's with their deviations, in px of the crop."""

    frame: int
    stamp: float
    mediapipe: np.ndarray
    own: PointEstimate


class LandmarkWatch:
    """What a landmark network says of the faces of one camera, frame after frame."""

    def __init__(self, network: LandmarkNetwork) -> None:
        self._network = network
        self.reset()

    def reset(self) -> None:
        """Forget all faces."""
        self._told: dict[str, _Told] = {}
        self._frame = 0

    def __call__(
        self, rgb: np.ndarray, ids: Sequence[str], points: np.ndarray, stamp: float
    ) -> tuple[list[PointEstimate], list[int]]:
        """Of faces that MediaPipe sees at points (F, 478, >= 2) px of a frame (H, W, 3) uint8 at `stamp` (seconds):
        what the network says of each, and of which of them it says so now and not in the frame before. ids: of their
        tracks."""
        self._frame += 1
        maps = [crop_map(face) for face in points]
        placed = [face[:, :2] @ to_crop[:, :2].T + to_crop[:, 2] for face, to_crop in zip(points, maps, strict=True)]
        due = [row for row, id in enumerate(ids) if self._is_due(id, placed[row], stamp)]
        waiting = [row for row in range(len(ids)) if row not in due]
        due += waiting[len(ids) - len(ids) // 2 :]  # so that not all come again in the same frame
        fresh: dict[int, _Told] = {}
        if due:
            seen = look_at(self._network, np.stack([cut(rgb, maps[row]) for row in due]))
            fresh = {row: _Told(self._frame, stamp, placed[row], own) for row, own in zip(due, seen, strict=True)}
        told = [fresh.get(row) or self._told[id] for row, id in enumerate(ids)]
        self._told = dict(zip(ids, told, strict=True))
        moved = [
            replace(one.own, points=one.own.points + (now - one.mediapipe)).in_picture(to_crop)
            for one, now, to_crop in zip(told, placed, maps, strict=True)
        ]
        return moved, due

    def _is_due(self, id: str, placed: np.ndarray, stamp: float) -> bool:
        """Whether the network has to look at a face whose points MediaPipe places at `placed` (478, 2) of its crop."""
        told = self._told.get(id)
        if told is None or told.frame != self._frame - 1 or not 0 < stamp - told.stamp <= _LONGEST:
            return True
        moved = (placed[_INNER] - told.mediapipe[_INNER]).ravel()
        return float(moved @ moved) > len(_INNER) * _STILL**2
