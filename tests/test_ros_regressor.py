"""`method: regressor` from picture to messages: the open bundle's, and CFR's of made-up weights on its own head."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

from pathlib import Path

import numpy as np
from cfr_inputs import basel_fields, write_regressor
from ros_support import NodeHarness, image_message
from skimage.data import astronaut

from ofer_models import FacePipeline
from ofer_models.bundle import Bundle
from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.perception.crops import canonical_face
from ofer_models.workshop.official.cfr_importer import import_cfr

SHALLOW = (1, 1, 1, 1)


@pytest.fixture(scope="module")
def cfr_bundle(tmp_path_factory) -> Path:
    """Imported from files in CFR's formats: random weights, and a bulging grid with landmarks where a face has them."""
    savemat = pytest.importorskip("scipy.io", reason="writes .mat files: `make train-env`").savemat
    folder = tmp_path_factory.mktemp("cfr")
    fields = basel_fields()
    grid = fields["meanshape"].reshape(-1, 3)
    marks = canonical_face()[LANDMARKS68, :2]
    marks = (marks - (marks.min(0) + marks.max(0)) / 2) / np.ptp(marks, axis=0) * [1.2, -1.5]
    fields["keypoints"] = np.linalg.norm(grid[:, :2] - marks[:, None], axis=-1).argmin(1)[None].astype(np.int32)
    savemat(folder / "BFM_model_80.mat", fields)
    import_cfr(write_regressor(folder / "occ.pth", SHALLOW), folder / "BFM_model_80.mat", folder / "bundle",
               depths=SHALLOW)  # fmt: skip
    return folder / "bundle"


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return np.ascontiguousarray(astronaut()[0:280, 90:370])


def test_cfrs_regressor_goes_through_the_whole_pipeline(cfr_bundle, frame):
    pipeline = FacePipeline(cfr_bundle, method="regressor")
    for number in range(4):
        (face,) = pipeline(frame, number / 20)
    groups = {"shape": 80, "expression": 64, "albedo": 80, "rotation": 3, "light": 27, "translation": 3}
    told = {name: values.shape for name, values in face.regressed.items()}
    assert all(told.get(name, (size,)) == (size,) for name, size in groups.items()) and "light" in told
    assert face.expressions.shape == (1, 64) and all(np.isnan(value) for value in face.spread.values())
    for vertices in (pipeline.vertices(face), pipeline.filtered_vertices(face)):
        assert vertices.shape == pipeline.head.v_template.shape and np.isfinite(vertices).all()
    assert np.isfinite(face.landmark_error) and face.translation[2] > 0
    np.testing.assert_allclose(face.rotation @ face.rotation.T, np.eye(3), atol=1e-6)


@pytest.mark.ros
@pytest.mark.parametrize("which", ["open", "cfr"])
def test_a_node_publishes_what_a_regressor_tells(which, open_bundle, request, frame):
    bundle = open_bundle if which == "open" else Bundle.load(request.getfixturevalue("cfr_bundle"))
    pipeline = FacePipeline(bundle, method="regressor")
    with NodeHarness(make_pipeline=lambda settings: pipeline) as harness:
        message = harness.send_and_wait(image_message(frame, "rgb8", 1.0))
        (face,) = message.faces
        assert face.num_hypotheses == 1 and len(face.expressions) == bundle.head.n_expression
        assert all(np.isnan(value) for value in (face.spread_mouth, face.spread_eyes, face.spread_brows))
        assert len(face.shape) == bundle.head.n_shape
        harness.wait_for(lambda: harness.last_markers())
