"""Crops and landmark features: OFER's reference arithmetic, invariances, batches."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.data import astronaut
from skimage.transform import estimate_transform

from ofer_models.perception import crops
from ofer_models.perception.encoder_inputs import crop_blob, encoder_inputs
from ofer_models.perception.landmarks import FaceLandmarker, Roi

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "shared_preprocess.npz"


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.exists():
        pytest.skip("the shared reference arrays are not here")
    data = np.load(GOLDEN)
    chosen = int(data["selected"])
    x0, y0, x1, y1 = data["bboxes"][chosen][:4]
    return data, data["kps"][chosen], np.array([x0, y0, x1 - x0, y1 - y0])


@pytest.fixture(scope="module")
def mesh() -> np.ndarray:
    return FaceLandmarker().locate(astronaut(), Roi(224.0, 124.0, 163.0, 0.06)).points.astype(np.float64)


def test_aligned_crop_is_the_reference_one(golden):
    data, keypoints, _ = golden
    crop, matrix = crops.aligned_crop(data["image_rgb"], keypoints)
    np.testing.assert_allclose(matrix, data["M112"], atol=1e-4)
    assert np.abs(crop.astype(int) - data["aligned112_rgb"]).max() <= 1
    blob = crop_blob(crop[None, ..., ::-1])[0]
    np.testing.assert_allclose(blob, data["arcface_blob"], atol=1.01 / 127.5)


def test_loose_crop_is_the_reference_one(golden):
    data, _, box = golden
    crop = crops.loose_crop(data["image_rgb"], box)
    error = np.abs(crop[..., ::-1] - data["crop224_bgr_float"])
    assert error.max() <= 1 and error.mean() < 0.3


def test_similarity_is_the_least_squares_one():
    source = np.random.default_rng(0).normal(60, 25, (7, 5, 2))
    for one, batched in zip(source, crops.similarity(source, crops.ARCFACE_TEMPLATE), strict=True):
        reference = estimate_transform("similarity", one, crops.ARCFACE_TEMPLATE).params[:2]
        np.testing.assert_allclose(batched, reference, atol=1e-9)


def test_five_points_sit_near_the_template(mesh):
    five = crops.five_points(mesh)
    matrix = crops.similarity(five, crops.ARCFACE_TEMPLATE)
    residual = five @ matrix[:, :2].T + matrix[:, 2] - crops.ARCFACE_TEMPLATE
    assert np.linalg.norm(residual, axis=1).max() < 8  # px of 112; a smile widens the mouth


def rotation(x: float, y: float, z: float) -> np.ndarray:
    return cv2.Rodrigues(np.array([x, y, z]))[0]


@given(st.tuples(*[st.floats(-1.2, 1.2)] * 3), st.floats(0.1, 30), st.tuples(*[st.floats(-3000, 3000)] * 3))
def test_frontalised_points_do_not_feel_a_rigid_motion(mesh, angles, scale, shift):
    moved = scale * mesh @ rotation(*angles).T + shift
    np.testing.assert_allclose(crops.frontalise(moved), crops.frontalise(mesh), atol=1e-6)


@given(st.floats(-3.1, 3.1), st.floats(0.1, 30), st.tuples(*[st.floats(-3000, 3000)] * 3))
def test_features_do_not_feel_position_roll_and_size(mesh, roll, scale, shift):
    moved = scale * mesh @ rotation(0, 0, roll).T + shift
    np.testing.assert_allclose(crops.landmark_features(moved), crops.landmark_features(mesh), atol=1e-5)


def test_features_keep_yaw_in_the_first_half_only(mesh):
    turned = mesh @ rotation(0, 0.5, 0).T
    difference = np.abs(crops.landmark_features(turned) - crops.landmark_features(mesh))
    assert difference[:, :3].max() > 0.2 and difference[:, 3:].max() < 1e-5


def test_first_half_agrees_with_the_aligned_crop(mesh):
    _, matrix = crops.aligned_crop(astronaut(), mesh)
    features = crops.landmark_features(mesh)
    np.testing.assert_allclose((features[:, :2] + 1) * 55.5, mesh[:, :2] @ matrix[:, :2].T + matrix[:, 2], atol=1e-4)
    scale = np.hypot(*matrix[:, 0])
    np.testing.assert_allclose(np.ptp(features[:, 2]) * 55.5, np.ptp(mesh[:, 2]) * scale, rtol=1e-4)


def test_a_batch_equals_its_faces(mesh):
    batch = np.stack([mesh, mesh * 2.5 + 40, mesh @ rotation(0.2, -0.4, 0.9).T])
    singles = np.stack([crops.landmark_features(face) for face in batch])
    np.testing.assert_array_equal(crops.landmark_features(batch), singles)


def test_canonical_face_is_frontal_symmetric_and_to_scale():
    face = crops._CANONICAL
    right, left = face[[33, 133, 61, 234]], face[[263, 362, 291, 454]]
    np.testing.assert_allclose(right * [-1, 1, 1], left, atol=1e-4)
    assert abs(face[10, 2] - face[152, 2]) < 1e-4
    eyes = crops.five_points(face)[:2]
    assert np.linalg.norm(eyes[1] - eyes[0]) == pytest.approx(0.635, abs=1e-3)


def test_degenerate_points_stay_finite():
    assert np.isfinite(crops.landmark_features(np.zeros((2, 478, 3)))).all()


def test_encoder_inputs(mesh):
    points = np.stack([mesh, mesh + 30]).astype(np.float32)
    inputs = encoder_inputs(astronaut(), points, ["crop112", "crop112_bgr", "crop224", "landmarks"])
    shapes = {name: value.shape for name, value in inputs.items()}
    assert shapes == {
        "crop112": (2, 3, 112, 112),
        "crop112_bgr": (2, 3, 112, 112),
        "crop224": (2, 3, 224, 224),
        "landmarks": (2, 478, 6),
    }
    assert all(value.dtype == np.float32 for value in inputs.values())
    np.testing.assert_array_equal(inputs["crop112"][:, ::-1], inputs["crop112_bgr"])
    assert inputs["crop112"][0, 0].mean() > inputs["crop112"][0, 2].mean()  # skin is redder than blue
    crop = crops.loose_crop(astronaut(), crops.box_of(mesh))
    green = (crop[..., 1] / 255 - 0.4578275) / 0.26130258
    np.testing.assert_allclose(inputs["crop224"][0, 1], green, atol=1e-5)
    with pytest.raises(ValueError, match="crop99"):
        encoder_inputs(astronaut(), points, ["crop99"])


def test_crops_outside_the_image_are_black(mesh):
    far = mesh + 5000
    assert not crops.aligned_crop(astronaut(), far)[0].any()
    assert not crops.loose_crop(astronaut(), crops.box_of(far)).any()
