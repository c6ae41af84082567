"""The acceptance figures themselves, on stages that know the truth, or know how wrong they are."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from test_train import HEAD, NAMES, random_pictures

from ofer_models.workshop.measure.open545 import held_out
from ofer_models.workshop.measure.open545.held_out import expression_errors, identity_errors, unpack

PICTURES = random_pictures(23, 4)  # more than one batch
PICTURES.occlusion[:8] = 0
SHIFTS = np.array([0.5, -1.0, 2.0, 0.0, -3.0], np.float32)  # of the first component, by candidate


@dataclass(frozen=True)
class _Expgen:
    shift: float
    n_coefficients: int = len(NAMES) + 3

    def __call__(self, context: np.ndarray, noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        drawn = np.repeat(context[:, None], noise.shape[1], axis=1)
        drawn[..., 0] += self.shift
        drawn[:, 0, 1] -= self.shift
        return drawn


class Oracle:
    """Stages that give shifted truth; asked in the order of the pictures, as the evaluation does."""

    def __init__(self, rank_best: bool = True, shift: float = 0.0) -> None:
        self.rank_best = rank_best
        self.rows = iter(range(len(PICTURES)))
        self.expgen = _Expgen(shift)

    def identity_context(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return {"context": self._truth(PICTURES.betas, len(inputs["landmarks"]))}

    def expression_context(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return {"context": self._truth(PICTURES.coefficients, len(inputs["landmarks"]))}

    def _truth(self, values: np.ndarray, count: int) -> np.ndarray:
        return values[[next(self.rows) for _ in range(count)]]

    def idgen(self, context: np.ndarray, noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        drawn = np.repeat(context[:, None], len(SHIFTS), axis=1)
        drawn[..., 0] += SHIFTS
        return drawn

    def idrank(self, betas: np.ndarray, context: np.ndarray) -> dict[str, np.ndarray]:
        far = np.abs(betas[..., 0] - context[:, None, 0])
        return {"score": -far if self.rank_best else far}


def bundle(**changes: object) -> SimpleNamespace:
    defaults = {"head": HEAD, "candidates": len(SHIFTS), "hypotheses": 4, "expression_range": None, "jaw_scale": 1.0}
    return SimpleNamespace(**(defaults | changes))


def measure(monkeypatch, figure, oracle: Oracle, **changes: object):
    monkeypatch.setattr(held_out, "StageSet", lambda *_, **__: oracle)
    return figure(bundle(**changes), PICTURES)


def shift_error(amount: float) -> float:
    """Median distance in mm that `amount` of the first component moves a frontal vertex, mean movement taken out."""
    direction = HEAD.shapedirs[HEAD.masks["frontal"], :, 0]
    return float(np.median(1000 * abs(amount) * np.linalg.norm(direction - direction.mean(0), axis=1)))


def test_identity_figures_of_a_perfect_ranking(monkeypatch):
    figures = measure(monkeypatch, identity_errors, Oracle())
    assert figures.selected == pytest.approx(0, abs=1e-3) and figures.ratio == pytest.approx(0, abs=1e-3)
    assert figures.candidates_best == pytest.approx(0, abs=1e-3) and figures.rank_gap_closed == pytest.approx(
        1, abs=1e-3
    )
    assert figures.candidates_average == pytest.approx(shift_error(np.abs(SHIFTS).mean()), rel=1e-3)
    assert figures.candidates_mean == pytest.approx(shift_error(SHIFTS.mean()), rel=1e-3)
    frontal = HEAD.masks["frontal"]
    apart = HEAD.decode(PICTURES.betas)[:, frontal] - HEAD.v_template[frontal]
    expected = np.median(1000 * np.linalg.norm(apart - apart.mean(1, keepdims=True), axis=-1))
    assert figures.mean_head == pytest.approx(expected, rel=1e-3)


def test_identity_figures_of_the_worst_ranking(monkeypatch):
    figures = measure(monkeypatch, identity_errors, Oracle(rank_best=False))
    assert figures.selected == pytest.approx(shift_error(3.0), rel=1e-3)
    assert figures.ratio == pytest.approx(figures.selected / figures.mean_head)
    expected = (np.abs(SHIFTS).mean() - 3.0) / np.abs(SHIFTS).mean()
    assert figures.rank_gap_closed == pytest.approx(expected, rel=1e-2)


def test_expression_figures_of_the_truth(monkeypatch):
    figures = measure(monkeypatch, expression_errors, Oracle())
    assert figures.hypotheses_mean == pytest.approx(0, abs=1e-3) and figures.ratio == pytest.approx(0, abs=1e-3)
    assert figures.neutral > 1 and figures.spread_seen == pytest.approx(0, abs=1e-3)


def test_expression_figures_count_seen_vertices_that_move(monkeypatch):
    """The same figure by plain decoding, picture by picture."""
    figures = measure(monkeypatch, expression_errors, Oracle(shift=0.7))
    face, seen = HEAD.masks["face"], unpack(HEAD, PICTURES.visible)
    errors, still = [], []
    for row in range(len(PICTURES)):
        rest = HEAD.decode(PICTURES.betas[row])
        truth = HEAD.decode(PICTURES.betas[row], PICTURES.expression[row], jaw=PICTURES.jaw[row])
        drawn = np.tile(PICTURES.expression[row], (4, 1))
        drawn[:, 0] += 0.7
        drawn[0, 1] -= 0.7
        mean = HEAD.decode(np.tile(PICTURES.betas[row], (4, 1)), drawn, jaw=np.tile(PICTURES.jaw[row], (4, 1))).mean(0)
        neutral = 1000 * np.linalg.norm(rest - truth, axis=1)[face]
        counted = (neutral > 1) & seen[row, face]
        errors.append(1000 * np.linalg.norm(mean - truth, axis=1)[face][counted])
        still.append(neutral[counted])
    assert figures.hypotheses_mean == pytest.approx(np.median(np.concatenate(errors)), rel=1e-3)
    assert figures.neutral == pytest.approx(np.median(np.concatenate(still)), rel=1e-3)
    assert figures.spread_seen > 0.1


def test_jaws_are_scaled_as_in_the_pipeline(monkeypatch):
    assert measure(monkeypatch, expression_errors, Oracle(), jaw_scale=0.5).hypotheses_mean > 0.05
