"""Hypotheses over time: a still face's trembling is taken away, a blink, a step and speech come through at once."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.data import astronaut

from ofer_models.pipeline import FacePipeline
from ofer_models.tracking import face_poser
from ofer_models.tracking.landmark_system import bounded_solve
from ofer_models.tracking.steady_hypotheses import SteadyHypotheses

RATE = 30
DEVIATION = np.array([0.2, 0.15, 0.02])  # two units and a jaw
SPREAD = np.array([0.0, 0.5, -0.5, 1.2, -1.2])[:, None] * DEVIATION


def filtered(series: np.ndarray, trembling: float, rate: float = RATE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hypotheses (T, 5, 3) about a series (T, 3) whose mean trembles by so many deviations: as they come and after."""
    rng = np.random.default_rng(seed)
    raw = series[:, None] + SPREAD + trembling * DEVIATION * rng.standard_normal((len(series), 1, 3))
    steady = SteadyHypotheses()
    found = [steady(rows.astype(np.float32), DEVIATION, n / rate) for n, rows in enumerate(raw)]
    return raw, np.stack(found)


@pytest.mark.parametrize("trembling", [0.03, 0.05, 0.15])
@pytest.mark.parametrize("rate", [15, 30, 60])
def test_a_still_face_trembles_less_than_half_as_much(trembling, rate):
    raw, found = filtered(np.full((150, 3), 0.3), trembling, rate)
    assert found.dtype == np.float32
    left = found[60:].mean(1).std(0) / raw[60:].mean(1).std(0)
    assert left.mean() < 0.5 and left.max() < 0.8
    np.testing.assert_allclose(found[60:].mean((0, 1)), 0.3, atol=trembling * 0.2 / 2)
    # Hypotheses lie as far apart as they did.
    np.testing.assert_allclose(found[-1] - found[-1].mean(0), SPREAD - SPREAD.mean(0), atol=1e-6)


@pytest.mark.parametrize("trembling", [0.01, 0.05, 0.15])
@pytest.mark.parametrize("begin", [45, 46])
def test_a_blink_of_120_ms_keeps_its_peak_in_its_frame(trembling, begin):
    series = np.full((80, 3), 0.1)
    series[begin : begin + 4, 0] += [0.4, 0.8, 0.8, 0.4]
    raw, found = filtered(series, trembling)
    seen, shown = (rows.mean(1)[:, 0] - 0.1 for rows in (raw, found))
    assert shown[begin + 1 : begin + 3].max() > 0.9 * seen[begin + 1 : begin + 3].max()
    assert abs(int(shown.argmax()) - int(seen.argmax())) <= 1
    assert np.abs(shown[begin + 5 : begin + 9]).max() < 0.15  # and is over when it is over
    assert np.abs(found.mean(1)[begin : begin + 4, 1] - 0.1).max() < 0.06  # what holds still beside it stays


@pytest.mark.parametrize("trembling", [0.01, 0.05, 0.15])
def test_a_step_is_there_in_its_own_frame(trembling):
    series = np.full((90, 3), 0.2)
    series[45:, 1] = 0.7
    _, found = filtered(series, trembling)
    after = found.mean(1)[45:, 1]
    assert 0.9 < (after[0] - 0.2) / 0.5 < 1.1
    np.testing.assert_allclose(after[15:], 0.7, atol=3 * trembling * 0.15)


def test_speech_is_not_flattened_and_does_not_lag():
    """A jaw that moves for four seconds on end is no noise."""
    series = np.full((150, 3), 0.1)
    series[30:, 2] += 0.06 * (1 - np.cos(2 * np.pi * 4 * np.arange(120) / RATE))
    raw, found = (rows.mean(1)[60:, 2] for rows in filtered(series, 0.05))
    raw, found = raw - raw.mean(), found - found.mean()
    assert found @ raw / (raw @ raw) > 0.9
    together = [float((found[5:-5] * np.roll(raw, lag)[5:-5]).sum()) for lag in (-1, 0, 1, 2)]
    assert int(np.argmax(together)) == 1


def test_a_slow_movement_is_followed_within_what_the_noise_hides():
    series = np.full((120, 3), 0.1)
    series[50:, 0] += np.minimum(np.arange(70) / RATE * 0.3, 0.6)
    _, found = filtered(series, 0.05)
    assert np.abs(found.mean(1)[:, 0] - series[:, 0])[50:].max() < 0.09
    assert np.abs(found.mean(1)[-5:, 0] - series[-5:, 0]).max() < 0.03


def test_it_begins_anew_after_a_gap_and_lets_repeated_stamps_through():
    steady, still = SteadyHypotheses(), np.full((5, 3), 0.2, np.float32)
    for n in range(10):
        steady(still, DEVIATION, n / RATE)
    away = (still + 0.02 * DEVIATION).astype(np.float32)
    near = steady(away, DEVIATION, 10 / RATE)
    assert (np.abs(near - still) < 0.7 * (away - still)).all()
    for stamp in (10 / RATE, 10 / RATE + 0.6, 1.0):
        np.testing.assert_array_equal(steady(away, DEVIATION, stamp), away)


def test_fewer_and_more_hypotheses_go_on_with_those_that_stay():
    steady = SteadyHypotheses()
    many = np.arange(15, dtype=np.float32).reshape(5, 3) / 20
    for n in range(10):
        steady(many, DEVIATION, n / RATE)
    few = steady(many[:2], DEVIATION, 10 / RATE)
    np.testing.assert_allclose(few, many[:2], atol=1e-6)
    new = (many + 0.02 * DEVIATION).astype(np.float32)
    found = steady(new, DEVIATION, 11 / RATE)
    assert found.shape == (5, 3)
    assert (np.abs(found - many)[:2] < 0.7 * (new - many)[:2]).all()
    np.testing.assert_allclose(found[2:], new[2:], atol=1e-6)


def test_the_hypotheses_of_a_still_photograph_tremble_less(open_bundle, monkeypatch):
    """Through the whole pipeline, before a camera that adds noise."""
    frame = np.ascontiguousarray(astronaut()[0:280, 90:370])

    def run() -> list[np.ndarray]:
        rng, pipeline, told = np.random.default_rng(0), FacePipeline(open_bundle, candidates=8), []
        for n in range(75):
            noisy = np.clip(frame + rng.normal(0, 2.5, frame.shape), 0, 255).astype(np.uint8)
            (face,) = pipeline(noisy, n / RATE)
            told.append(np.concatenate([face.expressions, face.jaws], axis=1))
        return np.stack(told)[45:]

    steady = run()
    monkeypatch.setattr(face_poser.SteadyHypotheses, "__call__", lambda self, rows, deviation, stamp: rows)
    as_fitted = run()
    before, after = (rows.mean(1).std(0)[:-3].mean() for rows in (as_fitted, steady))
    assert before > 0.004 and after < 0.5 * before
    before, after = (np.diff(rows, axis=0).std((0, 1)).mean() for rows in (as_fitted, steady))
    assert after < 0.5 * before  # each hypothesis from frame to frame as well
    np.testing.assert_allclose(steady.std(1).mean(), as_fitted.std(1).mean(), rtol=0.1)  # as far apart


# The fit beneath, whose result moves no further than its landmarks do


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A system of twelve coefficients that lean on each other, from a place near their ends."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(30, 12)) + 2 * rng.normal(size=(30, 1))
    return (rows.T @ rows)[None], rng.normal(0, 30, (1, 12)), rng.uniform(0, 0.2, (1, 12))


@pytest.mark.parametrize("seed", range(12))
def test_a_bounded_solution_is_the_best_within_its_bounds(seed):
    normal, right, place = problem(seed)
    new, step = bounded_solve(normal, right, place, (0.0, 1.0), slice(2, 10))
    np.testing.assert_allclose(new, place + step)
    assert new[0, 2:10].min() >= 0 and new[0, 2:10].max() <= 1
    slope = (normal[0] @ step[0] - right[0]) / np.diag(normal[0])
    low, high = np.zeros(12, bool), np.zeros(12, bool)
    low[2:10], high[2:10] = new[0, 2:10] == 0, new[0, 2:10] == 1
    assert (low | high).any()
    np.testing.assert_allclose(slope[~(low | high)], 0, atol=1e-9)
    assert (slope[low] >= -1e-9).all() and (slope[high] <= 1e-9).all()  # nothing is held that would come back


def test_a_little_more_gives_a_little_more_also_where_coefficients_come_to_their_ends():
    normal, right, place = problem(3)
    ways = np.linspace(0.5, 1.5, 400)[:, None] * right
    found = np.concatenate([bounded_solve(normal, one[None], place, (0.0, 1.0), slice(0, 12))[0] for one in ways])
    assert 0 < np.abs(np.diff(found, axis=0)).max() < 0.05
