"""Noise that drifts, steady selection, one-euro filters, the spread of hypotheses, and the plan under load."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ofer_models.tracking.drifting_noise import DriftingNoise
from ofer_models.tracking.load_plan import TIERS, LoadPlan
from ofer_models.tracking.one_euro import OneEuroFilter, RotationFilter
from ofer_models.tracking.selection import SMOOTHING, SteadySelection
from ofer_models.tracking.spread import REGIONS, region_rows, spread_mm

# Drifting noise


def noise(seed: int = 0) -> DriftingNoise:
    return DriftingNoise(80, 50, np.random.default_rng(seed))


def test_frozen_noise_stays():
    frozen = noise()
    first = frozen.at(0.0, 0.0).copy()
    for stamp in (0.1, 5.0, 1000.0, -3.0):
        np.testing.assert_array_equal(frozen.at(stamp, 0.0), first)


@pytest.mark.parametrize("frames_a_second", [1, 7, 30])
def test_drift_depends_on_time_and_not_on_the_frame_rate(frames_a_second):
    rate = 0.5
    drifting = noise()
    first = drifting.at(10.0, rate).copy()
    for n in range(1, 2 * frames_a_second + 1):
        last = drifting.at(10.0 + n / frames_a_second, rate)
        if n % frames_a_second == 0:
            assert last.std() == pytest.approx(1, abs=0.05) and abs(last.mean()) < 0.06
            expected = np.exp(-rate * n / frames_a_second)
            assert np.corrcoef(first.ravel(), last.ravel())[0, 1] == pytest.approx(expected, abs=0.06)


def test_drift_waits_while_time_stands_still_and_repeats_with_the_seed():
    drifting, again, other = noise(), noise(), noise(1)
    drifting.at(1.0, 1.0)
    moved = drifting.at(2.0, 1.0).copy()
    np.testing.assert_array_equal(drifting.at(2.0, 1.0), moved)
    np.testing.assert_array_equal(drifting.at(1.5, 1.0), moved)
    again.at(1.0, 1.0)
    np.testing.assert_array_equal(again.at(2.0, 1.0), moved)
    other.at(1.0, 1.0)
    assert np.abs(other.at(2.0, 1.0) - moved).max() > 1


@pytest.mark.parametrize("count", [1, 2, 15])
def test_hypotheses_come_in_opposite_pairs(count):
    drifting = DriftingNoise(count, 50, np.random.default_rng(0))
    for stamp in (0.0, 3.0):
        drawn = drifting.at(stamp, 1.0)
        assert drawn.shape == (count, 50) and drawn.dtype == np.float32
        np.testing.assert_array_equal(drawn[1::2], -drawn[: count - 1 : 2])
    assert len(np.unique(np.abs(drawn[:, 0]))) == (count + 1) // 2


def test_fewer_or_more_hypotheses_leave_the_others_alone():
    drifting = DriftingNoise(7, 50, np.random.default_rng(0))
    first = drifting.at(0.0, 0.0)
    for count in (4, 11):
        drifting.resize(count)
        now = drifting.at(0.0, 0.0)
        assert len(now) == count
        np.testing.assert_array_equal(now[:4], first[:4])
    assert not np.allclose(now[6], first[6])  # it was gone, and is another one


# Selection


def test_the_first_frame_selects_the_heaviest():
    assert SteadySelection()(np.array([-3.0, -1.0, -2.0]), 7.0) == 1


def test_trembling_weights_do_not_make_the_selection_flicker():
    rng = np.random.default_rng(0)
    steady, chosen, plain = SteadySelection(), [], []
    for n in range(300):
        log = np.array([-1.0, -1.02, -1.05, -3.0]) + rng.normal(0, 0.3, 4)
        chosen.append(steady(log, n / 30))
        plain.append(int(log.argmax()))
    assert np.count_nonzero(np.diff(plain)) > 100
    assert np.count_nonzero(np.diff(chosen)) <= 3 and 3 not in chosen[5:]


def test_a_lasting_change_is_followed_within_a_moment():
    steady = SteadySelection()
    for n in range(30):
        assert steady(np.array([-1.0, -2.0]), n / 30) == 0
    taken = next(n for n in range(300) if steady(np.array([-2.0, -1.0]), 1 + n / 30) == 1)
    assert 0.25 * SMOOTHING < taken / 30 < 2 * SMOOTHING


def test_fewer_and_more_hypotheses():
    steady = SteadySelection()
    assert steady(np.array([-1.0, -2.0, -0.1]), 0.0) == 2
    assert steady(np.array([-1.0, -2.0]), 0.1) == 0
    assert steady(np.array([-1.0, -2.0, -0.9]), 0.2) == 0  # no clear gain
    assert steady(np.array([-1.0, -2.0, -0.1, -5.0]), 9.0) == 2


# One-euro filter


def test_the_filter_follows_its_formula():
    """Cutoff = slowest + response * speed, gain = dt / (dt + 1 / (2 pi cutoff)), by hand for two samples."""
    one_euro = OneEuroFilter(1.0, 0.5)
    assert one_euro(np.array([2.0]), 0.0) == 2.0
    passed = 0.1
    speed = passed / (passed + 1 / (2 * np.pi)) * ((3.0 - 2.0) / passed)
    gain = passed / (passed + 1 / (2 * np.pi * (1.0 + 0.5 * speed)))
    assert one_euro(np.array([3.0]), passed)[0] == pytest.approx(2.0 + gain)


@pytest.mark.parametrize("joint", [False, True])
def test_tremble_is_taken_away_at_rest_and_motion_is_followed(joint):
    rng = np.random.default_rng(0)
    one_euro = OneEuroFilter(1.5, 60.0, joint)
    still = np.array([one_euro(np.array([0.1, 0.0, 0.6]) + rng.normal(0, 0.001, 3), n / 30) for n in range(120)])
    assert (still[30:].std(0) < 0.0007).all()
    ramp = [one_euro(np.array([0.1 + 0.5 * n / 30, 0.0, 0.6]), 4 + n / 30)[0] for n in range(30)]
    assert abs(ramp[-1] - (0.1 + 0.5 * 29 / 30)) < 0.01  # 0.5 m/s lags by less than a centimetre


def test_filters_begin_anew_after_a_gap_and_let_repeated_stamps_through():
    one_euro, rotation = OneEuroFilter(1.0, 0.0), RotationFilter(1.0, 0.0)
    turned = cv2.Rodrigues(np.array([0.0, 0.5, 0.0]))[0]
    one_euro(np.zeros(2), 0.0)
    rotation(np.eye(3), 0.0)
    for stamp in (0.0, 5.0, 1.0):
        np.testing.assert_array_equal(one_euro(np.ones(2), stamp), 1)
        np.testing.assert_array_equal(rotation(turned, stamp), turned)
        one_euro(np.zeros(2), stamp)
        rotation(np.eye(3), stamp)


def test_rotations_are_smoothed_as_rotations():
    rng = np.random.default_rng(0)
    rotation, base = RotationFilter(1.5, 10.0), cv2.Rodrigues(np.array([2.9, 0.3, 0.1]))[0]  # near half a turn
    noisy, smooth = [], []
    for n in range(150):
        measured = cv2.Rodrigues(rng.normal(0, 0.01, 3))[0] @ base
        found = rotation(measured, n / 30)
        np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-9)
        noisy.append(np.linalg.norm(cv2.Rodrigues(measured @ base.T)[0]))
        smooth.append(np.linalg.norm(cv2.Rodrigues(found @ base.T)[0]))
    assert np.mean(smooth[30:]) < 0.6 * np.mean(noisy[30:])
    for n in range(30):  # 2 rad/s
        target = cv2.Rodrigues(np.array([0.0, 2 * n / 30, 0.0]))[0] @ base
        found = rotation(target, 5 + n / 30)
    assert np.linalg.norm(cv2.Rodrigues(found @ target.T)[0]) < 0.05


# Spread


def test_spread_is_the_weighted_distance_from_the_mean():
    rng = np.random.default_rng(0)
    hypotheses = rng.normal(0, 0.002, (3, 5, 7, 3))
    weights = rng.dirichlet(np.ones(5), 3)
    found = spread_mm(hypotheses, weights)
    assert found.shape == (3, 7)
    for face in range(3):
        for point in range(7):
            places = hypotheses[face, :, point]
            mean = np.average(places, axis=0, weights=weights[face])
            expected = np.sqrt(np.average(((places - mean) ** 2).sum(1), weights=weights[face]))
            assert found[face, point] == pytest.approx(1000 * expected)
    np.testing.assert_allclose(spread_mm(hypotheses), spread_mm(hypotheses, np.full((3, 5), 0.2)))
    assert spread_mm(np.ones((4, 2, 3)), np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx(0)


def test_regions_are_found_among_the_landmarks_that_a_head_has():
    points = np.array([0, 33, 70, 200, 61])
    rows = region_rows(points)
    assert {name: list(points[found]) for name, found in rows.items()} == {
        "mouth": [0, 61],
        "eyes": [33],
        "brows": [70],
    }
    members = [set(region) for region in REGIONS.values()]
    assert not members[0] & members[1] and not members[1] & members[2] and not members[0] & members[2]


# Load


def run(plan: LoadPlan, latency_of, seconds: float, start: float = 0.0) -> list[int]:
    """Levels after each frame of a stream whose frames take latency_of(tier, now) ms."""
    levels, now = [], start
    while now < start + seconds:
        latency = latency_of(plan.tier, now)
        now += max(latency / 1000, 1 / 30)
        plan.measured(latency, now)
        levels.append(plan.level)
    return levels


def cost(full: float):
    """Milliseconds of a frame whose work is proportional to steps and hypotheses."""
    return lambda tier, now=0.0: full * tier.steps * tier.hypotheses * (0.7 if tier.alternate else 1.0)


def test_nothing_is_given_up_while_there_is_time_or_no_bound():
    assert set(run(LoadPlan(80.0), cost(60), 20)) == {0}
    assert set(run(LoadPlan(), cost(500), 20)) == {0}


def test_a_few_slow_frames_are_no_load():
    assert set(run(LoadPlan(80.0), lambda tier, now: 300.0 if now % 2 < 0.03 else 30.0, 20)) == {0}


@pytest.mark.parametrize(("full", "level"), [(100, 1), (150, 2), (250, 3), (500, 4), (700, 5)])
def test_as_much_as_needed_is_given_up_in_order(full, level):
    levels = run(LoadPlan(80.0), cost(full), 8)
    assert levels[-1] == level and cost(full)(TIERS[level]) <= 80
    assert set(np.diff(levels)) <= {0, 1}


def test_too_much_work_stays_at_the_last_tier():
    assert run(LoadPlan(80.0), cost(5000), 60)[-1] == len(TIERS) - 1


def test_tiers_of_fewer_steps_are_left_out_where_these_are_fixed():
    plan, heavy = LoadPlan(80.0), [200.0] * 40
    plan.fixed_steps = True
    downward = list(dict.fromkeys(plan.measured(ms, i / 30).name for i, ms in enumerate(heavy)))
    assert downward == ["full", "fewer hypotheses", "few hypotheses", "every other frame"]
    upward = list(dict.fromkeys(plan.measured(10.0, 10 + i / 30).name for i in range(3000)))
    assert upward == downward[::-1]


def test_everything_comes_back_when_there_is_time_again():
    plan = LoadPlan(80.0)
    assert run(plan, cost(500), 10)[-1] == 4
    levels = run(plan, cost(20), 40, start=10)
    assert levels[-1] == 0 and set(np.diff(levels)) <= {0, -1}


def test_it_does_not_swing_between_tiers():
    """There is room at tier 2 but none at tier 1: coming back is tried more and more rarely."""
    plan = LoadPlan(80.0)
    latency = lambda tier, now: 100.0 if tier.steps > 0.5 else 45.0  # noqa: E731
    levels = np.array(run(plan, latency, 300))
    returns = np.flatnonzero(np.diff(levels) < 0)
    assert len(returns) < 12 and np.mean(levels == 2) > 0.9


def test_the_tiers_give_up_steps_then_hypotheses_then_frames():
    assert (TIERS[0].steps, TIERS[0].hypotheses, TIERS[0].alternate) == (1, 1, False)
    work = [(tier.alternate, -tier.hypotheses, -tier.steps) for tier in TIERS]
    assert work == sorted(work) and len({tier.name for tier in TIERS}) == len(TIERS)
