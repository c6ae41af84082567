"""When a track draws a new head shape, and which candidate it takes."""

from __future__ import annotations

import numpy as np
import pytest
from test_head_model import HEAD, N_SHAPE

from ofer_models.identity import (
    BETTER,
    FULL_SIZE_PX,
    GOOD_VIEW,
    TrackIdentity,
    choose,
    view_quality,
    wants_new_identity,
)

FRONTAL = np.array([0.0, 0.0, -1.0])


def points(eye_corners_apart: float) -> np.ndarray:
    landmarks = np.zeros((478, 3))
    landmarks[263, 0] = eye_corners_apart
    return landmarks


def held(quality: float, revision: int = 1) -> TrackIdentity:
    return TrackIdentity(HEAD.identity(np.zeros(N_SHAPE)), 0.5, revision, quality)


def test_quality_is_one_for_a_large_bare_frontal_face_and_falls_with_each():
    assert view_quality(points(FULL_SIZE_PX), FRONTAL, 0.0) == pytest.approx(1)
    assert view_quality(points(10 * FULL_SIZE_PX), FRONTAL, 0.0) == pytest.approx(1)
    assert view_quality(points(FULL_SIZE_PX / 2), FRONTAL, 0.0) == pytest.approx(0.5)
    assert view_quality(points(FULL_SIZE_PX), FRONTAL, 0.25) == pytest.approx(0.75)
    turned = [view_quality(points(100), np.array([np.sin(a), 0, -np.cos(a)]), 0.0) for a in np.radians([0, 30, 60, 89])]
    assert (np.diff(turned) < 0).all() and turned[-1] < 0.01
    assert view_quality(points(100), -FRONTAL, 0.0) == 0  # a pose that looks away is no view at all


def test_the_first_view_draws_and_a_good_one_locks():
    assert wants_new_identity(None, 0.0)
    assert not wants_new_identity(held(GOOD_VIEW), 1.0) and held(GOOD_VIEW).locked
    poor = held(0.3)
    assert not poor.locked
    assert not wants_new_identity(poor, 0.3) and not wants_new_identity(poor, 0.3 * BETTER)
    assert wants_new_identity(poor, 0.3 * BETTER + 0.01)


def test_the_highest_score_is_chosen_with_its_softmax_probability():
    rng = np.random.default_rng(0)
    betas, scores = rng.normal(size=(5, N_SHAPE)), np.array([0.1, 3.0, -2.0, 2.9, 0.0])
    first = choose(HEAD, betas, scores, None, 0.2)
    np.testing.assert_allclose(first.identity.betas, betas[1], rtol=1e-6)
    assert first.score == pytest.approx(np.exp(3.0) / np.exp(scores).sum())
    assert (first.revision, first.quality) == (1, 0.2)
    assert choose(HEAD, betas, scores, first, 0.5).revision == 2
    assert choose(HEAD, betas, 1e4 * scores, None, 0.5).score == pytest.approx(1)  # no overflow
