"""A chosen head moved to the landmarks of the views that it was chosen on.

IdGen's candidates are near to each other where the encoder is unsure, which on photographs is everywhere: people get
one head. The landmarks of a view say more, together with an expression: both are fitted at once (Gauss-Newton, Gaussian
priors about the candidate and the view's expression), and views add up by their quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofer_models.head.model import HeadModel
from ofer_models.perception.head_pose import NoPoseError, estimate_head_pose
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.identity_state import View
from ofer_models.tracking.landmark_system import Pose, System, bounded_solve, free_pose, normal

_ROUNDS = 4
_SHAPE_PRIOR = 0.9  # deviation about the candidate, in each component


@dataclass
class _Fit:
    """A view in the fit: weight among the views, its expression and jaw (E + 3,) with its start, and its pose."""

    view: View
    weight: float
    start: np.ndarray
    place: np.ndarray
    pose: Pose


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
        fits, identity = [], self._head.identity(betas)
        for view, weight in zip(views, weights, strict=True):
            start = np.concatenate([view.expression, view.jaw]).astype(np.float64)
            model = self._system.models(identity, start[None])[0]
            try:
                pose = estimate_head_pose(view.seen.points[self._system.rows], model, view.seen.K)
            except NoPoseError:
                continue
            fits.append(_Fit(view, float(weight), start, start, Pose.of(pose)))
        return fits

    def _step(self, fits: list[_Fit], betas: np.ndarray, shape: np.ndarray | None) -> np.ndarray | None:
        """One round: a new shape (S',) about betas, and every view's expression and pose; None keeps betas' shape."""
        count, current = self._system.shapes, betas if shape is None else self._whole(shape, betas)
        system = np.eye(count) / _SHAPE_PRIOR**2
        right = np.zeros(count) if shape is None else (betas[:count] - shape) / _SHAPE_PRIOR**2
        pending = []
        for fit in fits:
            linear, residual = self._at(fit, current)
            own, cross, off = self._own(fit, linear, residual)
            without = np.linalg.solve(own, cross)
            system = system + fit.weight * (normal(linear.shape, linear.shape, linear.weights) - cross.T @ without)
            right = right + fit.weight * ((residual * linear.weights) @ linear.shape - without.T @ off)
            pending.append((fit, own, cross, off))
        step = np.zeros(count) if shape is None else np.linalg.solve(system, right)
        for fit, own, cross, off in pending:
            self._settle(fit, own, off - cross @ step)
        return None if shape is None else shape + step

    def _whole(self, shape: np.ndarray, betas: np.ndarray) -> np.ndarray:
        return np.concatenate([shape, betas[len(shape) :]]).astype(np.float32)

    def _log_posterior(self, fits: list[_Fit], betas: np.ndarray) -> float:
        """Of betas (S,) with each view's own expression and pose, among heads of the population."""
        total = -0.5 * float(betas @ betas)
        for fit in fits:
            linear, residual = self._at(fit, betas)
            off = fit.place - fit.start
            total -= 0.5 * fit.weight * float(linear.weights @ residual**2 + self._evidence.precision @ off**2)
        return total

    def _at(self, fit: _Fit, betas: np.ndarray) -> tuple[System, np.ndarray]:
        identity = self._head.identity(betas)
        linear = self._system.linear(fit.view.seen, fit.view.visible, identity, fit.place, fit.pose)
        models = self._system.models(identity, fit.place[None])
        return linear, self._system.residuals(fit.view.seen, models, fit.pose)[0]

    def _own(self, fit: _Fit, linear: System, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of expression, jaw and pose (D = E + 9): normal matrix (D, D), products with the shape (D, S'), gradient."""
        precision = np.concatenate([self._evidence.precision, free_pose(0, 0)])
        others = np.concatenate([linear.expression, linear.pose], axis=1)
        pull = np.zeros(others.shape[1])
        pull[: len(fit.place)] = self._evidence.precision * (fit.start - fit.place)
        return (
            normal(others, others, linear.weights) + np.diag(precision),
            normal(others, linear.shape, linear.weights),
            (residual * linear.weights) @ others + pull,
        )

    def _settle(self, fit: _Fit, own: np.ndarray, right: np.ndarray) -> None:
        """Move a view's expression and pose to what the new shape leaves for them."""
        count = len(fit.place)
        place = np.concatenate([fit.place, np.zeros(6)])[None]
        new, step = bounded_solve(own, right[None], place, self._evidence.bounds, self._head.n_expression)
        fit.place = new[0, :count]
        fit.pose = fit.pose.moved(step[0, count:])
