"""A head's pose filtered in a fixed frame: beside a camera that moves, a face that stands still does."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.pipeline import FacePipeline
from ofer_models.tracking.pose_filter import CameraPose, PoseFilter

RATE = 30.0  # Hz


def turned(yaw: float, place: np.ndarray | None = None) -> CameraPose:
    """A camera turned to its right by `yaw` (rad)."""
    return CameraPose(cv2.Rodrigues(np.array([0.0, yaw, 0.0]))[0], np.zeros(3) if place is None else place)


def pan(frame: int) -> CameraPose:
    """40 degrees to and fro in a second and a half, and 10 cm of travel."""
    phase = 2 * np.pi * frame / (1.5 * RATE)
    return turned(np.radians(20) * np.sin(phase), np.array([0.05 * np.cos(phase), 0.0, 0.02 * np.sin(phase)]))


FACE = np.diag([1.0, -1.0, -1.0]), np.array([0.1, 0.05, 0.8])  # in the fixed frame


def seen(camera: CameraPose, tremble: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face's pose in the camera's frame; tremble (6,): rad and m."""
    rotation, translation = camera.rotation.T @ FACE[0], camera.rotation.T @ (FACE[1] - camera.translation)
    return cv2.Rodrigues(tremble[:3])[0] @ rotation, translation + tremble[3:]


def shown(told: bool, tremble: float) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, 3) and angles from the truth (N,) of the filtered face in the fixed frame, over three seconds."""
    rng = np.random.default_rng(0)
    motion = PoseFilter()
    places, angles = [], []
    for frame in range(90):
        camera = pan(frame)
        pose = motion(*seen(camera, tremble * rng.normal(size=6)), frame / RATE, camera if told else None)
        rotation, place = camera.rotation @ pose[0], camera.rotation @ pose[1] + camera.translation
        places.append(place)
        angles.append(np.linalg.norm(cv2.Rodrigues(rotation @ FACE[0].T)[0]))
    return np.array(places[30:]), np.array(angles[30:])


def test_a_still_face_does_not_lag_behind_a_camera_that_pans():
    places, angles = shown(told=True, tremble=0.0)
    np.testing.assert_allclose(places, np.tile(FACE[1], (60, 1)), atol=1e-9)
    assert angles.max() < 1e-6
    places, angles = shown(told=False, tremble=0.0)
    assert np.linalg.norm(places - FACE[1], axis=1).max() > 0.003 and angles.max() > np.radians(1)


def test_a_still_face_trembles_less_where_the_camera_s_place_is_known():
    still = [shown(told, tremble=0.003)[0].std(axis=0).max() for told in (True, False)]
    assert still[0] < 0.5 * still[1]


def test_a_place_that_is_missing_is_that_of_before_and_the_first_one_begins_anew():
    motion = PoseFilter()
    for frame in range(5):
        motion(*seen(pan(0), np.zeros(6)), frame / RATE)
    for frame in range(5, 10):  # metres away from what was filtered until now
        far = turned(2.0, np.array([5.0, 0.0, 0.0]))
        rotation, place = motion(*seen(far, np.zeros(6)), frame / RATE, far)
        np.testing.assert_allclose(place, seen(far, np.zeros(6))[1], atol=1e-9)
    rotation, place = motion(*seen(far, np.zeros(6)), 10 / RATE, None)
    np.testing.assert_allclose(place, seen(far, np.zeros(6))[1], atol=1e-9)
    np.testing.assert_allclose(rotation, seen(far, np.zeros(6))[0], atol=1e-9)


def worst(told: list[CameraPose | None], real: list[CameraPose]) -> tuple[float, float]:
    """How far, m and degrees, the filtered face is ever from the true one, which does not tremble."""
    motion, apart, angle = PoseFilter(), 0.0, 0.0
    for frame, (place, camera) in enumerate(zip(told, real, strict=True)):
        true = seen(camera, np.zeros(6))
        rotation, translation = motion(*true, frame / RATE, place)
        apart = max(apart, float(np.linalg.norm(translation - true[1])))
        angle = max(angle, float(np.degrees(np.linalg.norm(cv2.Rodrigues(rotation @ true[0].T)[0]))))
    return apart, angle


@pytest.mark.parametrize(
    ("yaw", "shift"), [(0.0, [0.5, 0.0, 0.0]), (0.5, [0.0, 0.0, 0.0]), (np.pi, [3.0, 0.0, -2.0])]
)
def test_a_fixed_frame_that_leaps_moves_no_face(yaw, shift):
    """A map that is corrected, a place that was set anew: the camera has not moved."""
    leapt = turned(yaw, np.array(shift))
    told = [pan(0)] * 20 + [CameraPose(leapt.rotation @ pan(0).rotation, leapt.translation)] * 20
    apart, angle = worst(told, [pan(0)] * 40)
    assert apart < 1e-6 and angle < 1e-3


def test_a_fixed_frame_that_comes_back_after_a_gap_does_not_pull_the_face_back():
    real = [pan(frame) for frame in range(90)]
    told = [None if 20 <= frame < 30 or 50 <= frame < 56 else camera for frame, camera in enumerate(real)]
    untold, steady = worst([None] * 90, real), worst(real, real)
    apart, angle = worst(told, real)
    assert steady[0] < 1e-6 and apart <= 1.05 * untold[0] and angle <= 1.05 * untold[1]


def test_a_leap_that_a_walking_person_makes_is_none():
    """At 2 m/s past a camera that stands still, filtered as ever."""
    motion, plain = PoseFilter(), PoseFilter()
    for frame in range(30):
        place = np.array([2.0 * frame / RATE - 1.0, 0.0, 1.5])
        told = motion(FACE[0], place, frame / RATE, turned(0.3))
        expected = plain(FACE[0], place, frame / RATE)
        np.testing.assert_allclose(told[1], expected[1], atol=1e-9)


@pytest.mark.parametrize("told", [True, False])
def test_a_photograph_before_a_camera_that_pans(open_bundle, told):
    """The whole pipeline: a camera that only turns sees the same picture through a homography."""
    picture = cv2.resize(astronaut()[:400, 60:460], (640, 640))
    camera = Intrinsics.from_field_of_view(640, 640, 60.0)
    pipeline = FacePipeline(open_bundle, candidates=8, hypotheses=3)
    places = []
    for frame in range(60):
        place = turned(np.radians(6) * np.sin(2 * np.pi * frame / 30))
        view = camera.K @ place.rotation.T @ np.linalg.inv(camera.K)
        image = cv2.warpPerspective(picture, view, (640, 640), borderMode=cv2.BORDER_REPLICATE)
        (face,) = pipeline(image, frame / RATE, camera, place if told else None)
        places.append(place.rotation @ face.translation)
    sideways = np.array(places[20:])[:, 0].std()
    assert sideways < 0.0015 if told else sideways > 0.0025  # metres
