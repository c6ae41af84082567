"""The method `regressor`: one answer a face, its head averaged over the track, and no stage of OFER loaded for it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import yaml
from regressor_support import GROUPS, PROVENANCE, entry_of, with_regressor, write_graph
from skimage.data import astronaut

from ofer_models import FacePipeline
from ofer_models.bundle import Bundle, BundleError
from ofer_models.bundle.manifest import MANIFEST, STAGES
from ofer_models.cli.examination import try_out
from ofer_models.files.hashing import sha256_of
from ofer_models.pipeline_settings import PipelineSettings
from ofer_models.tracking.identity_state import State
from ofer_models.tracking.regressed_identities import SETTLED, RegressedIdentities
from ofer_models.workshop.bundle_writer import write_manifest

RATE = 20.0
TOLD = {"shape": 0.5, "expression": 0.2, "jaw": [0.1, 0, 0], "rotation": [0, 0.1, 0], "camera": [10, 0, 0],
        "albedo": [1, 2, 3, 4], "light": 0.5, "occlusion": 0.25}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(open_bundle, tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("regressing") / "bundle"
    return Bundle.load(with_regressor(open_bundle.path, folder, TOLD, {"shape": 1.0}))


@pytest.fixture(scope="module")
def pipeline(bundle) -> FacePipeline:
    return FacePipeline(bundle, method="regressor", hypotheses=15)


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return np.ascontiguousarray(astronaut()[0:280, 90:370])


def test_one_hypothesis_with_its_groups_and_a_spread_that_is_not_known(pipeline, frame):
    pipeline.reset()
    (face,) = pipeline(frame, 0.0)
    head = pipeline.head
    assert face.expressions.shape == (1, head.n_expression) and face.jaws.shape == (1, 3)
    assert face.scores.tolist() == [1.0] and face.selected == 0
    np.testing.assert_allclose(face.expressions, 0.2, atol=1e-6)
    np.testing.assert_allclose(face.jaws, [[0.1, 0, 0]], atol=1e-6)
    assert face.shape.shape == (head.n_shape,) and not face.shape[GROUPS["shape"] :].any()
    assert (face.shape[: GROUPS["shape"]] > 0.5).all() and face.identity_revision == 1
    assert face.spread and all(np.isnan(value) for value in face.spread.values())
    assert face.occlusion == pytest.approx(0.25)
    np.testing.assert_allclose(face.regressed["albedo"], [1, 2, 3, 4], atol=1e-6)
    assert face.regressed["light"].shape == (27,) and {"rotation", "camera"} <= face.regressed.keys()
    assert np.isfinite(pipeline.vertices(face)).all() and np.isfinite(pipeline.filtered_vertices(face)).all()


def test_ofer_tells_nothing_of_a_regressor(open_bundle, frame):
    (face,) = FacePipeline(open_bundle, candidates=4, hypotheses=2)(frame, 0.0)
    assert face.regressed == {} and all(np.isfinite(value) for value in face.spread.values())


def test_a_single_hypothesis_of_ofer_knows_no_spread_either(open_bundle, frame):
    (face,) = FacePipeline(open_bundle, candidates=4, hypotheses=1)(frame, 0.0)
    assert all(np.isnan(value) for value in face.spread.values())


def test_only_the_regressor_is_loaded(pipeline):
    assert not any(hasattr(pipeline._stages, name) for name in STAGES)


def test_the_head_is_the_mean_of_the_views_and_is_made_anew_when_they_have_doubled(pipeline, frame):
    """The fixed regressor tells betas that grow with the brightness."""
    pipeline.reset()
    bright = frame.astype(np.float32)
    frames = [np.uint8(bright * factor) for factor in (0.8, 1.0, 0.9, 0.7) * 6]
    told, revisions, faces = [], [], []
    for number, shown in enumerate(frames):
        (face,) = pipeline(shown, number / RATE)
        told.append(pipeline._memory[face.id].regressed["shape"][0])
        revisions.append(face.identity_revision)
        faces.append(face)
    assert revisions == sorted(revisions) and 3 <= revisions[-1] <= 6
    assert np.ptp(told) > 0.05
    settled = [face.shape[0] for face in faces if face.identity_blend == 1][-1]
    assert settled == pytest.approx(np.mean(told), abs=0.25 * np.ptp(told))
    assert faces[0].identity_state == "gathering" and faces[-1].identity_state == "locked"
    assert faces[-1].identity_score > faces[0].identity_score


def test_reset_identity_averages_anew_and_revisions_go_on(pipeline, frame):
    pipeline.reset()
    for number in range(12):
        (before,) = pipeline(frame, number / RATE)
    assert pipeline.reset_identity(before.id) and not pipeline.reset_identity("nobody")
    (after,) = pipeline(frame, 12 / RATE)
    assert after.id == before.id and after.identity_revision > before.identity_revision
    assert after.identity_score < before.identity_score


def test_settings_of_sampling_mean_nothing(pipeline, frame):
    pipeline.reset()
    pipeline.set_hypotheses(7)
    pipeline.set_steps(5)
    (face,) = pipeline(frame, 0.0)
    assert pipeline.hypotheses == 1 and len(face.expressions) == 1


def test_two_faces_in_one_batch_and_equal_frames_give_equal_faces(pipeline, frame):
    two = np.concatenate([cv2.flip(frame, 1), frame], axis=1)
    runs = []
    for _ in range(2):
        pipeline.reset()
        runs.append([sorted(pipeline(two, n / RATE), key=lambda face: face.roi) for n in range(3)])
    assert all(len(faces) == 2 for faces in runs[0])
    for first, second in zip(*runs, strict=True):
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a.shape, b.shape)
            np.testing.assert_array_equal(a.translation, b.translation)


def test_a_lost_track_is_forgotten(pipeline, frame):
    pipeline.reset()
    assert pipeline(frame, 0.0)
    empty = np.full_like(frame, 128)
    for number in range(1, 120):
        pipeline(empty, number / RATE)
    assert not pipeline._identities.states() and pipeline.status()["identities_lost"] == 0


def test_a_bundle_without_a_regressor_says_what_to_do(open_bundle):
    other = Bundle.load(open_bundle.path)
    other.stages.pop("regressor", None)
    with pytest.raises(BundleError, match="no regressor.*method ofer"):
        FacePipeline(other, method="regressor")


def test_a_regressor_alone_runs_and_refuses_ofer(bundle, frame, tmp_path):
    for name in ("head.npz", "regressor.onnx"):
        (tmp_path / name).write_bytes((bundle.path / name).read_bytes())
    header = {"name": "alone", "version": "1", "n_shape": bundle.n_shape, "n_expression": bundle.n_expression,
              "candidates": 1, "hypotheses": 1}  # fmt: skip
    write_manifest(tmp_path, header, {"regressor": entry_of(tmp_path / "regressor.onnx")}, {"*": PROVENANCE})
    assert FacePipeline(tmp_path, method="regressor")(frame, 0.0)
    with pytest.raises(BundleError, match="regressor alone.*method regressor"):
        FacePipeline(tmp_path)
    assert try_out(tmp_path) == ""


def test_doctor_runs_the_regressor_beside_ofer_and_sees_numbers_that_are_none(open_bundle, bundle, tmp_path):
    assert try_out(bundle.path) == ""
    broken = with_regressor(open_bundle.path, tmp_path / "broken", TOLD | {"shape": np.nan})
    assert "not finite" in try_out(broken)


def test_a_graph_that_is_not_what_the_manifest_says_is_refused(open_bundle, tmp_path):
    folder = with_regressor(open_bundle.path, tmp_path / "other", TOLD)
    write_graph(folder / "regressor.onnx", np.zeros(sum(GROUPS.values()) + 1), np.zeros(sum(GROUPS.values()) + 1))
    document = yaml.safe_load((folder / MANIFEST).read_text())
    document["files"]["regressor.onnx"]["sha256"] = sha256_of(folder / "regressor.onnx")
    (folder / MANIFEST).write_text(yaml.safe_dump(document))
    with pytest.raises(BundleError, match=r"regressor\.onnx: output 'coefficients'"):
        FacePipeline(folder, method="regressor")


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be one of ofer, regressor"):
        PipelineSettings(method="magic")


@pytest.fixture(scope="module")
def shipped(open_bundle) -> list:
    """Faces of the open bundle's own regressor, on a still face with camera noise."""
    pipeline, rng = FacePipeline(open_bundle, method="regressor"), np.random.default_rng(0)
    still = np.ascontiguousarray(astronaut()[:480]).astype(np.float32)
    frames = (np.clip(still + rng.normal(0, 3, still.shape), 0, 255).astype(np.uint8) for _ in range(20))
    return [pipeline(frame, number / RATE)[0] for number, frame in enumerate(frames)]


def test_the_open_bundle_s_regressor_fits_the_face_and_is_steady(open_bundle, shipped):
    assert open_bundle.stages["regressor"].files["graph"].stat().st_size <= 8e6
    assert max(face.landmark_error for face in shipped) < 0.05
    settled = np.array([face.expression for face in shipped[6:]])
    assert settled.std(0).max() < 0.02 and settled.std(0).mean() < 0.002
    assert 0.05 < settled.max() <= 1, "it tells an expression"


def test_the_open_bundle_s_regressor_tells_where_the_head_is(open_bundle, shipped):
    """The astronaut looks nearly into the camera."""
    rotation = cv2.Rodrigues(shipped[-1].regressed["rotation"].astype(np.float64))[0]
    assert np.degrees(np.arccos(np.clip(rotation[2, 2], -1, 1))) < 30
    assert shipped[-1].regressed["camera"][0] > 0


def test_averages_weigh_views_by_their_quality(open_head):
    cache = RegressedIdentities(open_head, 30.0)
    good, poor = np.full(open_head.n_shape, 1, np.float32), np.zeros(open_head.n_shape, np.float32)
    for number in range(20):
        cache.update(["f1"], {"f1": (good, 1.0) if number % 2 else (poor, 0.1)}, number / RATE)
    assert cache._tracks["f1"].mean[0] == pytest.approx(10 / 11, abs=1e-4)
    assert cache.states() == {"f1": State.LOCKED} and cache._tracks["f1"].weight > SETTLED
    cache.update(["f1"], {}, 2.0)
    assert cache.states() == {"f1": State.LOST}
    cache.update([], {}, 3.0)
    assert not cache.states()
