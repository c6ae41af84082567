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
class _Fit:
    """A view in the fit: where its points are seen, how many independent numbers they are, its weight among the views,
    its expression and jaw (E + 3,) with its start, and its pose."""

    pictures: Pictures
    numbers: float
    weight: float
    start: np.ndarray
    place: np.ndarray
    pose: Poses


class IdentityEvidence:
    """Moves head shapes to landmarks, with the expression's evidence as a part of the same system."""

    def __init__(self, head: HeadModel, evidence: LandmarkEvidence) -> None:
        self._head, self._evidence, self._system = head, evidence, evidence.system

    def __call__(
        self, betas: np.ndarray, views: Sequence[View], weights: np.ndarray, incumbent: np.ndarray | None = None,
        starts: Sequence[HeadPose | None] | None = None,
    ) -> tuple[np.ndarray, float]:  # fmt: skip
        """Betas (S,) moved to views whose weights (len(views),) sum to one; and by how much their log posterior on
        these exceeds the incumbent's (S,), infinite without one. Views without a pose say nothing. starts: poses in
        the views of a head near these, where they are known."""
        starts = starts or [None] * len(views)
        fits, width = self._fits(betas, views, weights, starts), 1.0
        shape = betas[: self._system.shapes].astype(np.float64)
        for round_ in range(_ROUNDS):
            systems = self._systems(fits, self._whole(shape, betas))
            if round_:
                width = float(np.clip(width * _unexplained(fits, systems) / _UNEXPLAINED, *_WIDTHS))
            shape = shape + self._step(fits, systems, betas[: len(shape)] - shape, width)
        moved = self._whole(shape, betas)
        if incumbent is None:
            return moved, np.inf
        known = self._fits(incumbent, views, weights, starts)
        for _ in range(_ROUNDS):
            self._step(known, self._systems(known, incumbent))
        width = max(width, 1.0)
        return moved, self._log_posterior(fits, moved, width) - self._log_posterior(known, incumbent, width)

    def _fits(
        self, betas: np.ndarray, views: Sequence[View], weights: np.ndarray, starts: Sequence[HeadPose | None]
    ) -> list[_Fit]:
        """Each view with the pose of this head and the view's expression."""
        fits, resting = [], self._resting(betas)
        for view, weight, near in zip(views, weights, starts, strict=True):
            start = np.concatenate([view.expression, view.jaw]).astype(np.float64)
            model = self._system.models(resting, start[None, None])[0, 0]
            try:
                pose = estimate_head_pose(view.seen.points[self._system.rows], model, view.seen.K, near)
            except NoPoseError:
                continue
            told = _SHARE * self._system.weights(view.seen, view.visible)
            pictures = self._system.pictures([view.seen], told[None])
            numbers = 2 * _SHARE * float(self._system.counts(view.seen, view.visible).sum())
            fits.append(_Fit(pictures, numbers, float(weight), start, start, Poses.of([pose])))
        return fits

    def _step(
        self, fits: list[_Fit], systems: list[Systems], away: np.ndarray | None = None, width: float = 1.0
    ) -> np.ndarray:
        """One round: the shape's step (S',), away (S',) from the mean, and every view's expression and pose; no
        step of the shape without `away`. width: of the prior about the mean."""
        count, precision = self._system.shapes, 1 / (width * _SHAPE_PRIOR**2)
        normal, right, pending = precision * np.eye(count), np.zeros(count), []
        if away is not None:
            right = right + precision * away
        for fit, linear in zip(fits, systems, strict=True):
            products, gradient = linear.normal[0], linear.gradient(linear.off)[0]
            own, cross, off = self._own(fit, products, gradient)
            without = np.linalg.solve(own, cross)
            normal = normal + fit.weight * (products[:count, :count] - cross.T @ without)
            right = right + fit.weight * (gradient[:count] - without.T @ off)
            pending.append((fit, own, cross, off))
        step = np.zeros(count) if away is None else np.linalg.solve(normal, right)
        for fit, own, cross, off in pending:
            self._settle(fit, own, off - cross @ step)
        return step

    def _whole(self, shape: np.ndarray, betas: np.ndarray) -> np.ndarray:
        return np.concatenate([shape, betas[len(shape) :]]).astype(np.float32)

    def _resting(self, betas: np.ndarray) -> RestingLandmarks:
        return self._system.decoder.at_rest([self._head.identity(betas)])

    def _log_posterior(self, fits: list[_Fit], betas: np.ndarray, width: float) -> float:
        """Of betas (S,) with each view's own expression and pose, among heads of width times the population's
        variance."""
        total = -0.5 * float(betas @ betas) / width
        for fit, linear in zip(fits, self._systems(fits, betas), strict=True):
            residual, off = linear.off[0], fit.place - fit.start
            total -= 0.5 * fit.weight * float(residual @ residual + self._evidence.precision @ off**2)
        return total

    def _systems(self, fits: list[_Fit], betas: np.ndarray) -> list[Systems]:
        """Each view's system, of one face, at betas (S,)."""
        resting = self._resting(betas)
        return [self._system.linear(fit.pictures, resting, fit.place[None], fit.pose) for fit in fits]

    def _own(
        self, fit: _Fit, normal: np.ndarray, gradient: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of pose, expression and jaw (D = 6 + E + 3): normal matrix (D, D), products with the shape (D, S'), gradient
        (D,), with their priors."""
        count, precision = self._system.shapes, self._evidence.precision
        prior = np.concatenate([free_pose(0, 0), precision])
        pull = np.concatenate([np.zeros(6), precision * (fit.start - fit.place)])
        return normal[count:, count:] + np.diag(prior), normal[count:, :count], gradient[count:] + pull

    def _settle(self, fit: _Fit, own: np.ndarray, right: np.ndarray) -> None:
        """Move a view's pose and expression to what the new shape leaves for them."""
        place = np.concatenate([np.zeros(6), fit.place])
        new, step = bounded_solve(
            own[None], right[None], place[None], self._evidence.bounds, slice(6, 6 + self._head.n_expression)
        )
        fit.place, fit.pose = new[0, 6:], fit.pose.moved(step[:, :6])


def _unexplained(fits: list[_Fit], systems: list[Systems]) -> float:
    """What landmarks are off in their systems, in parts of their variance; 1 where no view says anything."""
    off = sum(fit.weight * float(linear.off[0] @ linear.off[0]) for fit, linear in zip(fits, systems, strict=True))
    numbers = sum(fit.weight * fit.numbers for fit in fits)
    return off / numbers if numbers else 1.0
