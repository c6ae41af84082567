"""The sets of landmarks that faces are described by, and which of a head's embeddings is compared with pictures."""

from __future__ import annotations

import numpy as np

from ofer_models.head.model import LEFT_EYE, RIGHT_EYE, HeadModel, HeadModelError, LandmarkEmbedding

# What a head's landmarks are compared with, the first that it has: where MediaPipe means its points on people (under
# brows of hair it is lower than on the plain head, and along the nose), on the plain head, and the 68.
ON_PEOPLE = "mediapipe_on_people"
_EMBEDDINGS = (ON_PEOPLE, "mediapipe", "landmarks68")

N_MEDIAPIPE = 468  # MediaPipe's points without the irises
N_WITH_IRISES = 478
IRISES = (468, 473)  # the centres of the right and of the left one
UPPER_LIDS, LOWER_LIDS = (159, 386), (145, 374)  # the middles of their edges, likewise
INNER_CORNERS, OUTER_CORNERS = (133, 362), (33, 263)  # of the eyes

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


def landmarks_on_people(head: HeadModel, vertices: np.ndarray) -> np.ndarray:
    """The 68 landmarks (..., 68, 3) of vertices (..., V, 3), where they lie on people if the head knows it."""
    if ON_PEOPLE in head.embeddings:
        return head.landmarks(vertices, ON_PEOPLE)[..., LANDMARKS68, :]
    return head.landmarks(vertices, "landmarks68")


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
    """The head's embedding that MediaPipe's points are compared with, and which of them (L,) it stands for.

    FLAME has no embedding of all of them, but its 68 landmarks and MediaPipe's points at the same places. Where
    expressions turn a head's eyes, the centres of MediaPipe's irises come last. Raises HeadModelError when the head
    knows no such points.
    """
    for embedding in (head.embeddings[name] for name in _EMBEDDINGS if name in head.embeddings):
        if embedding.points is not None:
            return embedding, embedding.points
        if len(embedding.triangle) == N_MEDIAPIPE:
            irises = _irises(head) if any(name.startswith("eyeLook") for name in head.expression_names) else None
            if irises is None:
                return embedding, np.arange(N_MEDIAPIPE)
            both = (np.concatenate(pair) for pair in zip((embedding.triangle, embedding.bary), irises, strict=True))
            return LandmarkEmbedding(*both), np.r_[:N_MEDIAPIPE, IRISES]
    raise HeadModelError(
        "the head model has no landmarks to find its pose by; run `ofer import` again with --landmarks"
    )


def _irises(head: HeadModel) -> tuple[np.ndarray, np.ndarray] | None:
    """Triangles (2,) and barycentric coordinates (2, 3) of the points in which the right and the left eyeball look
    straight ahead: before the joints that they turn about. None for a head without eyeballs."""
    known = all(name in head.masks for name in ("right_eye", "left_eye"))
    if not known or len(head.parents) <= max(RIGHT_EYE, LEFT_EYE):
        return None
    vertices, joints = head.v_template, head.joint_regressor @ head.v_template
    found = []
    for joint, name in ((RIGHT_EYE, "right_eye"), (LEFT_EYE, "left_eye")):
        numbers = np.flatnonzero(np.isin(head.faces, head.masks[name]).all(1))
        corners = vertices[head.faces[numbers]]  # (F, 3, 3)
        edges = np.concatenate([corners[..., :2], np.ones((*corners.shape[:2], 1))], axis=-1).swapaxes(1, 2)
        usable = np.abs(np.linalg.det(edges)) > 1e-12
        if not usable.any():
            return None
        bary = np.linalg.solve(edges[usable], np.array([*joints[joint, :2], 1.0])[None, :, None])[..., 0]
        depth = np.where((bary > -1e-6).all(1), np.einsum("fk,fk->f", bary, corners[usable][..., 2]), -np.inf)
        if not np.isfinite(depth).any():
            return None
        front = int(depth.argmax())
        found.append((numbers[usable][front], bary[front].astype(np.float32)))
    triangles, coordinates = zip(*found, strict=True)
    return np.array(triangles), np.stack(coordinates)
