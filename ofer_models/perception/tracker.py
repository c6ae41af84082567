"""Which face is which from frame to frame: ids that survive short losses and crossings.

Each track predicts where its face will be (constant velocity); observations go to tracks by one minimum-cost assignment
over distance, size and the rigid shape of the face.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ofer_models.perception.assignment import assign
from ofer_models.perception.crops import STABLE_POINTS, box_of, frontal_shape, overlap

KEEP_LOST = 1.0  # s for which a face that is not seen keeps its id
_FACE_WIDTH = 2.65  # face width in units of the stable points' spread
_REACH, _REACH_RATE = 0.5, 2.0  # face widths between prediction and observation: at once, more per second unseen
_RESCALE, _RESCALE_RATE = 0.4, 0.5  # the same for the logarithm of the size
_INSIDE = 0.7  # shared part of the smaller box
_VELOCITY_TIME = 0.1  # s, smoothing of the velocity
_COAST_TIME = 1.0  # s, in which an unseen face is taken to slow down
# Mean distance of frontalised stable points: 0.01 (at most 0.025) for one person under roll, blur, light, 0.03 to 0.08
# between people; but up to 0.07 for one person half of whose face is hidden, so it weighs and never forbids.
_SHAPE_SCALE = 0.08
_SHAPE_RATE = 0.1  # weight of a new observation in a track's mean shape


@dataclass(frozen=True)
class Observation:
    """A face in one frame: points (478, 3) px, confidence 0..1."""

    points: np.ndarray
    confidence: float


@dataclass(frozen=True)
class Track:
    """A face over time, as of the last update.

    id: never given twice.  box (4,) xywh and points (478, 3), px, as last seen.  velocity (2,) px/s.
    confidence: 0..1 of the last observation, fading while the face is lost.  age: seconds since first seen.
    visible: whether this frame shows the face.  lost: seconds since one did.
    """

    id: str
    box: np.ndarray
    points: np.ndarray
    velocity: np.ndarray
    confidence: float
    age: float
    lost: float
    visible: bool


class FaceTracker:
    """Keeps the tracks of one camera."""

    def __init__(self, ids: Iterator[str] | None = None) -> None:
        """ids: of new tracks; by default f1, f2, ..."""
        self._tracks: list[_State] = []
        self._stamp = -math.inf
        self._ids = ids or (f"f{number}" for number in itertools.count(1))

    def reset(self) -> None:
        """Forget all tracks; ids go on counting."""
        self._tracks.clear()
        self._stamp = -math.inf

    def update(self, observations: Sequence[Observation], stamp: float) -> list[Track]:
        """All tracks, oldest first, after a frame at `stamp` (seconds) that shows `observations`.

        A repeated or slightly older stamp counts as the newest one seen; one that is older by more than KEEP_LOST is
        taken as a new beginning (a bag played again, a clock set back).  Raises ValueError if the stamp is not finite.
        """
        if not math.isfinite(stamp):
            raise ValueError(f"a frame needs a finite stamp in seconds, got {stamp}")
        if stamp < self._stamp - KEEP_LOST:
            self.reset()
        self._stamp = now = max(stamp, self._stamp)
        self._tracks = [track for track in self._tracks if now - track.seen <= KEEP_LOST]

        faces = [_Face.of(observation) for observation in observations]
        cost = np.array([[self._cost(track, face, now) for face in faces] for track in self._tracks])
        pairs = assign(cost.reshape(len(self._tracks), len(faces)))
        for track in self._tracks:
            track.visible = False
        for row, column in pairs:
            self._tracks[row].observe(faces[column], now)
        for column in sorted(set(range(len(faces))) - {column for _, column in pairs}):
            self._tracks.append(_State(next(self._ids), faces[column], now))
        return [track.snapshot(now) for track in self._tracks]

    def _cost(self, track: _State, face: _Face, now: float) -> float:
        """Dissimilarity of a track's prediction and a face; infinite where they cannot be the same."""
        unseen = now - track.seen
        distance = np.linalg.norm(face.centre - track.predicted(now)) / max(face.width, track.face.width)
        rescaled = abs(math.log(face.width / track.face.width))
        apart = (face.shape - track.shape).ravel()
        shape = math.sqrt(float(apart @ apart) / len(face.shape))
        if distance > _REACH + _REACH_RATE * unseen:
            return math.inf
        # A mesh that had shrunk onto the visible half of a face may jump back to the whole of it: those overlap.
        if rescaled > _RESCALE + _RESCALE_RATE * unseen and overlap(face.box, track.face.box) <= _INSIDE:
            return math.inf
        return float(distance + rescaled + shape / _SHAPE_SCALE)


@dataclass(frozen=True)
class _Face:
    """An observation with what is compared.  box (4,) xywh px, centre (2,) px, width px, shape (S, 3): frontalised
    stable points."""

    points: np.ndarray
    confidence: float
    box: np.ndarray
    centre: np.ndarray
    width: float
    shape: np.ndarray

    @classmethod
    def of(cls, seen: Observation) -> _Face:
        stable = seen.points[STABLE_POINTS].astype(np.float64)
        centre = stable.mean(axis=0)
        apart = (stable - centre).ravel()
        width = max(_FACE_WIDTH * math.sqrt(float(apart @ apart) / len(stable)), 1e-3)
        return cls(seen.points, seen.confidence, box_of(seen.points), centre[:2], width, frontal_shape(seen.points))


class _State:
    """A track's memory between frames."""

    def __init__(self, id: str, face: _Face, now: float) -> None:
        self.id = id
        self.face = face
        self.shape = face.shape
        self.velocity = np.zeros(2)
        self.first = self.seen = now
        self.visible = True

    def predicted(self, now: float) -> np.ndarray:
        """(2,) px: expected centre; the velocity fades with the time unseen."""
        return self.face.centre + self.velocity * _COAST_TIME * (1 - math.exp((self.seen - now) / _COAST_TIME))

    def observe(self, face: _Face, now: float) -> None:
        passed = now - self.seen
        if passed > 0:
            gain = 1 - math.exp(-passed / _VELOCITY_TIME)
            self.velocity = self.velocity + gain * ((face.centre - self.face.centre) / passed - self.velocity)
        self.shape = self.shape + _SHAPE_RATE * (face.shape - self.shape)
        self.face = face
        self.seen = now
        self.visible = True

    def snapshot(self, now: float) -> Track:
        lost = now - self.seen
        fade = 1 - lost / KEEP_LOST if lost > 0 else 1.0
        return Track(
            id=self.id,
            box=self.face.box,
            points=self.face.points,
            velocity=self.velocity,
            confidence=self.face.confidence * fade,
            age=now - self.first,
            lost=lost,
            visible=self.visible,
        )
