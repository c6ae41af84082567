"""The sets of landmarks that faces are described by, and which of a head's embeddings is compared with pictures."""

from __future__ import annotations

import numpy as np

from ofer_models.head.model import HeadModel, HeadModelError, LandmarkEmbedding

_EMBEDDINGS = ("mediapipe", "landmarks68")  # what a head's landmarks are compared with, the first that it has

N_MEDIAPIPE = 468  # MediaPipe's points without the irises

# iBUG's 68 points by MediaPipe index: contour from the person's right ear to the left, brows, nose, eyes, lips (outer,
# then inner).
LANDMARKS68 = [
    127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
]  # fmt: skip
# The NoW challenge's seven: eye corners from the right outer to the left outer, nose bottom, mouth corners.
NOW7 = [LANDMARKS68[index] for index in (36, 39, 42, 45, 33, 48, 54)]


def check_complete(head: HeadModel) -> None:
    """Raise HeadModelError for a head without what tracking and showing faces takes: points to find its pose by, the 68
    landmarks, and the mask of the face."""
    tracked_landmarks(head)
    points = len(head.embeddings["landmarks68"].triangle) if "landmarks68" in head.embeddings else 0
    if points != len(LANDMARKS68):
        other = f" but {points}" if points else ""
        raise HeadModelError(f"the head model has no 68 landmarks{other}; run `ofer import` again with --landmarks")
    if not len(head.masks.get("face", ())):
        raise HeadModelError("the head model has no mask of the face; run `ofer import` again")


def tracked_landmarks(head: HeadModel) -> tuple[LandmarkEmbedding, np.ndarray]:
    """The head's embedding that MediaPipe's points are compared with, and which of the 468 points (L,) it stands for.

    FLAME has no embedding of all of them, but its 68 landmarks and MediaPipe's points at the same places. Raises
    HeadModelError when the head knows no such points.
    """
    for embedding in (head.embeddings[name] for name in _EMBEDDINGS if name in head.embeddings):
        if embedding.points is not None:
            return embedding, embedding.points
        if len(embedding.triangle) == N_MEDIAPIPE:
            return embedding, np.arange(N_MEDIAPIPE)
    raise HeadModelError(
        "the head model has no landmarks to find its pose by; run `ofer import` again with --landmarks"
    )
