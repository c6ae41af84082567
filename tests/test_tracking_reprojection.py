"""Poses, reprojection distances and weights of meshes against landmarks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ofer_models import Intrinsics
from ofer_models.head.landmark_sets import N_MEDIAPIPE
from ofer_models.perception.crops import canonical_face
from ofer_models.tracking.reprojection import SeenLandmarks, distances, log_weights, softmax

MODEL = np.float64(canonical_face())[:N_MEDIAPIPE]
TURN, SHIFT = np.array([0.1, -0.2, 0.05]), np.array([0.03, -0.02, 0.8])


@pytest.fixture(scope="module")
def scene() -> tuple[Intrinsics, np.ndarray]:
    """Intrinsics and the image (478, 3) of the canonical face; irises are never looked at."""
    intrinsics = Intrinsics.from_field_of_view(640, 480)
    model = MODEL / np.ptp(MODEL[:, 0]) * 0.15
    upright = cv2.Rodrigues(np.array([np.pi, 0, 0]))[0]
    turn = cv2.Rodrigues(TURN)[0] @ upright
    camera = model @ turn.T + SHIFT
    points = np.full((478, 3), np.nan)
    points[:N_MEDIAPIPE, :2] = (camera @ intrinsics.K.T)[:, :2] / camera[:, 2:]
    return intrinsics, points


def seen(scene, chosen: np.ndarray) -> tuple[SeenLandmarks, np.ndarray]:
    intrinsics, points = scene
    model = MODEL / np.ptp(MODEL[:, 0]) * 0.15
    return SeenLandmarks.of(points, chosen, intrinsics), model[chosen]


@pytest.mark.parametrize("step", [1, 7])
def test_the_true_mesh_fits_in_its_true_pose(scene, step):
    face, model = seen(scene, np.arange(0, N_MEDIAPIPE, step))
    pose = face.pose(model)
    np.testing.assert_allclose(pose.translation, SHIFT, atol=1e-3)
    assert distances([face], model[None, None], [pose]).max() < 1e-3


def test_distances_are_parts_of_the_distance_between_the_eyes(scene):
    face, model = seen(scene, np.arange(N_MEDIAPIPE))
    pose = face.pose(model)
    eyes = np.linalg.norm(face.points[[33, 133]].mean(0) - face.points[[362, 263]].mean(0))
    assert face.between_eyes == pytest.approx(eyes)
    moved = SeenLandmarks(face.points + np.array([0.1 * eyes, 0]), face.K, face.between_eyes)
    np.testing.assert_allclose(distances([moved], model[None, None], [pose]), 0.1, atol=1e-3)


def test_a_nearer_mesh_weighs_more_and_a_few_wild_points_do_not_decide(scene):
    face, model = seen(scene, np.arange(N_MEDIAPIPE))
    pose = face.pose(model)
    rng = np.random.default_rng(0)
    near, far = (model + rng.normal(0, s, model.shape) for s in (0.001, 0.004))
    wild = near.copy()
    wild[:20, 0] += 0.2
    logs = log_weights([face], np.stack([near, far, wild])[None], [pose])[0]
    assert logs[0] > logs[2] > logs[1]
    weights = softmax(logs)
    assert weights.sum() == pytest.approx(1) and weights.argmax() == 0


def test_softmax_of_large_logarithms():
    np.testing.assert_allclose(softmax(np.array([1e4, 1e4 - np.log(3)])), [0.75, 0.25], rtol=1e-5)
