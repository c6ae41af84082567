"""The heads of one camera's tracks as a regressor tells them: averages over each track, by the quality of the views.

Nothing recognises a face that was lost by its shape: a track that ends is forgotten, and the face begins anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ofer_models.head.model import HeadModel, Identity
from ofer_models.tracking.identity_cache import ShownHead
from ofer_models.tracking.identity_state import State
from ofer_models.tracking.shape_blend import ShapeBlend

SETTLED = 5.0  # views of full quality after which a head counts as locked
MOST = 100.0  # that an average weighs at most, so that it follows where a face was told wrongly for a while
_LEAST = 1e-3  # quality of the poorest view: it is better than none


class _Track:
    """A weighted mean of betas (S,), and the head that was made of it last.

    The head is made anew whenever the views have doubled: a few times in all, not in every frame, and never for a
    change that nobody sees.
    """

    def __init__(self, revision: int) -> None:
        self.mean: np.ndarray | None = None
        self.weight, self.since, self.made_at = 0.0, 0.0, 0.0
        self.head: Identity | None = None
        self.revision = revision
        self.blend: ShapeBlend | None = None
        self.visible = True

    def add(self, betas: np.ndarray, quality: float, head: HeadModel) -> None:
        """A view of this quality 0..1 tells these betas (S,)."""
        quality = max(quality, _LEAST)
        self.weight = min(self.weight + quality, MOST)
        self.since += quality
        step = np.float32(quality / self.weight)
        self.mean = betas.copy() if self.mean is None else self.mean + step * (betas - self.mean)
        if self.head is None or self.since >= self.made_at:
            self.head = head.identity(self.mean)
            self.made_at, self.since = self.weight, 0.0
            self.revision += 1

    @property
    def state(self) -> State:
        if not self.visible:
            return State.LOST
        return State.LOCKED if self.weight >= SETTLED else State.GATHERING


class RegressedIdentities:
    """Heads by track id. One thread calls it."""

    failures, failure, trouble = 0, "", ""  # nothing is drawn, so nothing fails

    def __init__(self, head: HeadModel, keep: float) -> None:
        """keep: seconds without a frame after which the pipeline forgets everything."""
        self.keep = keep
        self._head = head
        self._tracks: dict[str, _Track] = {}

    def forget(self) -> None:
        """Drop everything about everybody."""
        self._tracks = {}

    close = forget

    def reset(self, id: str) -> bool:
        """Average anew. False when there is no such track."""
        if id not in self._tracks:
            return False
        self._tracks[id] = _Track(self._tracks[id].revision)
        return True

    def states(self) -> dict[str, State]:
        """What each track's head is at."""
        return {id: track.state for id, track in self._tracks.items()}

    @property
    def remembered(self) -> int:
        """How many faces out of sight are remembered: none beyond their tracks."""
        return 0

    def update(
        self, tracked: Collection[str], views: Mapping[str, tuple[np.ndarray, float]], stamp: float
    ) -> None:
        """After a frame: the ids of all tracks, and betas (S,) and quality 0..1 of those seen in it."""
        self._tracks = {id: track for id, track in self._tracks.items() if id in tracked}
        for track in self._tracks.values():
            track.visible = False
        for id, (betas, quality) in views.items():
            track = self._tracks.setdefault(id, _Track(0))
            track.visible = True
            track.add(betas, quality, self._head)

    def shown(self, id: str, stamp: float) -> ShownHead:
        """The head that a track seen in the last `update` shows at `stamp`. score 0..1: how settled it is."""
        track = self._tracks[id]
        if track.blend is None:
            track.blend = ShapeBlend(track.head.betas)
        elif track.blend.target is not track.head.betas:
            track.blend.to(track.head.betas, stamp)
        betas, part = track.blend.at(stamp)
        identity = track.head if part == 1 else self._head.identity(betas)
        score = track.weight / (track.weight + SETTLED)
        return ShownHead(identity, track.revision, score, part, track.state)
