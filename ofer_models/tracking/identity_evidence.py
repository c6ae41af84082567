"""Candidates' mean moved to the landmarks of the views that they were drawn on.

IdGen's candidates are near to each other where the encoder is unsure, which on photographs is everywhere: people get
one head. The landmarks of a view say more, together with an expression: both are fitted at once (Gauss-Newton, Gaussian
priors about the candidates' mean and the view's expression), and views add up by their quality.

How far a head may move is told by what it leaves unexplained (discrepancy principle, Morozov 1966): the prior about the
mean is widened until the landmarks are off by what they are unsure of. People are more varied than the heads that the
candidates were learned from, renderings of these are not. It is not narrowed: of two pictures of a person, the one
without much of an expression would hold the head back and the other not.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ofer_models.head.decoders import RestingLandmarks
from ofer_models.head.model import HeadModel
from ofer_models.perception.head_pose import HeadPose, NoPoseError, estimate_head_pose
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.identity_state import View
from ofer_models.tracking.landmark_system import Pictures, Poses, Systems, bounded_solve, free_pose

_ROUNDS = 6
# What points count here of what they count for an expression: where a network sees them too high in every picture of a
# person, the head would take it over.
_SHARE = 0.25
_SHAPE_PRIOR = 0.9  # deviation about the candidates' mean, in each component, at first
_WIDTHS = (1.5, 4.0)  # least and greatest variance, in parts of that
_UNEXPLAINED = 0.5  # of the landmarks' variance: what the right head leaves, of which the fit itself takes a part


@dataclass
class _Fits:
    """F views in the fit: where their points are seen, how many independent numbers (F,) these are, what each counts
    (F,), expressions and jaws place (F, E + 3) with their start, and poses."""

    pictures: Pictures
    numbers: np.ndarray
    weights: np.ndarray
    start: np.ndarray
    place: np.ndarray
    poses: Poses


class IdentityEvidence:
    """Moves head shapes to landmarks, with the expression's evidence as a part of the same system."""

    def __init__(self, head: HeadModel, evidence: LandmarkEvidence) -> None:
        self._head, self._evidence, self._system = head, evidence, evidence.system
        self._prior = np.concatenate([free_pose(0, 0), evidence.precision])  # of poses, expressions and jaws

    def __call__(
        self, betas: np.ndarray, views: Sequence[View], weights: np.ndarray, incumbent: np.ndarray | None = None,
        starts: Sequence[HeadPose | None] | None = None,
    ) -> tuple[np.ndarray, float]:  # fmt: skip
        """Betas (S,) moved to views whose weights (len(views),) sum to one; and by how much their log posterior on
        these exceeds the incumbent's (S,), infinite without one. Views without a pose say nothing, and where none has
        one, nothing moves. starts: poses in the views of a head near these, where they are known."""
        starts = starts or [None] * len(views)
        fits, width = self._fits(betas, views, weights, starts), 1.0
        if fits is None:
            return betas, np.inf if incumbent is None else 0.0
        shape = betas[: self._system.shapes].astype(np.float64)
        for round_ in range(_ROUNDS):
            systems = self._systems(fits, self._whole(shape, betas))
            if round_:
                width = float(np.clip(width * _unexplained(fits, systems) / _UNEXPLAINED, *_WIDTHS))
            shape = shape + self._step(fits, systems, betas[: len(shape)] - shape, width)
        moved = self._whole(shape, betas)
        known = None if incumbent is None else self._fits(incumbent, views, weights, starts)
        if known is None:
            return moved, np.inf
        for _ in range(_ROUNDS):
            self._step(known, self._systems(known, incumbent))
        width = max(width, 1.0)
        return moved, self._log_posterior(fits, moved, width) - self._log_posterior(known, incumbent, width)

    def _fits(
        self, betas: np.ndarray, views: Sequence[View], weights: np.ndarray, starts: Sequence[HeadPose | None]
    ) -> _Fits | None:
        """The views in which this head has a pose, with that and their own expressions; None where there is none."""
        system, resting = self._system, self._resting(betas)
        place = np.stack([np.concatenate([view.expression, view.jaw]) for view in views]).astype(np.float64)
        poses, rows = [], []
        for row, (view, near) in enumerate(zip(views, starts, strict=True)):
            model = system.models(resting, place[row][None, None])[0, 0]
            with suppress(NoPoseError):
                poses.append(estimate_head_pose(view.seen.points[system.rows], model, view.seen.K, near))
                rows.append(row)
        if not rows:
            return None
        some = [views[row] for row in rows]
        told = _SHARE * np.stack([system.weights(view.seen, view.visible) for view in some])
        numbers = 2 * _SHARE * np.array([system.counts(view.seen, view.visible).sum() for view in some])
        pictures = system.pictures([view.seen for view in some], told)
        return _Fits(pictures, numbers, weights[rows], place[rows], place[rows], Poses.of(poses))

    def _step(
        self, fits: _Fits, systems: Systems, away: np.ndarray | None = None, width: float = 1.0
    ) -> np.ndarray:
        """One round: the shape's step (S',), away (S',) from the mean, and every view's expression and pose; no
        step of the shape without `away`. width: of the prior about the mean."""
        count, precision = self._system.shapes, 1 / (width * _SHAPE_PRIOR**2)
        products, gradient = systems.normal, systems.gradient(systems.off)
        # Of poses, expressions and jaws (D = 6 + E + 3), with their priors, and of those with the shape.
        own, cross = products[:, count:, count:] + np.diag(self._prior), products[:, count:, :count]
        off = gradient[:, count:] + self._prior * np.pad(fits.start - fits.place, ((0, 0), (6, 0)))
        step = np.zeros(count)
        if away is not None:
            without, weights = np.linalg.solve(own, cross), fits.weights
            turned = cross.swapaxes(-1, -2)
            normal = products[:, :count, :count] - turned @ without
            right = gradient[:, :count] - (without.swapaxes(-1, -2) @ off[..., None])[..., 0]
            normal = precision * np.eye(count) + np.tensordot(weights, normal, 1)
            step = np.linalg.solve(normal, precision * away + weights @ right)
        self._settle(fits, own, off - cross @ step)
        return step

    def _whole(self, shape: np.ndarray, betas: np.ndarray) -> np.ndarray:
        return np.concatenate([shape, betas[len(shape) :]]).astype(np.float32)

    def _resting(self, betas: np.ndarray) -> RestingLandmarks:
        return self._system.decoder.at_rest([self._head.identity(betas)])

    def _log_posterior(self, fits: _Fits, betas: np.ndarray, width: float) -> float:
        """Of betas (S,) with each view's own expression and pose, among heads of width times the population's
        variance."""
        seen = _squares(self._systems(fits, betas)) + np.square(fits.place - fits.start) @ self._evidence.precision
        return -0.5 * float(betas @ betas) / width - 0.5 * float(fits.weights @ seen)

    def _systems(self, fits: _Fits, betas: np.ndarray) -> Systems:
        """The views' systems at betas (S,)."""
        resting = self._resting(betas)[np.zeros(len(fits.place), int)]
        return self._system.linear(fits.pictures, resting, fits.place, fits.poses)

    def _settle(self, fits: _Fits, own: np.ndarray, right: np.ndarray) -> None:
        """Move each view's pose and expression to what the new shape leaves for them: own (F, D, D) @ step = right
        (F, D)."""
        place = np.pad(fits.place, ((0, 0), (6, 0)))
        expressions = slice(6, 6 + self._head.n_expression)
        new, step = bounded_solve(own, right, place, self._evidence.bounds, expressions)
        fits.place, fits.poses = new[:, 6:], fits.poses.moved(step[:, :6])


def _squares(systems: Systems) -> np.ndarray:
    """(F,) of what landmarks are off, in parts of their variance."""
    return np.square(systems.off, dtype=np.float64).sum(-1)


def _unexplained(fits: _Fits, systems: Systems) -> float:
    """What landmarks are off in their systems, in parts of their variance; 1 where no view says anything."""
    numbers = float(fits.weights @ fits.numbers)
    return float(fits.weights @ _squares(systems)) / numbers if numbers else 1.0
