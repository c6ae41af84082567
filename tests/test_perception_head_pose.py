"""Head pose and intrinsics: axes, accuracy, outliers, bad starts, distortion, nonsense."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

from ofer_models.perception import crops
from ofer_models.perception.head_pose import HeadPose, estimate_head_pose, estimate_head_poses
from ofer_models.perception.intrinsics import Intrinsics, IntrinsicsError, project
from ofer_models.perception.landmarks import FaceLandmarker, Roi

UPRIGHT = np.diag([1.0, -1.0, -1.0])
# The canonical landmarks as a head in metres: image axes to head axes, eye centres 63 mm apart.
HEAD = crops._CANONICAL[:468].astype(np.float64) @ UPRIGHT * 0.1
CAMERA = Intrinsics.from_field_of_view(640, 480)


def turned(x: float, y: float, z: float) -> np.ndarray:
    return cv2.Rodrigues(np.array([x, y, z]))[0] @ UPRIGHT


def angle_between(a: np.ndarray, b: np.ndarray) -> float:
    """Degrees."""
    return float(np.degrees(np.linalg.norm(cv2.Rodrigues(a @ b.T)[0])))


def seen(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    return CAMERA.project(HEAD @ rotation.T + translation)


poses = st.tuples(
    st.tuples(st.floats(-0.6, 0.6), st.floats(-1.0, 1.0), st.floats(-1.5, 1.5)),
    st.tuples(st.floats(-0.2, 0.2), st.floats(-0.15, 0.15), st.floats(0.3, 2.0)),
)


@settings(deadline=None)
@given(poses)
def test_an_exact_pose_comes_back(pose):
    rotation, translation = turned(*pose[0]), np.array(pose[1])
    found = estimate_head_pose(seen(rotation, translation), HEAD, CAMERA.K)
    assert angle_between(found.rotation, rotation) < 0.01
    np.testing.assert_allclose(found.translation, translation, atol=1e-4)
    assert found.reprojection_px.max() < 0.01
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(poses, st.integers(0, 2**32 - 1))
def test_a_quarter_of_the_points_may_be_far_off(pose, seed):
    random = np.random.default_rng(seed)
    rotation, translation = turned(*pose[0]), np.array([*pose[1][:2], 0.6])
    points = seen(rotation, translation) + random.normal(0, 0.5, (468, 2))
    hidden = HEAD[:, 1] < np.quantile(HEAD[:, 1], 0.25)  # mouth and chin, pushed aside together
    points[hidden] += random.normal((25, 15), 4, (hidden.sum(), 2))
    found = estimate_head_pose(points, HEAD, CAMERA.K)
    assert angle_between(found.rotation, rotation) < 1.5
    assert np.median(found.reprojection_px[hidden]) > 10 > np.median(found.reprojection_px[~hidden])


def test_a_good_start_and_a_bad_one_end_at_the_same_pose():
    rotation, translation = turned(0.1, -0.4, 0.2), np.array([0.05, 0.0, 0.7])
    points = seen(rotation, translation) + np.random.default_rng(1).normal(0, 0.5, (468, 2))
    cold = estimate_head_pose(points, HEAD, CAMERA.K)
    for start in (turned(0.12, -0.35, 0.15), turned(0, 2.8, 0), turned(3.0, 0, 0)):
        for distance in (0.68, 5.0, -0.5):
            previous = HeadPose(start, np.array([0.04, 0.01, distance]), np.zeros(468))
            warm = estimate_head_pose(points, HEAD, CAMERA.K, previous)
            assert angle_between(warm.rotation, cold.rotation) < 0.05
            np.testing.assert_allclose(warm.translation, cold.translation, atol=1e-3)


def test_axes_on_a_real_face():
    centred = astronaut()[:248, 100:348].copy()  # a face off the axis is seen from below or from the side
    mesh = FaceLandmarker().locate(centred, Roi(124.0, 124.0, 163.0, 0.06)).points
    camera = Intrinsics.from_field_of_view(248, 248)
    pose = estimate_head_pose(mesh[:468, :2], HEAD, camera.K)
    assert angle_between(pose.rotation, UPRIGHT) < 20
    out_of_face, left_of_person, up = pose.rotation[:, 2], pose.rotation[:, 0], pose.rotation[:, 1]
    assert out_of_face[2] < -0.9 and left_of_person[0] > 0.9 and up[1] < -0.9
    assert 0.2 < pose.translation[2] < 0.5
    assert np.median(pose.reprojection_px) < 0.05 * 43  # of the inter-ocular distance


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda px, head: (px[:5], head[:5]), "at least 6"),
        (lambda px, head: (np.full_like(px, np.nan), head), "at least 6"),
        (lambda px, head: (px[:100], head), "expected points"),
    ],
)
def test_unusable_points_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        estimate_head_pose(*change(seen(UPRIGHT, np.array([0, 0, 0.6])), HEAD), CAMERA.K)


def test_one_bad_point_is_left_out():
    points = seen(UPRIGHT, np.array([0, 0, 0.6]))
    points[7] = np.nan
    found = estimate_head_pose(points, HEAD, CAMERA.K)
    np.testing.assert_allclose(found.translation, [0, 0, 0.6], atol=1e-5)
    assert np.isnan(found.reprojection_px[7])


def test_points_all_in_one_place_never_crash():
    try:
        pose = estimate_head_pose(np.full((468, 2), 100.0), HEAD, CAMERA.K)
    except ValueError as error:
        assert "head pose" in str(error)
    else:
        assert np.isfinite(pose.rotation).all() and np.isfinite(pose.translation).all()


def test_camera_info_of_zeros_is_no_calibration():
    for k, reason in ((0.0, "not calibrated"), (float("nan"), "not finite")):
        with pytest.raises(IntrinsicsError, match=reason):
            Intrinsics.from_camera_info([k] * 9, 640, 480)


def test_camera_info_numbers():
    camera = Intrinsics.from_camera_info([600, 0, 320, 0, 610, 240, 0, 0, 1], 640, 480, [0.0] * 5)
    assert camera.metric and camera.distortion.size == 0
    half = camera.scaled_to(320, 240)
    point = np.array([[0.1, -0.05, 0.8]])
    np.testing.assert_allclose(half.project(point), (camera.project(point) + 0.5) / 2 - 0.5)


def test_field_of_view():
    camera = Intrinsics.from_field_of_view(480, 640, 60)
    assert not camera.metric
    edge = np.array([[0, np.tan(np.radians(30)), 1.0]])
    np.testing.assert_allclose(camera.project(edge), [[239.5, 639.5]])
    with pytest.raises(ValueError, match="degrees"):
        Intrinsics.from_field_of_view(640, 480, 180)


@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", [-0.25, 0.07, 1e-3, -5e-4, 0.0]),
        ("rational_polynomial", [0.3, -0.1, 1e-4, 2e-4, 0.02, 0.6, -0.1, 0.01]),
        ("equidistant", [0.02, -0.01, 0.003, -0.001]),
        ("kannala_brandt4", [0.02, -0.01, 0.003, -0.001]),
        ("equidistant", [0.02, -0.01, 0.003, -0.001, *[0.0] * 5]),
        ("plumb_bob", [-0.25, 0.07, 1e-3, -5e-4]),
        ("plumb_bob", [-0.25, 0.07, 1e-3, -5e-4, 0.01, 0.0, 0.0]),
        ("rational_polynomial", [0.3, -0.1, 1e-4, 2e-4, 0.02, 0.6, -0.1, 0.01, 1e-3, 0, -1e-3, 0]),
    ],
)
def test_undistorted_landmarks_give_the_pose(model, distortion):
    camera = Intrinsics.from_camera_info(CAMERA.K.ravel(), 640, 480, distortion, model)
    rotation, translation = turned(0.1, 0.3, -0.2), np.array([0.12, 0.08, 0.6])
    points = camera.project(HEAD @ rotation.T + translation)
    found = estimate_head_pose(camera.undistort(points), HEAD, camera.K)
    assert angle_between(found.rotation, rotation) < 0.2
    np.testing.assert_allclose(found.translation, translation, atol=2e-3)


@pytest.mark.parametrize("distortion", [[], [-0.3, 0.1, 1e-3, 0.0, 0.0]])
def test_skew_counts_in_every_projection(distortion):
    k = CAMERA.K.copy()
    k[0, 1] = 40.0
    camera = Intrinsics.from_camera_info(k.ravel(), 640, 480, distortion, "plumb_bob")
    rotation, translation = turned(0.1, 0.3, -0.2), np.array([0.12, 0.08, 0.6])
    points = camera.project(HEAD @ rotation.T + translation)
    if not distortion:
        np.testing.assert_allclose(points, project(HEAD @ rotation.T + translation, k))
    found = estimate_head_pose(camera.undistort(points), HEAD, camera.K)
    assert angle_between(found.rotation, rotation) < 0.2
    np.testing.assert_allclose(found.translation, translation, atol=2e-3)


# A camera of a stereo pair: its rectified image is turned, has other focal lengths, and is of the second camera.
STEREO = {
    "k": [900.0, 0, 330, 0, 905, 235, 0, 0, 1],
    "d": [-0.35, 0.12, 1e-3, -5e-4, 0.0],
    "distortion_model": "plumb_bob",
    "r": cv2.Rodrigues(np.array([0.02, -0.05, 0.03]))[0].ravel(),
    "p": [719.0, 0, 321, -719 * 0.12, 0, 719, 242, 0, 0, 0, 1, 0],
}


def test_raw_and_rectified_images_give_the_same_pose_and_p_is_what_projects():
    rotation, translation = turned(0.1, 0.3, -0.2), np.array([0.12, 0.03, 1.3])
    placed = HEAD @ rotation.T + translation
    seen_at = {}
    for rectified in (False, True):
        camera = Intrinsics.from_camera_info(width=640, height=480, rectified=rectified, **STEREO)
        seen_at[rectified] = points = camera.project(placed)
        found = estimate_head_pose(camera.undistort(points), HEAD, camera.K)
        assert angle_between(found.rotation, rotation) < 0.1
        np.testing.assert_allclose(found.translation - camera.offset, translation, atol=1e-3)
    P = np.array(STEREO["p"]).reshape(3, 4)
    by_p = np.concatenate([placed, np.ones((len(placed), 1))], axis=1) @ P.T
    np.testing.assert_allclose(seen_at[True], by_p[:, :2] / by_p[:, 2:], atol=1e-9)
    # OpenCV's own rectification of the raw pixels, as image_proc does it.
    k, d, r = np.array(STEREO["k"]).reshape(3, 3), np.array(STEREO["d"]), np.array(STEREO["r"]).reshape(3, 3)
    tight = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-9)
    by_opencv = cv2.undistortPointsIter(np.ascontiguousarray(seen_at[False][:, None]), k, d, r, P, tight)[:, 0]
    np.testing.assert_allclose(by_opencv, seen_at[True], atol=1e-3)


GOOD_K = [600.0, 0, 320, 0, 610, 240, 0, 0, 1]
GOOD_P = [600.0, 0, 320, 0, 0, 610, 240, 0, 0, 0, 1, 0]


def changed(numbers: list[float], index: int, value: float) -> list[float]:
    return [*numbers[:index], value, *numbers[index + 1 :]]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"d": [0.1, 0.1, 0.1], "distortion_model": "plumb_bob"}, "D has 3 coefficients, its model 'plumb_bob' has 4"),
        ({"d": [0.1] * 6, "distortion_model": "plumb_bob"}, "D has 6"),
        ({"d": [0.1] * 7, "distortion_model": "plumb_bob"}, "D has 7"),
        ({"d": [0.1] * 5, "distortion_model": "rational_polynomial"}, "D has 5"),
        ({"d": [0.1] * 5, "distortion_model": "equidistant"}, "D has 5"),
        ({"d": [0.1] * 3, "distortion_model": "kannala_brandt4"}, "D has 3"),
        ({"d": [0.1] * 5, "distortion_model": "thin_bob"}, "model 'thin_bob' is not known"),
        ({"d": [0.1] * 5, "distortion_model": ""}, "model '' is not known"),
        ({"d": [float("nan")] * 5, "distortion_model": "plumb_bob"}, "D is not finite"),
        ({"k": changed(GOOD_K, 0, 1e9)}, "no focal lengths"),
        ({"k": changed(GOOD_K, 4, -600.0)}, "no focal lengths"),
        ({"k": changed(GOOD_K, 8, 0.0)}, "K is no camera matrix"),
        ({"k": changed(GOOD_K, 2, 1e7)}, "principal point"),
        ({"k": changed(GOOD_K, 5, float("inf"))}, "K is not finite"),
        ({"width": 0}, "its size is 0 x 480"),
        ({"rectified": True}, "P is zero"),
        ({"p": changed(GOOD_P, 0, float("nan")), "rectified": True}, "P is not finite"),
        ({"p": changed(GOOD_P, 3, float("nan")), "rectified": True}, "P is not finite"),
        ({"r": [2.0, 0, 0, 0, 1, 0, 0, 0, 1]}, "R is no rotation"),
    ],
)
def test_what_cannot_be_a_camera_is_refused_with_the_reason(fields, reason):
    with pytest.raises(IntrinsicsError, match=reason) as caught:
        Intrinsics.from_camera_info(**{"k": GOOD_K, "width": 640, "height": 480} | fields)
    assert "\n" not in str(caught.value)


def test_many_faces_at_once_get_the_poses_they_get_alone():
    random = np.random.default_rng(0)
    rotations = [turned(*random.normal(0, 0.3, 3)) for _ in range(6)]
    shifts = [np.array([*random.uniform(-0.1, 0.1, 2), random.uniform(0.4, 1.5)]) for _ in range(6)]
    heads = HEAD + random.normal(0, 0.001, (6, *HEAD.shape))
    points = np.stack([CAMERA.project(h @ r.T + t) for h, r, t in zip(heads, rotations, shifts, strict=True)])
    points += random.normal(0, 0.7, points.shape)
    points[4, :100] += 25  # a hidden part, guessed wrongly
    near = [
        HeadPose(turned(0.05, 0, 0) @ UPRIGHT @ r, t + 0.01, np.zeros(468))
        for r, t in zip(rotations, shifts, strict=True)
    ]
    previous = [near[0], None, near[2], None, near[4], near[0]]  # the last of them is a bad start
    together = estimate_head_poses(points, heads, CAMERA.K, previous)
    for found, *alone in zip(together, points, heads, previous, strict=True):
        expected = estimate_head_pose(alone[0], alone[1], CAMERA.K, alone[2])
        np.testing.assert_allclose(found.rotation, expected.rotation, atol=1e-9)
        np.testing.assert_allclose(found.translation, expected.translation, atol=1e-9)
        np.testing.assert_allclose(found.reprojection_px, expected.reprojection_px, atol=1e-6)
    points[2, 5] = np.nan
    for found, *alone in zip(
        estimate_head_poses(points, heads, CAMERA.K, previous), points, heads, previous, strict=True
    ):
        expected = estimate_head_pose(alone[0], alone[1], CAMERA.K, alone[2])
        np.testing.assert_allclose(found.translation, expected.translation, atol=1e-9)


def test_two_rounds_from_the_frame_before_are_enough_to_start_from():
    random = np.random.default_rng(0)
    points, before, rights = [], [], []
    for _ in range(8):
        rotation, translation = turned(*random.uniform(-0.5, 0.5, 3)), np.array([*random.uniform(-0.1, 0.1, 2), 0.6])
        points.append(seen(rotation, translation) + random.normal(0, 0.5, (468, 2)))
        step = cv2.Rodrigues(np.radians(random.uniform(-4, 4, 3)))[0]  # a quick turn in a thirtieth of a second
        before.append(HeadPose(step @ rotation, translation + random.uniform(-0.01, 0.01, 3), np.zeros(468)))
        rights.append(rotation)
    models = np.repeat(HEAD[None], 8, axis=0)
    near = estimate_head_poses(np.stack(points), models, CAMERA.K, before, rounds=2)
    exact = estimate_head_poses(np.stack(points), models, CAMERA.K, before)
    apart = [angle_between(a.rotation, b.rotation) for a, b in zip(near, exact, strict=True)]
    assert 0 < max(apart) < 0.1, "rounds are limited, and do not matter"
    assert max(angle_between(a.rotation, b) for a, b in zip(near, rights, strict=True)) < 0.3
    fresh = estimate_head_poses(np.stack(points), models, CAMERA.K, [None] * 8, rounds=1)
    assert max(angle_between(a.rotation, b.rotation) for a, b in zip(fresh, exact, strict=True)) < 0.1
