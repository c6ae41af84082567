"""A tree of TF frames, and where one is in another at a given time. Knows no node.

tf2's own Python (tf2_ros) waits for what is not there yet; this one answers at once with what it has.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from ofer_models.head.rotations import matrix_from_quaternion
from ofer_models.tracking.pose_filter import CameraPose

KEPT = 10.0  # seconds of a moving frame, as in tf2
AHEAD = 0.1  # seconds beyond the newest that it is taken to go on as it went


class NoTransformError(LookupError):
    """The place of a frame is not known; the text says why, in one line."""


@dataclass(frozen=True)
class Placed:
    """A frame in its parent at a time, s: translation (3,) in metres, quaternion (4,) x, y, z, w of length 1."""

    time: float
    translation: np.ndarray
    quaternion: np.ndarray

    def at(self, other: Placed, time: float) -> Placed:
        """On the way to another place, or beyond it: evenly in a straight line and about one axis."""
        share = (time - self.time) / (other.time - self.time)
        way = share * (other.translation - self.translation)
        return Placed(time, self.translation + way, _slerp(self.quaternion, other.quaternion, share))


class FrameTree:
    """May be written and asked by different threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parents: dict[str, str] = {}
        self._fixed: dict[str, Placed] = {}
        self._moving: dict[str, list[Placed]] = {}  # by time

    def put(self, parent: str, child: str, placed: Placed, static: bool = False) -> None:
        """Note where a frame is. What is not finite, or no rotation, is left out. Older than all that is known of the
        frame: time has begun anew (a bag played again), and what is known goes."""
        length = float(np.linalg.norm(placed.quaternion))
        if not (np.isfinite(placed.translation).all() and 0.5 < length < 2.0):
            return
        placed = Placed(placed.time, placed.translation, placed.quaternion / length)
        with self._lock:
            if self._parents.get(child) != parent:
                self._fixed.pop(child, None)
                self._moving.pop(child, None)
            self._parents[child] = parent
            if static:
                self._fixed[child] = placed
                return
            known = self._moving.setdefault(child, [])
            if known and placed.time < known[-1].time - KEPT:
                known.clear()
            at = bisect_left(known, placed.time, key=lambda one: one.time)
            if at < len(known) and known[at].time == placed.time:
                known[at] = placed
            else:
                known.insert(at, placed)
            while known[0].time < known[-1].time - KEPT:
                del known[0]

    def place(self, child: str, frame: str, time: float) -> CameraPose:
        """Where `child` is in `frame` at a time, s. Raises NoTransformError."""
        with self._lock:
            above = self._above(frame)
            shared = next((name for name in self._above(child) if name in above), None)
            if shared is None:
                raise NoTransformError(f"'{child}' and '{frame}' are not in one tree of frames")
            turn, way = self._within(child, shared, time)
            other_turn, other_way = self._within(frame, shared, time)
        return CameraPose(other_turn.T @ turn, other_turn.T @ (way - other_way))

    def _above(self, name: str) -> list[str]:
        """A frame and all above it, upwards."""
        names = [name]
        while (name := self._parents.get(name, "")) and name not in names:  # a tree, but for broken publishers
            names.append(name)
        return names

    def _within(self, name: str, above: str, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Rotation and translation of a frame in one above it."""
        turn, way = np.eye(3), np.zeros(3)
        while name != above:
            placed = self._fixed.get(name) or self._between(name, time)
            rotation = matrix_from_quaternion(placed.quaternion)
            turn, way = rotation @ turn, rotation @ way + placed.translation
            name = self._parents[name]
        return turn, way

    def _between(self, child: str, time: float) -> Placed:
        known = self._moving[child]
        at = bisect_left(known, time, key=lambda one: one.time)
        if at == len(known):
            return self._beyond(child, known, time)
        if known[at].time == time:
            return known[at]
        if at == 0:
            raise NoTransformError(f"'{child}' is known from {known[0].time - time:.2f} s later on")
        return known[at - 1].at(known[at], time)

    @staticmethod
    def _beyond(child: str, known: list[Placed], time: float) -> Placed:
        """After the newest: on as it went for as long before, which does not make its tremble larger."""
        ahead = time - known[-1].time
        if ahead > AHEAD:
            raise NoTransformError(f"'{child}' was last heard of {ahead:.2f} s earlier")
        earlier = next((one for one in reversed(known) if one.time <= known[-1].time - ahead), None)
        return known[-1] if earlier is None else earlier.at(known[-1], time)


def _slerp(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """The rotation `share` of the way between two, the short way round."""
    cosine = float(first @ second)
    second, cosine = (second, cosine) if cosine >= 0 else (-second, -cosine)
    angle = np.arccos(min(cosine, 1.0))
    if angle < 1e-6:
        return first
    mixed = (np.sin((1 - share) * angle) * first + np.sin(share * angle) * second) / np.sin(angle)
    return mixed / np.linalg.norm(mixed)
