"""The face mesh on given regions: accuracy under roll, pan, size, determinism, absence, no growth of memory."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from ofer_models.perception import landmarks
from ofer_models.perception.landmarks import FaceLandmarker, Roi, roi_from_keypoints, roi_from_points

FACE = Roi(224.0, 124.0, 163.0, 0.06)
EYE_DISTANCE = 43.0  # px between the eye centres in the picture


@pytest.fixture(scope="module")
def landmarker() -> FaceLandmarker:
    return FaceLandmarker()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return astronaut()


@pytest.fixture(scope="module")
def mesh(landmarker, picture) -> np.ndarray:
    return landmarker.locate(picture, FACE).points


def test_points_lie_on_the_face(mesh):
    assert mesh.shape == (478, 3) and mesh.dtype == np.float32
    np.testing.assert_allclose(mesh[[468, 473, 4, 152], :2], [[203, 100], [248, 103], [224, 125], [222, 178]], atol=5)
    assert mesh[4, 2] < mesh[[33, 263], 2].min()  # the nose is nearer to the camera than the eyes


def test_the_same_picture_gives_the_same_points_whatever_came_before(landmarker, picture, mesh):
    landmarker(np.roll(picture, 40, axis=0), FACE)
    np.testing.assert_array_equal(landmarker.locate(picture, FACE).points, mesh)
    np.testing.assert_array_equal(FaceLandmarker().locate(picture, FACE).points, mesh)


@pytest.mark.parametrize("degrees", [-150, -90, -40, 40, 90, 180])
def test_rolled_faces(landmarker, picture, mesh, degrees):
    turn = cv2.getRotationMatrix2D((FACE.x, FACE.y), degrees, 1.0)
    turned = cv2.warpAffine(picture, turn, picture.shape[1::-1])
    found = landmarker(turned, replace(roi_from_points(mesh), angle=FACE.angle - math.radians(degrees)))
    expected = mesh[:, :2] @ turn[:, :2].T + turn[:, 2]
    assert np.linalg.norm(found.points[:, :2] - expected, axis=1).mean() < 0.02 * EYE_DISTANCE
    assert roi_from_points(found.points).size == pytest.approx(roi_from_points(mesh).size, rel=0.02)


@pytest.mark.parametrize("scale", [0.5, 2.0, 7.0])
def test_size_of_the_face_does_not_matter(landmarker, picture, mesh, scale):
    scaled = cv2.resize(
        picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    shift = (scale - 1) / 2  # pixel centres
    roi = roi_from_points(mesh)
    found = landmarker(scaled, Roi(roi.x * scale + shift, roi.y * scale + shift, roi.size * scale, roi.angle))
    error = np.linalg.norm((found.points[:, :2] - shift) / scale - mesh[:, :2], axis=1).mean()
    assert error < 0.03 * EYE_DISTANCE
    assert np.abs(found.points[:, 2] / scale - mesh[:, 2]).mean() < 0.05 * EYE_DISTANCE


def test_tracking_follows_a_moving_face(landmarker, picture, mesh):
    points = mesh
    for step in range(1, 15):
        moved = cv2.warpAffine(picture, np.array([[1.0, 0, 8 * step], [0, 1, 5 * step]]), (640, 512))
        points = landmarker(moved, roi_from_points(points)).points
    assert np.linalg.norm((points - mesh)[:, :2] - [8 * 14, 5 * 14], axis=1).mean() < 0.03 * EYE_DISTANCE


def test_an_upright_detection_gives_an_upright_region():
    box, eyes = np.array([10.0, 20.0, 100.0, 80.0]), np.array([[40.0, 50.0], [80.0, 50.0]])
    assert roi_from_keypoints(box, eyes) == Roi(60.0, 60.0, 150.0, 0.0)
    assert roi_from_keypoints(box, np.array([[40.0, 50.0], [40.0, 90.0]])).angle == pytest.approx(math.pi / 2)


@pytest.mark.parametrize(
    "roi", [Roi(450, 300, 80, 0), Roi(9000, 9000, 160, 0), Roi(224, 124, 0, 0), Roi(224, math.nan, 160, 0)]
)
def test_no_face_in_the_region(landmarker, picture, roi):
    assert landmarker(picture, roi) is None


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 900)])
def test_tiny_pictures(landmarker, size):
    assert landmarker(np.zeros((*size, 3), np.uint8), Roi(0.5, 0.5, 400.0, 0.0)) is None


def test_presence_falls_when_the_face_is_covered(landmarker, picture, monkeypatch):
    covered = picture.copy()
    cv2.rectangle(covered, (165, 60), (285, 190), (90, 120, 60), -1)
    assert landmarker(picture, FACE).presence > 0.95
    assert landmarker(covered, FACE) is None
    monkeypatch.setattr(landmarks, "LEAST_PRESENCE", 0.0)
    assert landmarker(covered, FACE).presence < 0.5


def test_half_covered_face_keeps_its_visible_points(landmarker, picture, mesh):
    covered = picture.copy()
    covered[140:200, 150:300] = (120, 90, 70)  # mouth and chin
    found = landmarker(covered, roi_from_points(mesh))
    eyes_and_brows = [33, 133, 159, 145, 362, 263, 386, 374, 105, 334]
    error = np.linalg.norm((found.points - mesh)[eyes_and_brows, :2], axis=1).mean()
    assert error < 0.08 * EYE_DISTANCE


def test_memory_does_not_grow(landmarker, picture):
    for _ in range(100):
        landmarker(picture, FACE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(500):
        landmarker(picture, FACE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3000  # kB


def test_a_refused_region_is_tried_again_and_the_eyes_must_be_there(picture, landmarker, mesh, monkeypatch):
    """The network refuses the first region, as of some masked faces; a mesh elsewhere does not pass for the face."""
    eyes = mesh[[[33, 133], [362, 263]], :2].mean(1)
    look = type(landmarker).__call__
    asked = []

    def refusing(self, rgb, roi):
        asked.append(roi)
        return None if abs(roi.size - FACE.size) < 1e-9 and abs(roi.angle - FACE.angle) < 1e-9 else look(self, rgb, roi)

    monkeypatch.setattr(type(landmarker), "__call__", refusing)
    assert landmarker.locate(picture, FACE) is None and len(asked) == 1
    found = landmarker.locate(picture, FACE, eyes)
    assert np.linalg.norm(found.points[:, :2] - mesh[:, :2], axis=1).mean() < 0.05 * np.linalg.norm(eyes[1] - eyes[0])
    assert landmarker.locate(picture, FACE, eyes + [0, 0.6 * np.linalg.norm(eyes[1] - eyes[0])]) is None


def test_mediapipe_is_whole_for_who_asks_for_more_than_faces():
    """Its packages are imported without what they import beside faces, until somebody wants that."""
    code = (
        "import sys, ofer_models.perception.mediapipe_graph, mediapipe;"
        "before = {'mediapipe.tasks', 'mediapipe.python.solutions.hands'} & sys.modules.keys();"
        "print(before, mediapipe.__version__, mediapipe.solutions.hands.Hands.__name__,"
        "mediapipe.tasks.vision.FaceLandmarker.__name__, mediapipe.solutions.face_mesh.FaceMesh.__name__)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told == ["set()", metadata.version("mediapipe"), "Hands", "FaceLandmarker", "FaceMesh"]
