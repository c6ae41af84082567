"""Two sets of points become one: the surer counts more, disagreement costs trust, a bundle's network is asked."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut

from ofer_models import FacePipeline
from ofer_models.bundle import Bundle, BundleError
from ofer_models.bundle.manifest import LANDMARKS
from ofer_models.head.landmark_sets import N_MEDIAPIPE, tracked_landmarks
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.landmark_watch import LandmarkWatch
from ofer_models.perception.point_fusion import (
    MEDIAPIPE_DEVIATION,
    MEDIAPIPE_WATCHED,
    PointEstimate,
    fuse,
    inter_ocular,
)
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.reprojection import SeenLandmarks

EYES = 100.0  # px between the eyes


@pytest.fixture
def mediapipe() -> np.ndarray:
    """(478, 3) points whose eyes are EYES apart."""
    points = np.zeros((478, 3))
    points[[362, 263], 0] = EYES
    return points


def estimate(points: np.ndarray, deviation: float, apart: float = 0.0, visible: float = 1.0) -> PointEstimate:
    """A network that sees every point this far to the right of MediaPipe's, in px."""
    n = len(points)
    return PointEstimate(points[:, :2] + [apart, 0], np.full(n, deviation), np.full(n, visible))


def test_inverse_variances_weigh_the_two(mediapipe):
    usual = MEDIAPIPE_WATCHED * EYES
    both = fuse(mediapipe, estimate(mediapipe, usual, 0.5))
    np.testing.assert_allclose(both.points[:, 0] - mediapipe[:, 0], 0.25)
    np.testing.assert_allclose(both.deviation, usual / np.sqrt(2))
    surer = fuse(mediapipe, estimate(mediapipe, usual / 3, 0.5))
    np.testing.assert_allclose(surer.points[:, 0] - mediapipe[:, 0], 0.45)
    assert np.array_equal(fuse(mediapipe, estimate(mediapipe, 1e9, 0.5)).points.round(6), mediapipe[:, :2])


def test_where_the_two_disagree_both_are_trusted_less(mediapipe):
    usual = MEDIAPIPE_WATCHED * EYES
    agreeing, apart = (fuse(mediapipe, estimate(mediapipe, usual, far)) for far in (0.0, 10 * usual))
    # Each coordinate's mean square is 50 variances of one of them, 25 of their difference's.
    np.testing.assert_allclose(apart.deviation, 5 * agreeing.deviation)


def test_a_crop_s_points_are_told_in_the_picture():
    angle, scale = 0.3, 0.5
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    to_crop = np.concatenate([turn, [[7.0], [-3.0]]], axis=1)
    true = np.random.default_rng(0).uniform(0, 500, (478, 2))
    told = PointEstimate(true @ turn.T + to_crop[:, 2], np.full(478, 1.5), np.ones(478)).in_picture(to_crop)
    np.testing.assert_allclose(told.points, true)
    np.testing.assert_allclose(told.deviation, 3.0)


def test_points_count_by_deviation_and_not_at_all_where_hidden(open_bundle, mediapipe):
    system = LandmarkEvidence.of(open_bundle).system
    chosen = tracked_landmarks(open_bundle.head)[1]
    camera = Intrinsics(np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]), 640, 480)
    own = estimate(mediapipe, 1.0)
    own = replace(own, deviation=np.where(np.arange(478) < 200, 1.0, 2.0), visible=np.where(np.arange(478) % 2, 1.0, 0))
    seen = SeenLandmarks.of_both(mediapipe, own, chosen, camera)
    numbers = chosen[system.rows]
    weights, plain = system.weights(seen, None), system.weights(SeenLandmarks.of(mediapipe, chosen, camera), None)
    face = numbers < N_MEDIAPIPE  # these eyes are closed, and tell nothing of where they look
    assert not weights[numbers % 2 == 0].any() and (weights[face & (numbers % 2 == 1)] > 0).all()
    both = 1 / (1 / own.deviation[numbers] ** 2 + 1 / (MEDIAPIPE_WATCHED * EYES) ** 2)
    expected = plain * (MEDIAPIPE_DEVIATION * EYES) ** 2 / both
    np.testing.assert_allclose(weights[numbers % 2 == 1], expected[numbers % 2 == 1])
    # The network's word counts instead of the encoder's.
    np.testing.assert_array_equal(system.weights(seen, np.zeros(468)), weights)


def with_landmarks(bundle: Path, folder: Path, points: int = 478) -> Path:
    """A copy of a bundle whose landmark network says that all points lie at (64, 70) of the crop, deviation 1 px."""
    onnx = pytest.importorskip("onnx")
    from ofer_models.workshop.bundle_writer import Provenance, graph_entry, set_stage

    shutil.copytree(bundle, folder)
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    values = {"points": np.tile(np.float32([64, 70]), (1, points, 1)), "deviation": np.ones((1, points), np.float32),
              "visible": np.ones((1, points), np.float32)}  # fmt: skip
    nodes = [helper.make_node("ReduceMean", ["crop128", "axes"], ["mean"], keepdims=0),
             helper.make_node("Mul", ["mean", "zero"], ["nothing"])]  # fmt: skip
    constants = {"axes": np.array([1, 2, 3]), "zero": np.float32(0)}
    for name, value in values.items():
        shape = np.array([-1] + [1] * (value.ndim - 1))
        constants |= {f"{name}_value": value, f"{name}_shape": shape}
        nodes += [helper.make_node("Reshape", ["nothing", f"{name}_shape"], [f"{name}_rows"]),
                  helper.make_node("Add", [f"{name}_rows", f"{name}_value"], [name])]  # fmt: skip
    graph = helper.make_graph(
        nodes, LANDMARKS, [helper.make_tensor_value_info("crop128", number, ["F", 3, 128, 128])],
        [helper.make_tensor_value_info(name, number, ["F", *value.shape[1:]]) for name, value in values.items()],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, folder / f"{LANDMARKS}.onnx")
    set_stage(folder, LANDMARKS, graph_entry(folder / f"{LANDMARKS}.onnx"), Provenance("a test", "CC0-1.0", True))
    return folder


def test_a_bundle_s_own_network_is_asked_and_counts(open_bundle, tmp_path):
    frame = np.ascontiguousarray(astronaut()[0:280, 90:370])
    stages = {name: stage for name, stage in open_bundle.stages.items() if name != LANDMARKS}
    plain = FacePipeline(replace(open_bundle, stages=stages))
    (without,) = plain(frame, 0.0)
    pipeline = FacePipeline(Bundle.load(with_landmarks(open_bundle.path, tmp_path / "seeing")))
    ((told,), _) = LandmarkWatch(pipeline._stages.landmarks)(frame, ["f1"], without.landmarks[None], 0.0)
    np.testing.assert_allclose(told.points, np.tile(told.points[:1], (478, 1)), atol=1e-3)
    assert np.linalg.norm(told.points[0] - without.landmarks[:, :2].mean(0)) < inter_ocular(without.landmarks)
    (face,) = pipeline(frame, 0.0)
    assert "landmarks" in pipeline.timings and "landmarks" not in plain.timings
    # All points in one place are another face than the one in the picture.
    assert np.abs(face.expressions - without.expressions).max() > 0.05


def test_a_landmark_network_of_other_points_is_refused_in_one_line(open_bundle, tmp_path):
    bundle = Bundle.load(with_landmarks(open_bundle.path, tmp_path / "other", points=68))
    with pytest.raises(BundleError, match=r"stage landmarks: output 'points' is .*68, 2.* should be .*478, 2"):
        FacePipeline(bundle)
