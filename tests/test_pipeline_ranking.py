"""Which head the candidates give: IdRank's best in a bundle that says so, as the official one; their mean at the
landmarks in the open one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from skimage.data import astronaut

from ofer_models.pipeline import FacePipeline
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.identity_ranking import CandidateRanker, RankedCandidates, RankingRequest


def test_idrank_alone_chooses_where_the_bundle_says_so(open_bundle, monkeypatch):
    pipeline = FacePipeline(replace(open_bundle, rank_alone=True), candidates=30)
    asked = {}
    rank = pipeline._stages.idrank

    class Recording:
        inputs = rank.inputs

        def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
            asked.update(arrays, **rank(**arrays))
            return {"score": asked["score"]}

    monkeypatch.setattr(pipeline._stages, "idrank", Recording())
    (face,) = pipeline(astronaut(), 0.0)
    score = asked["score"][0].astype(float)
    assert score.shape == (30,)
    np.testing.assert_array_equal(face.shape, asked["betas"][0, score.argmax()])
    odds = np.exp(score - score.max())
    assert face.identity_score == pytest.approx(1 / odds.sum(), rel=1e-5)


def test_candidates_ranked_elsewhere_give_the_same_heads_and_none_are_ranked_here(open_bundle):
    stages = StageSet(open_bundle, names=("idgen", "idrank"))
    ranker, asked = CandidateRanker(stages), []

    def elsewhere(request: RankingRequest) -> RankedCandidates | None:
        asked.append(request)
        return ranker(request) if len(asked) % 2 else None

    here, there = (FacePipeline(open_bundle, candidates=30, seed=4) for _ in range(2))
    there.rank_elsewhere(elsewhere)
    for number in range(8):
        picture = np.roll(astronaut(), 2 * number, 1)
        (face,), (other,) = here(picture, 0.2 * number), there(picture, 0.2 * number)
        np.testing.assert_array_equal(face.shape, other.shape)
        assert face.identity_score == other.identity_score
    assert len(asked) > 1 and {request.candidates for request in asked} == {30}


def test_other_draws_give_the_same_person_nearly_the_same_head(open_bundle):
    """The mean of the candidates, moved to the landmarks, and not the luck of one of them."""
    picture = np.ascontiguousarray(astronaut()[0:280, 90:370])
    front = open_bundle.head.masks["frontal"]
    shapes = []
    for seed in (0, 1):
        (face,) = FacePipeline(open_bundle, candidates=100, seed=seed)(picture, 0.0)
        shapes.append(open_bundle.head.shaped(face.shape)[front])
    apart = np.subtract(*(points - points.mean(0) for points in shapes))
    assert 0 < 1000 * np.linalg.norm(apart, axis=-1).mean() < 0.5
