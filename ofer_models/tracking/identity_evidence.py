"""A chosen head moved to the landmarks of the views that it was chosen on.

IdGen's candidates are near to each other where the encoder is unsure, which on photographs is everywhere: people get
one head. The landmarks of a view say more, together with an expression: both are fitted at once (Gauss-Newton, Gaussian
priors about the candidate and the view's expression), and views add up by their quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofer_models.head.decoders import RestingLandmarks
from ofer_models.head.model import HeadModel
from ofer_models.perception.head_pose import NoPoseError, estimate_head_pose
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.identity_state import View
from ofer_models.tracking.landmark_system import Poses, Systems, bounded_solve, free_pose

_ROUNDS = 4
# What points count here of what they count for an expression: where a network sees them too high in every picture of a
# person, the head would take it over.
_SHARE = 0.25
_SHAPE_PRIOR = 0.9  # deviation about the candidate, in each component


@dataclass
class _Fit:
    """A view in the fit: weight among the views, its expression and jaw (E + 3,) with its start, and its pose."""

    view: View
    weight: float
    start: np.ndarray
    place: np.ndarray
    pose: Poses


class IdentityEvidence:
    """Moves head shapes to landmarks, with the expression's evidence as a part of the same system."""

    def __init__(self, head: HeadModel, evidence: LandmarkEvidence) -> None:
        self._head, self._evidence, self._system = head, evidence, evidence.system

    def __call__(
        self, betas: np.ndarray, views: Sequence[View], weights: np.ndarray, incumbent: np.ndarray | None = None
    ) -> tuple[np.ndarray, float]:
        """Betas (S,) moved to views whose weights (len(views),) sum to one; and by how much their log posterior on
        these exceeds the incumbent's (S,), infinite without one. Views without a pose say nothing."""
        fits = self._fits(betas, views, weights)
        shape = betas[: self._system.shapes].astype(np.float64)
        for _ in range(_ROUNDS):
            shape = self._step(fits, betas, shape)
        moved = self._whole(shape, betas)
        if incumbent is None:
            return moved, np.inf
        known = self._fits(incumbent, views, weights)
        for _ in range(_ROUNDS):
            self._step(known, incumbent, None)
        return moved, self._log_posterior(fits, moved) - self._log_posterior(known, incumbent)

    def _fits(self, betas: np.ndarray, views: Sequence[View], weights: np.ndarray) -> list[_Fit]:
        """Each view with the pose of this head and the view's expression."""
        fits, resting = [], self._resting(betas)
        for view, weight in zip(views, weights, strict=True):
            start = np.concatenate([view.expression, view.jaw]).astype(np.float64)
            model = self._system.models(resting, start[None, None])[0, 0]
            try:
                pose = estimate_head_pose(view.seen.points[self._system.rows], model, view.seen.K)
            except NoPoseError:
                continue
            fits.append(_Fit(view, float(weight), start, start, Poses.of([pose])))
        return fits

    def _step(self, fits: list[_Fit], betas: np.ndarray, shape: np.ndarray | None) -> np.ndarray | None:
        """One round: a new shape (S',) about betas, and every view's expression and pose; None keeps betas' shape."""
        count, current = self._system.shapes, betas if shape is None else self._whole(shape, betas)
        system = np.eye(count) / _SHAPE_PRIOR**2
        right = np.zeros(count) if shape is None else (betas[:count] - shape) / _SHAPE_PRIOR**2
        pending = []
        for fit in fits:
            linear = self._at(fit, current)
            normal, gradient = linear.normal[0], linear.gradient(linear.off)[0]
            own, cross, off = self._own(fit, normal, gradient)
            without = np.linalg.solve(own, cross)
            system = system + fit.weight * (normal[:count, :count] - cross.T @ without)
            right = right + fit.weight * (gradient[:count] - without.T @ off)
            pending.append((fit, own, cross, off))
        step = np.zeros(count) if shape is None else np.linalg.solve(system, right)
        for fit, own, cross, off in pending:
            self._settle(fit, own, off - cross @ step)
        return None if shape is None else shape + step

    def _whole(self, shape: np.ndarray, betas: np.ndarray) -> np.ndarray:
        return np.concatenate([shape, betas[len(shape) :]]).astype(np.float32)

    def _resting(self, betas: np.ndarray) -> RestingLandmarks:
        return self._system.decoder.at_rest([self._head.identity(betas)])

    def _log_posterior(self, fits: list[_Fit], betas: np.ndarray) -> float:
        """Of betas (S,) with each view's own expression and pose, among heads of the population."""
        total = -0.5 * float(betas @ betas)
        for fit in fits:
            residual, off = self._at(fit, betas).off[0], fit.place - fit.start
            total -= 0.5 * fit.weight * float(residual @ residual + self._evidence.precision @ off**2)
        return total

    def _at(self, fit: _Fit, betas: np.ndarray) -> Systems:
        """A view's system, of one face."""
        weights = _SHARE * self._system.weights(fit.view.seen, fit.view.visible)
        pictures = self._system.pictures([fit.view.seen], weights[None])
        return self._system.linear(pictures, self._resting(betas), fit.place[None], fit.pose)

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
            own[None], right[None, None], place[None, None], self._evidence.bounds,
            slice(6, 6 + self._head.n_expression),
        )  # fmt: skip
        fit.place, fit.pose = new[0, 0, 6:], fit.pose.moved(step[0, :, :6])
