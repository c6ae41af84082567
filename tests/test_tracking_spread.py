"""How far hypotheses lie apart: weighed, by region, and not known where nothing tells it."""

from __future__ import annotations

import numpy as np

from ofer_models.head.landmark_sets import tracked_landmarks
from ofer_models.head.model import LandmarkEmbedding
from ofer_models.tracking.face_poser import FacePoser
from ofer_models.tracking.spread import REGIONS, spread_mm


def test_weights_say_what_repeated_hypotheses_would():
    """A hypothesis of weight 3/4 beside one of 1/4 is three times the one beside the other."""
    rng = np.random.default_rng(0)
    two = rng.normal(0, 0.003, (2, 7, 3))
    repeated = two[[0, 0, 0, 1]]
    np.testing.assert_allclose(spread_mm(two, np.array([0.75, 0.25])), spread_mm(repeated), rtol=1e-6)
    np.testing.assert_allclose(spread_mm(np.stack([two, two]), np.array([0.75, 0.25]))[1], spread_mm(repeated))
    assert spread_mm(two, np.array([1.0, 0.0])).max() < 1e-9, "all the weight is on one: that is certainty"


def test_a_region_without_landmarks_of_the_head_has_no_spread_and_the_others_have_their_own(open_head):
    embedding, points = tracked_landmarks(open_head)
    rows = np.flatnonzero(~np.isin(points, REGIONS["brows"]))
    poser = FacePoser(open_head, LandmarkEmbedding(embedding.triangle[rows], embedding.bary[rows]), points[rows])
    models = np.random.default_rng(1).normal(0, 0.002, (2, 5, len(rows), 3))
    weights = np.array([[0.6, 0.1, 0.1, 0.1, 0.1], [0.2] * 5])
    for found, each, own in zip(poser._spreads(models, weights), models, weights, strict=True):
        assert np.isnan(found["brows"])
        for name in ("mouth", "eyes"):
            at = np.isin(points[rows], REGIONS[name])
            expected = np.sqrt((spread_mm(each, own)[at] ** 2).mean()) / 1000
            np.testing.assert_allclose(found[name], expected, rtol=1e-6)
