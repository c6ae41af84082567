"""The identity of one tracked face as a state machine: gathering, locked, reviewed, lost. No networks, no clock.

    GATHERING --(views complete, drawn on them)--> LOCKED <--(draw finished)-- REVIEWED
                                                     └------(clearly better view)-----^
    any --(out of sight)--> LOST --(the same face is back)--> LOCKED, or GATHERING if it never was

Times are stamps of frames in seconds. Who draws, and when the result comes back, is `IdentityCache`'s part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from ofer_models.head.model import Identity
from ofer_models.perception.head_pose import HeadPose
from ofer_models.tracking.reprojection import SeenLandmarks

POOLED = 4  # views that candidates are drawn and ranked on
APART = 0.1  # s between two of them: neighbouring frames say the same
GOOD_VIEW = 0.5  # quality that a view needs to count for locking
RETRY = 1.0  # s until a draw that failed is asked for again
GATHER_TIME = 1.0  # s after which one good view is enough to lock
BETTER = 1.35  # a view must be this much better than the best one in use to ask for another draw


class State(Enum):
    """What a track's identity is at."""

    GATHERING = "gathering"
    LOCKED = "locked"
    REVIEWED = "reviewed"
    LOST = "lost"


@dataclass(frozen=True, eq=False)
class View:
    """A face in one frame, as far as its identity goes.

    quality and occlusion 0..1; context (C,) of the identity encoder; inputs: encoder inputs (1, ...) by name; seen:
    landmarks with the camera, visible (468,) the chance that each of MediaPipe's points is open to sight; expression
    (E,) and jaw (3,), which candidates are compared with the landmarks in; pose: about the head's, of the frame before.
    """

    stamp: float
    quality: float
    context: np.ndarray
    occlusion: float = 0.0
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    seen: SeenLandmarks | None = None
    visible: np.ndarray | None = None
    expression: np.ndarray | None = None
    jaw: np.ndarray | None = None
    pose: HeadPose | None = None


@dataclass(frozen=True, eq=False)
class Chosen:
    """A head shape in use. score: probability 0..1 among the candidates it was chosen from; revision counts up."""

    identity: Identity
    score: float
    revision: int


@dataclass(frozen=True, eq=False)
class Draw:
    """A wish for candidates on some views; incumbent (S,): betas in use, which take part in the ranking. seed: of the
    starting noise, so that the same draw gives the same heads whenever it is done."""

    views: tuple[View, ...]
    incumbent: np.ndarray | None
    seed: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a draw gave: the best candidate and its score 0..1, or None when the incumbent stays."""

    identity: Identity | None
    score: float


class IdentityMachine:
    """State of one face's identity. `seed` makes its draws differ from other faces'; `revision` is counted from."""

    def __init__(self, seed: tuple[int, ...] = (0,), revision: int = 0) -> None:
        self.state = State.GATHERING
        self.chosen: Chosen | None = None
        self.views: list[View] = []  # best first
        self._revision = revision
        self._seed = seed
        self._draws = 0
        self._pending: Draw | None = None
        self._drawn_on: tuple[View, ...] = ()
        self._first = -np.inf  # stamp of the first view
        self._review: View | None = None
        self._before_loss = State.GATHERING
        self.lost_since = np.inf  # stamp
        self._failed = -np.inf  # stamp of the last draw that did

    @property
    def revision(self) -> int:
        """Of the chosen head; before there is one, the number that was given."""
        return self._revision

    @property
    def quality(self) -> float:
        """Of the best view, 0 without one."""
        return self.views[0].quality if self.views else 0.0

    @property
    def reference(self) -> np.ndarray | None:
        """(C,) mean context of the views, by quality: what this face is recognised by."""
        return self._mean([view.context for view in self.views]) if self.views else None

    @property
    def covered(self) -> float:
        """Mean occlusion of the views, by quality."""
        return float(self._mean([view.occlusion for view in self.views])) if self.views else 0.0

    def _mean(self, values: list) -> np.ndarray:
        weights = np.array([max(view.quality, 1e-6) for view in self.views])
        return weights @ np.stack(values) / weights.sum()

    def admits(self, quality: float, stamp: float) -> bool:
        """Whether a view of this quality would be of use, so that it is worth its context."""
        if self.state is State.GATHERING:
            if len(self.views) < POOLED:
                near = [view.quality for view in self.views if abs(stamp - view.stamp) < APART]
                return not near or quality > BETTER * max(near)
            return quality > BETTER * self.views[-1].quality
        return self.state is State.LOCKED and quality > BETTER * self.quality

    def offer(self, view: View) -> None:
        """Take a view that `admits` agreed to."""
        if self.state is State.LOCKED:
            self._review = view
            return
        if not self.views:
            self._first = view.stamp
        apart = [kept for kept in self.views if abs(view.stamp - kept.stamp) >= APART]
        self.views = sorted([*apart, view], key=lambda kept: -kept.quality)[:POOLED]

    def request(self, stamp: float) -> Draw | None:
        """The draw that is wanted now, if any. Until `drawn` or `failed` it is pending, and nothing else is wanted."""
        if self._pending is not None or not self.views or self.state is State.LOST:
            return None
        if 0 <= stamp - self._failed < RETRY:
            return None
        if self.state is State.LOCKED:
            if self._review is None:
                return None
            self.views = [self._review, *self.views[: POOLED - 1]]
            self._review = None
            self.state = State.REVIEWED
            return self._ask()
        if self.state is State.REVIEWED:  # its draw failed
            return self._ask()
        if self._complete(stamp) and self.chosen is not None and set(self.views) <= set(self._drawn_on):
            self.state = State.LOCKED
            return None
        best_drawn = max((view.quality for view in self._drawn_on), default=0.0)
        if self.chosen is None or self._complete(stamp) or self.quality > BETTER * best_drawn:
            return self._ask()
        return None

    def _complete(self, stamp: float) -> bool:
        good = sum(view.quality >= GOOD_VIEW for view in self.views)
        return good >= POOLED or (good > 0 and stamp - self._first >= GATHER_TIME)

    def _ask(self) -> Draw:
        self._draws += 1
        incumbent = None if self.chosen is None else self.chosen.identity.betas
        self._pending = Draw(tuple(self.views), incumbent, (*self._seed, self._draws))
        return self._pending

    def awaits(self, draw: Draw) -> bool:
        """Whether this draw's result would be taken."""
        return draw is self._pending

    def drawn(self, draw: Draw, result: Drawn) -> bool:
        """Take the result of a draw; False when it is not the pending one: lost, reset or forgotten meanwhile."""
        if not self.awaits(draw):
            return False
        self._pending, self._drawn_on = None, draw.views
        if result.identity is not None:
            self._revision += 1
            self.chosen = Chosen(result.identity, result.score, self._revision)
        if self.state is State.REVIEWED:
            self.state = State.LOCKED
        return True

    def failed(self, draw: Draw, stamp: float) -> None:
        """The draw came to nothing: after `RETRY` it will be wanted again."""
        if self.awaits(draw):
            self._pending, self._failed = None, stamp

    def lose(self, stamp: float) -> None:
        """The face is out of sight; a pending draw is given up."""
        if self.state is not State.LOST:
            locked = self.state in (State.LOCKED, State.REVIEWED)
            self._before_loss = State.LOCKED if locked else State.GATHERING
            self.state, self._pending, self._review = State.LOST, None, None
            self.lost_since = stamp

    def find(self, above: int = -1) -> None:
        """The same face is back. above: last revision of the track that it is found on; those never go back."""
        self.state = self._before_loss
        if self._revision <= above:
            self._revision = above + 1
            if self.chosen is not None:
                self.chosen = replace(self.chosen, revision=self._revision)
