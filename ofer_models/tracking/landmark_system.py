"""Heads' landmarks in a picture as linear systems: what expression, jaw, pose and shape move them by.

All arrays are of F faces at once, each with its own camera. Residuals and derivatives are in parts of the distance
between the eyes; points count by `point_weights` and by whether they are seen. Points of one part of the face are wrong
together: residuals are whitened of what a part is off as a whole, so that its opening or its width tells more than its
place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from ofer_models.head.decoders import LandmarkDecoder, RestingLandmarks
from ofer_models.head.landmark_sets import IRISES, UPPER_LIDS
from ofer_models.head.model import HeadModel, rotation_matrices
from ofer_models.perception.head_pose import HeadPose
from ofer_models.perception.intrinsics import project
from ofer_models.tracking.point_weights import WeighedPoints
from ofer_models.tracking.reprojection import SeenLandmarks

INDEPENDENT = 200  # points that all of them but the irises together count as: close points are wrong together
COMMON = 0.03  # deviation of what a part of the face is off as a whole, in parts of the distance between the eyes
SHAPES = 40  # components of the head's shape that are estimated from points
_NARROW = (0.1, 0.25)  # an eye's opening, in parts of its width, up to which its iris tells nothing, and from which all
_DOUBTFUL, _CLEAR = 0.62, 0.92  # chance of being seen up to which a point tells nothing, and from which it tells all
_JAW_STEP = 0.05  # rad, of the derivative
_HOLDINGS = 6  # sets of held coefficients that are tried
_FREE_POSE = 1e-6  # what keeps the pose where no point is seen


@dataclass(frozen=True)
class Poses:
    """rotation (F, 3, 3) and translation (F, 3) m of heads before the camera, in a fit."""

    rotation: np.ndarray
    translation: np.ndarray

    @classmethod
    def of(cls, poses: Sequence[HeadPose]) -> Poses:
        return cls(np.stack([pose.rotation for pose in poses]), np.stack([pose.translation for pose in poses]))

    def moved(self, step: np.ndarray) -> Poses:
        """After further rotation vectors and shifts, step (F, 6)."""
        turns = np.stack([cv2.Rodrigues(turn)[0] for turn in step[:, :3]])
        return Poses(turns @ self.rotation, self.translation + step[:, 3:])

    def place(self, points: np.ndarray) -> np.ndarray:
        """Points (F, H, n, 3) of the heads' frames in the camera's."""
        return points @ self.rotation[:, None].swapaxes(-1, -2) + self.translation[:, None, None]


@dataclass(frozen=True)
class Pictures:
    """Where F faces' points (F, n, 2) are seen, px, their camera matrices K (F, 3, 3), the distances between the eyes
    (F,) px, roots (F, 2 n) float32 of the points' weights, and what parts are off as a whole in each coordinate,
    common (F, n, G) float32."""

    points: np.ndarray
    K: np.ndarray
    between_eyes: np.ndarray
    roots: np.ndarray
    common: np.ndarray

    def whitened(self, rows: np.ndarray) -> np.ndarray:
        """Columns (F, 2 n, ...) times the roots of the points' weights, times that of the inverse covariance."""
        both = rows.reshape(*self.common.shape[:2], -1)  # a point's two coordinates side by side
        return (both - self.common @ (self.common.swapaxes(-1, -2) @ both)).reshape(rows.shape)


@dataclass(frozen=True)
class Systems:
    """Derivatives (F, 2 n, columns) float32 of the points, each times the root of its weight and whitened: by shape
    (SHAPES columns), pose (6), expression and jaw (E + 3); and what is off (F, 2 n) where they were taken, likewise."""

    derivatives: np.ndarray
    off: np.ndarray

    @cached_property
    def normal(self) -> np.ndarray:
        """(F, columns, columns) float64 products of the derivatives."""
        # One by one: of a matrix and itself BLAS works half of the product out.
        return np.stack([columns.T @ columns for columns in self.derivatives]).astype(np.float64)

    def gradient(self, off: np.ndarray) -> np.ndarray:
        """(F, ..., columns) of residuals (F, ..., 2 n), times the roots of their weights."""
        return (np.asarray(off, np.float32).reshape(len(off), -1, off.shape[-1]) @ self.derivatives).reshape(
            *off.shape[:-1], -1
        )


class LandmarkSystem:
    """Sets up the systems of one head model."""

    def __init__(self, head: HeadModel, points: WeighedPoints, parts: np.ndarray | None = None) -> None:
        """parts (G, n): which of the points are off together; none by default."""
        self.rows = points.rows
        self.numbers = points.numbers
        sides = [np.flatnonzero(points.numbers == iris) for iris in IRISES]
        self._iris_rows = np.concatenate(sides)
        self._iris_sides = np.repeat([0, 1], [len(side) for side in sides])
        # Encoders do not tell of irises: what hides an eye's upper lid hides the eye.
        self._judged = points.numbers.copy()
        self._judged[self._iris_rows] = np.array(UPPER_LIDS)[self._iris_sides]
        others = points.weights[~np.isin(points.numbers, IRISES)]
        self._weights = points.weights * (INDEPENDENT / others.sum())
        self._parts = np.zeros((0, len(points.rows))) if parts is None else parts.astype(np.float64)
        self.decoder = LandmarkDecoder(head, points.embedding)
        self._n = head.n_expression
        self.shapes = min(SHAPES, head.n_shape)
        # Through the jaw's turn the shape moves points a little differently: of no weight beside what points are off.
        plain, turned, self._carried = self.decoder.expression_directions()
        of_shape = self.decoder.shape_directions()[: self.shapes]
        self._plain, self._turned, self._shape = (
            np.ascontiguousarray(part.transpose(1, 2, 0)) for part in (plain, turned, of_shape)
        )

    @property
    def others(self) -> int:
        """Columns of shape and pose, which come before those of expression and jaw."""
        return self.shapes + 6

    def counts(self, seen: SeenLandmarks, visible: np.ndarray | None) -> np.ndarray:
        """How many independent points each of a face's landmarks (n,) counts as: by the chance that each of MediaPipe's
        points is seen, of a landmark network where there is one, else the encoder's (468,); all are without either."""
        told = np.ones(len(self._weights))
        if seen.opening is not None:
            told[self._iris_rows] = _ramp(seen.opening, *_NARROW)[self._iris_sides]
        if seen.visible is not None:
            told = np.minimum(told, _ramp(seen.visible[self.numbers], _DOUBTFUL, _CLEAR))
        elif visible is not None:
            told = np.minimum(told, _ramp(visible[self._judged], _DOUBTFUL, _CLEAR))
        return told * self._weights

    def weights(self, seen: SeenLandmarks, visible: np.ndarray | None) -> np.ndarray:
        """Weights (n,) of a face that is seen at all of the embedding's landmarks: what they count as, by their
        variances."""
        sure = seen.deviation[self.rows] if isinstance(seen.deviation, np.ndarray) else seen.deviation
        return self.counts(seen, visible) / np.square(sure)

    def pictures(self, seen: Sequence[SeenLandmarks], weights: np.ndarray) -> Pictures:
        """Of faces seen at all of the embedding's landmarks; weights (F, n) as above."""
        eyes = np.array([face.between_eyes for face in seen])
        roots = np.sqrt(weights)
        # A part's covariance is 1 + d d' with d the common deviation times the roots; the root of its inverse is
        # 1 - u u', where u is d times `shrunk` (Sherman and Morrison 1950).
        apart = COMMON * self._parts * roots[:, None]
        size = np.square(apart).sum(-1, keepdims=True)
        shrunk = np.sqrt((1 - 1 / np.sqrt(1 + size)) / np.maximum(size, 1e-12))
        common = np.ascontiguousarray((shrunk * apart).swapaxes(-1, -2), np.float32)
        points, cameras = np.stack([face.points[self.rows] for face in seen]), np.stack([face.K for face in seen])
        return Pictures(points, cameras, eyes, np.repeat(roots, 2, axis=-1).astype(np.float32), common)

    def models(self, resting: RestingLandmarks, coefficients: np.ndarray) -> np.ndarray:
        """Landmarks (F, H, n, 3) m of coefficients (F, H, E + 3) in the head frame."""
        return self.decoder.moved(resting, coefficients[..., : self._n], coefficients[..., self._n :])

    def residuals(self, pictures: Pictures, models: np.ndarray, poses: Poses) -> np.ndarray:
        """(F, H, 2 n): seen points minus those of models (F, H, n, 3), times the roots of their weights, whitened."""
        apart = pictures.points[:, None] - project(poses.place(models), pictures.K[:, None])
        apart = (apart / pictures.between_eyes[:, None, None, None]).reshape(*models.shape[:2], -1)
        return pictures.whitened((apart * pictures.roots[:, None]).swapaxes(-1, -2)).swapaxes(-1, -2)

    def linear(self, pictures: Pictures, resting: RestingLandmarks, place: np.ndarray, poses: Poses) -> Systems:
        """The systems at coefficients place (F, E + 3) and poses."""
        n, faces = self._n, len(place)
        tried = np.repeat(place[:, None], 4, axis=1)
        tried[:, 1:, n:] += _JAW_STEP * np.eye(3)
        models = self.models(resting, tried)
        turned = models[:, 0] @ poses.rotation.swapaxes(-1, -2)
        camera = turned + poses.translation[:, None]
        roots = pictures.roots.reshape(faces, -1, 2)
        # What a movement (3,) along the camera's axes does to each point in the picture: (F, n, 2, 3).
        to_picture = np.zeros((*camera.shape[:2], 2, 3))
        to_picture[..., [0, 1], [0, 1]] = 1
        to_picture[..., 2] = -camera[..., :2] / camera[..., 2:]
        scale = 1 / (pictures.between_eyes[:, None] * camera[..., 2])
        to_picture = pictures.K[:, None, :2, :2] @ to_picture * (roots * scale[..., None])[..., None]
        of_head = (to_picture @ poses.rotation[:, None]).astype(np.float32)
        result = np.empty((*camera.shape[:2], 2, self.others + n + 3), np.float32)
        result[..., : self.shapes] = of_head @ self._shape
        pose, expression = result[..., self.shapes : self.others], result[..., self.others : self.others + n]
        # The cross product of the turned point and each row.
        x, y, z = (part[..., None] for part in np.moveaxis(turned, -1, 0))
        a, b, c = np.moveaxis(to_picture, -1, 0)
        pose[..., 0], pose[..., 1], pose[..., 2] = y * c - z * b, z * a - x * c, x * b - y * a
        pose[..., 3:] = to_picture
        expression[...] = of_head @ self._plain
        turn = rotation_matrices(np.asarray(place[:, n:], np.float32)) - np.eye(3, dtype=np.float32)
        expression[:, self._carried] += (of_head[:, self._carried] @ turn[:, None]) @ self._turned
        of_jaw = ((models[:, 1:] - models[:, :1]) / _JAW_STEP).transpose(0, 2, 3, 1)
        result[..., self.others + n :] = of_head @ of_jaw
        off = self.residuals(pictures, models[:, :1], poses)[:, 0]
        return Systems(pictures.whitened(result.reshape(faces, 2 * camera.shape[1], -1)), off)


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 up to low, 1 from high, a line between."""
    return np.clip((values - low) / (high - low), 0, 1)


def free_pose(shapes_prior: float, shapes: int) -> np.ndarray:
    """(shapes + 6,) inverse prior variances of what the head's shape may be off, and of the pose, nearly free."""
    return np.concatenate([np.full(shapes, shapes_prior), np.full(6, _FREE_POSE)])


def bounded_solve(
    normal: np.ndarray, right: np.ndarray, place: np.ndarray, bounds: tuple[float, float] | None, bounded: slice
) -> tuple[np.ndarray, np.ndarray]:
    """New coefficients (F, D) and the steps (F, D) to them: normal (F, D, D) @ step = right (F, D) from place, with
    the `bounded` ones within bounds.

    Those that are pushed against an end are held there, and let go when the others, solved for without them, pull them
    back inside (primal-dual active sets, Hintermüller, Ito and Kunisch 2002). So the result changes as little as the
    input does, where holding whatever a first solution exceeds would flip with every trembling of it.
    """
    step = _solve_rows(normal, right)
    if bounds is None:
        return place + step, step
    low, high = bounds
    stiff = np.diagonal(normal, axis1=1, axis2=2)
    at_low, at_high = np.zeros((2, *place.shape), bool)
    for _ in range(_HOLDINGS):
        # What holds a coefficient at its end, as the step that it would take alone.
        pull = (right - _times(normal, step)) / stiff
        below, above = place + step + pull < low, place + step + pull > high
        below[:, : bounded.start or 0] = above[:, : bounded.start or 0] = False
        below[:, bounded.stop :] = above[:, bounded.stop :] = False
        if (below == at_low).all() and (above == at_high).all():
            break
        at_low, at_high = below, above
        held = at_low | at_high
        edge = np.where(held, np.where(at_low, low, high) - place, 0)
        rest = np.where(held, edge, right - _times(normal, edge))
        # Those that are held stand alone: ones on the diagonal, nothing beside it.
        alone = np.where(held[:, :, None] | held[:, None], np.eye(normal.shape[-1]), normal)
        step = _solve_rows(alone, rest)
    new = place + step
    new[:, bounded] = np.clip(new[:, bounded], low, high)
    return new, new - place


def _times(normal: np.ndarray, step: np.ndarray) -> np.ndarray:
    return (normal @ step[..., None])[..., 0]


def _solve_rows(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.linalg.solve(normal, right[..., None])[..., 0]
