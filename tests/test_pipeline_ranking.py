"""In a bundle that says so, as the official one, IdRank's best candidate is the identity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from skimage.data import astronaut

from ofer_models.pipeline import FacePipeline


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
