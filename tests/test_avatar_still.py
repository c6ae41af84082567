"""A photograph before a camera that adds noise: an avatar of it stands still."""

from __future__ import annotations

import numpy as np
import pytest

from ofer_models.avatar.arkit_map import arkit_map
from ofer_models.avatar.performer import Performer, SeenFace
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.pipeline import FacePipeline


def test_no_weight_of_a_still_face_moves(open_bundle):
    data = pytest.importorskip("skimage.data", reason="scikit-image is of the extra `demo`")
    picture, rng = data.astronaut()[:300, 60:420], np.random.default_rng(5)
    pipeline = FacePipeline(open_bundle, hypotheses=15, candidates=20, seed=0)
    performer = Performer(arkit_map(open_bundle.head), hypothesis="mean")
    camera = Intrinsics.from_field_of_view(*picture.shape[1::-1])
    given = []
    for number in range(75):
        noisy = np.clip(picture + rng.normal(0, 2.0, picture.shape), 0, 255).astype(np.uint8)
        seen = [
            SeenFace(face.id, 1.0, face.expressions, face.jaws, face.scores, face.selected, face.rotation,
                     face.translation, face.identity_state != "gathering" and face.identity_blend >= 1)
            for face in pipeline(noisy, number / 30, camera)
        ]  # fmt: skip
        acted = performer(seen, number / 30)
        given += [acted.weights] if acted else []
    assert len(given) >= 45, "it begins within a second"
    assert np.std(given, axis=0).max() <= 0.02
