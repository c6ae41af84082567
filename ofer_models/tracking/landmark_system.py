"""A head's landmarks in a picture as a linear system: what expression, jaw, pose and shape move them by.

Residuals and derivatives are in parts of the distance between the eyes. Points are weighed by how well a landmark
network places them on photographs and by whether they are seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ofer_models.head.decoders import LandmarkDecoder
from ofer_models.head.model import HeadModel, Identity, LandmarkEmbedding, rotation_matrices
from ofer_models.perception.head_pose import HeadPose
from ofer_models.perception.intrinsics import project
from ofer_models.tracking.reprojection import SeenLandmarks
from ofer_models.tracking.spread import REGIONS

# Deviation of MediaPipe's points on photographs, and how many independent points all of them together count as: close
# points are wrong together.
DEVIATION, INDEPENDENT = 0.02, 50
SHAPES = 40  # components of the head's shape that are estimated from points
_FEATURE, _CONTOUR, _EVERY = 3.0, 0.3, 3  # weights of mouth, lids and brows, of the outline; one in three of the others
_DOUBTFUL, _CLEAR = 0.62, 0.92  # chance of being seen up to which a point tells nothing, and from which it tells all
_JAW_STEP = 0.05  # rad, of the derivative
# The outline: its points slide along the face as the head turns.
_OUTLINE = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149,
            150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)  # fmt: skip
_FREE_POSE = 1e-6  # what keeps the pose where no point is seen


def point_weights(points: np.ndarray) -> np.ndarray:
    """Weights (L,) of MediaPipe's points with these numbers, 0 for those that are left out: neighbours of others."""
    features = np.concatenate([np.array(members) for members in REGIONS.values()])
    special = np.isin(points, features) | np.isin(points, _OUTLINE)
    kept = np.zeros(len(points))
    others = np.flatnonzero(~special)
    kept[others[::_EVERY]] = _EVERY
    kept[np.isin(points, features)] = _FEATURE
    kept[np.isin(points, _OUTLINE)] = _CONTOUR
    return kept


@dataclass
class Pose:
    """rotation (3, 3) and translation (3,) m of a head before the camera, in a fit."""

    rotation: np.ndarray
    translation: np.ndarray

    @classmethod
    def of(cls, pose: HeadPose) -> Pose:
        return cls(pose.rotation.copy(), pose.translation.copy())

    def moved(self, step: np.ndarray) -> Pose:
        """After a further rotation vector and a shift, step (6,)."""
        return Pose(cv2.Rodrigues(step[:3])[0] @ self.rotation, self.translation + step[3:])


@dataclass(frozen=True)
class System:
    """Derivatives (2 L, columns) float32 of the points by expression and jaw (E + 3 columns), pose (6) and shape
    (SHAPES), and the points' weights (2 L,)."""

    expression: np.ndarray
    pose: np.ndarray
    shape: np.ndarray
    weights: np.ndarray


class LandmarkSystem:
    """Sets up the systems of one head model."""

    def __init__(self, head: HeadModel, embedding: LandmarkEmbedding, points: np.ndarray) -> None:
        """points (L,): MediaPipe's numbers of the embedding's landmarks."""
        weights = point_weights(points)
        self.rows = np.flatnonzero(weights)
        triangle, bary = embedding.triangle[self.rows], embedding.bary[self.rows]
        self._numbers = points[self.rows]
        self._weights = weights[self.rows] * (INDEPENDENT / weights.sum()) / DEVIATION**2
        self._decoder = LandmarkDecoder(head, LandmarkEmbedding(triangle, bary))
        self._n = head.n_expression
        self.shapes = min(SHAPES, head.n_shape)
        # Through the jaw's turn the shape moves points a little differently: of no weight beside what points are off.
        corners = head.shapedirs[head.faces[triangle], :, : self.shapes]
        self._shape = np.einsum("lc,lcxs->lxs", bary, corners)
        plain, turned, self._carried = self._decoder.expression_directions()
        self._plain, self._turned = (np.ascontiguousarray(part.transpose(1, 2, 0)) for part in (plain, turned))

    def weights(self, visible: np.ndarray | None) -> np.ndarray:
        """Weights (2 L,) with the chance (468,) that each of MediaPipe's points is seen; all are without it."""
        if visible is None:
            return np.repeat(self._weights, 2).astype(np.float32)
        trust = np.clip((visible[self._numbers] - _DOUBTFUL) / (_CLEAR - _DOUBTFUL), 0, 1)
        return np.repeat(self._weights * trust, 2).astype(np.float32)

    def models(self, identity: Identity, coefficients: np.ndarray) -> np.ndarray:
        """Landmarks (H, L, 3) m of coefficients (H, E + 3) in the head frame."""
        return self._decoder.of_faces(
            [identity], coefficients[None, :, : self._n], coefficients[None, :, self._n :]
        )[0].astype(np.float64)

    def residuals(self, seen: SeenLandmarks, models: np.ndarray, pose: Pose) -> np.ndarray:
        """(H, 2 L): seen points minus those of models (H, L, 3)."""
        camera = models @ pose.rotation.T + pose.translation
        return ((seen.points[self.rows] - project(camera, seen.K)) / seen.between_eyes).reshape(len(models), -1)

    def linear(
        self, seen: SeenLandmarks, visible: np.ndarray | None, identity: Identity, place: np.ndarray, pose: Pose
    ) -> System:
        """The system at coefficients place (E + 3,) and a pose."""
        n = self._n
        jaws = np.tile(place[n:], (4, 1))
        jaws[1:] += _JAW_STEP * np.eye(3)
        models = self.models(identity, np.concatenate([np.tile(place[:n], (4, 1)), jaws], axis=1))
        turned = models[0] @ pose.rotation.T
        camera = turned + pose.translation
        # What a movement (3,) along the camera's axes does to each point in the picture: (L, 2, 3).
        to_picture = np.zeros((len(camera), 2, 3))
        to_picture[:, [0, 1], [0, 1]] = 1
        to_picture[:, :, 2] = -camera[:, :2] / camera[:, 2:]
        to_picture = seen.K[:2, :2] / seen.between_eyes @ to_picture / camera[:, 2, None, None]
        of_head = (to_picture @ pose.rotation).astype(np.float32)
        expression = np.empty((len(camera), 2, n + 3), np.float32)
        expression[..., :n] = of_head @ self._plain
        turn = rotation_matrices(np.asarray(place[n:], np.float32)) - np.eye(3, dtype=np.float32)
        expression[self._carried, :, :n] += (of_head[self._carried] @ turn) @ self._turned
        expression[..., n:] = of_head @ ((models[1:] - models[0]) / _JAW_STEP).transpose(1, 2, 0).astype(np.float32)
        x, y, z = turned.T
        zero = np.zeros_like(x)
        turns = np.stack([zero, z, -y, -z, zero, x, y, -x, zero], axis=-1).reshape(-1, 3, 3)
        pose_columns = np.concatenate([to_picture @ turns, to_picture], axis=-1).astype(np.float32)
        flat = 2 * len(camera)
        return System(
            expression.reshape(flat, -1), pose_columns.reshape(flat, -1),
            (of_head @ self._shape).reshape(flat, -1), self.weights(visible),
        )  # fmt: skip


def normal(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(A, B) products of derivatives a (2 L, A) and b (2 L, B), weighed."""
    return ((a * weights[:, None]).T @ b).astype(np.float64)


def free_pose(shapes_prior: float, shapes: int) -> np.ndarray:
    """(6 + shapes,) inverse prior variances of pose, nearly free, and of what the head's shape may be off."""
    return np.concatenate([np.full(6, _FREE_POSE), np.full(shapes, shapes_prior)])


def bounded_solve(
    normal: np.ndarray, right: np.ndarray, place: np.ndarray, bounds: tuple[float, float] | None, bounded: int
) -> tuple[np.ndarray, np.ndarray]:
    """New coefficients (H, D) and the steps (H, D) to them: normal (D, D) @ step = right (H, D) from place (H, D).

    The first `bounded` stay within bounds: those whose mean would leave them are put at that end and the others solved
    for once more; what single members exceed is cut off.
    """
    step = np.linalg.solve(normal, right.T).T
    if bounds is None:
        return place + step, step
    low, high = bounds
    middle = (place + step).mean(0)[:bounded]
    held = np.flatnonzero((middle < low) | (middle > high))
    if held.size:
        edge = np.where(middle[held] < low, low, high) - place[:, held]
        free = np.setdiff1d(np.arange(len(normal)), held)
        rest = right[:, free] - edge @ normal[np.ix_(held, free)]
        step[:, held] = edge
        step[:, free] = np.linalg.solve(normal[np.ix_(free, free)], rest.T).T
    new = place + step
    new[:, :bounded] = np.clip(new[:, :bounded], low, high)
    return new, new - place
