"""Which head shape a track has: candidates are drawn and ranked on its best view, and the chosen one is kept.

A view's quality grows with the face's size, its frontality and its uncovered share. The first view gives a first
identity, so that there is a mesh from the first frame on; a clearly better view replaces it, until a view is good
enough to lock. After that nothing is drawn again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofer_models.agreement import softmax
from ofer_models.head.model import HeadModel, Identity

GOOD_VIEW = 0.6  # quality at which the identity is locked
BETTER = 1.35  # a new view must be this much better than the one in use
FULL_SIZE_PX = 45.0  # distance between the outer eye corners from which a face counts as large


@dataclass
class TrackIdentity:
    """The identity in use, the rank network's score of it, how often it changed, and the quality of its view."""

    identity: Identity
    score: float
    revision: int
    quality: float

    @property
    def locked(self) -> bool:
        return self.quality >= GOOD_VIEW


def view_quality(points: np.ndarray, frontal: np.ndarray, occlusion: float) -> float:
    """Quality in 0..1 of a view: points (478, >=2) px, frontal (3,) the face's direction in the camera frame,
    occlusion 0..1.
    """
    size = min(1.0, float(np.linalg.norm(points[263, :2] - points[33, :2])) / FULL_SIZE_PX)
    facing = max(0.0, -float(frontal[2]))
    return size * facing**2 * (1 - occlusion)


def wants_new_identity(current: TrackIdentity | None, quality: float) -> bool:
    """Whether a view of this quality should draw candidates."""
    return current is None or (not current.locked and quality > BETTER * current.quality)


def choose(
    head: HeadModel, betas: np.ndarray, scores: np.ndarray, current: TrackIdentity | None, quality: float
) -> TrackIdentity:
    """The best scored of candidates betas (N, S), scores (N,), as next identity; score is its softmax probability."""
    best = int(scores.argmax())
    revision = 1 if current is None else current.revision + 1
    return TrackIdentity(head.identity(betas[best]), float(softmax(scores)[best]), revision, quality)
