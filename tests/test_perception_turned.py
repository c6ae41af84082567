"""Faces of any roll, cameras mounted sideways, and faces that are small in a large picture."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from ofer_models.perception.crops import quarter_of
from ofer_models.perception.detector import FaceDetector
from ofer_models.perception.encoder_inputs import encoder_inputs
from ofer_models.perception.frontend import FaceFrontend
from ofer_models.pipeline import FacePipeline

CENTRE, SIDE = (224, 124), 400  # of the astronaut's face, and of the pictures made of it, px


@pytest.fixture(scope="module")
def frontend() -> FaceFrontend:
    return FaceFrontend()


def turned(degrees: float) -> np.ndarray:
    """The astronaut turned clockwise about her face."""
    matrix = cv2.getRotationMatrix2D(CENTRE, -degrees, 1.0)
    matrix[:, 2] += SIDE / 2 - np.array(CENTRE)
    return cv2.warpAffine(astronaut(), matrix, (SIDE, SIDE))


def roll_of(points: np.ndarray) -> float:
    """Degrees, positive when turned clockwise on the screen."""
    x, y = points[[362, 263], :2].mean(axis=0) - points[[33, 133], :2].mean(axis=0)
    return math.degrees(math.atan2(y, x))


def off(found: float, wanted: float) -> float:
    return abs(math.remainder(found - wanted, 360))


@pytest.fixture(scope="module")
def upright_roll(frontend) -> float:
    frontend.reset()
    return roll_of(frontend(turned(0), 0.0)[0].points)


@pytest.mark.parametrize("degrees", range(0, 360, 10))
def test_a_face_of_any_roll_is_found_the_right_way_round(frontend, upright_roll, degrees):
    frontend.reset()
    (track,) = frontend(turned(degrees), 0.0)
    assert off(roll_of(track.points), upright_roll + degrees) < 3
    assert np.abs(track.points[:, :2].mean(axis=0) - SIDE / 2).max() < 25


@pytest.mark.parametrize(("start", "step"), [(0, 12), (180, 0), (240, -12)])
def test_a_face_is_followed_all_the_way_round(frontend, upright_roll, start, step):
    frontend.reset()
    ids = set()
    for n in range(30):
        (track,) = frontend(turned(start + step * n), n / 30)
        assert track.visible and off(roll_of(track.points), upright_roll + start + step * n) < 3
        ids.add(track.id)
    assert len(ids) == 1


@pytest.mark.parametrize("degrees", [90, 150, 180, 250])
def test_a_turned_head_has_the_pose_and_the_expression_of_the_upright_one(open_bundle, degrees):
    pipeline = FacePipeline(open_bundle, candidates=8)
    (face,), (straight,) = (FacePipeline(open_bundle, candidates=8)(turned(d), 0.0) for d in (degrees, 0))
    between = face.rotation @ straight.rotation.T
    about_the_view = cv2.Rodrigues(between)[0][:, 0]
    expected = np.array([0, 0, math.remainder(math.radians(degrees), 2 * math.pi)])
    if abs(degrees) == 180 and about_the_view[2] < 0:
        about_the_view = -about_the_view
    assert np.degrees(np.linalg.norm(about_the_view - expected)) < 5
    assert face.landmark_error < 1.3 * straight.landmark_error
    apart = [np.linalg.norm(pipeline.vertices(one) - pipeline.vertices(straight), axis=1).mean() for one in (face,)]
    assert max(apart) < 0.004


def test_an_upright_face_costs_no_look_around_and_a_mounting_neither(frontend):
    frontend.reset()
    assert frontend(astronaut(), 0.0) and frontend._looked_around == -math.inf
    for rotation, quarters, roll in ((90, 1, -90), (180, 2, 180), (270, 3, 90)):
        mounted = FaceFrontend(camera_rotation=rotation)
        (track,) = mounted(np.ascontiguousarray(np.rot90(astronaut(), quarters)), 0.0)
        assert off(roll_of(track.points), roll) < 8 and mounted._looked_around == -math.inf
    with pytest.raises(ValueError, match="0, 90, 180 or 270"):
        FaceFrontend(camera_rotation=45)


def test_an_empty_picture_is_looked_at_all_round_twice_a_second_only(frontend, monkeypatch):
    frontend.reset()
    looks, search = [], frontend._search

    def noted(rgb, quarters):
        looks.append(list(quarters))
        return search(rgb, quarters)

    monkeypatch.setattr(frontend, "_search", noted)
    for n in range(30):
        frontend(np.full((240, 320, 3), 90, np.uint8), n / 30)
    assert [quarters for quarters in looks if quarters != [0]] == [[1, 2, 3]] * 2


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_detections_in_a_turned_picture_are_places_in_the_picture_as_it_is(quarters):
    detector, rgb = FaceDetector(), astronaut()[:300, :460]
    (straight,) = detector.detect(rgb)
    lying = np.ascontiguousarray(np.rot90(rgb, -quarters))
    (found,) = detector.detect(lying, quarters)
    height, width = rgb.shape[:2]
    x, y = straight.keypoints.T
    expected = {1: (height - 1 - y, x), 2: (width - 1 - x, height - 1 - y), 3: (y, width - 1 - x)}[quarters]
    np.testing.assert_allclose(found.keypoints, np.stack(expected, axis=-1), atol=0.05)
    middle = found.keypoints.mean(axis=0)
    assert (found.box[:2] < middle).all() and (middle < found.box[:2] + found.box[2:]).all()


@pytest.mark.parametrize(("degrees", "quarter"), [(0, 0), (44, 0), (-44, 0), (46, 1), (180, 2), (-179, 2), (-90, 3)])
def test_quarters(degrees, quarter):
    assert quarter_of(math.radians(degrees)) == quarter


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_encoders_see_a_turned_face_upright(frontend, quarters):
    rgb = astronaut()
    frontend.reset()
    points = frontend(rgb, 0.0)[0].points
    height, width = rgb.shape[:2]
    x, y = points[:, :2].T
    turned_back = {1: (y, width - 1 - x), 2: (width - 1 - x, height - 1 - y), 3: (height - 1 - y, x)}[quarters]
    lying = np.concatenate([np.stack(turned_back, axis=-1), points[:, 2:]], axis=1)
    names = ("crop224", "crop112", "landmarks")
    upright = encoder_inputs(rgb, points[None], names)
    found = encoder_inputs(np.ascontiguousarray(np.rot90(rgb, quarters)), lying[None], names)
    for name in names:
        assert np.abs(found[name] - upright[name]).mean() < 0.06, name


def crowd(width: int, height: int, faces: int, size: int) -> np.ndarray:
    """So many faces of this width, px, in rows."""
    face = astronaut()[0:280, 90:370]
    side = round(280 * size / 110)
    face = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    picture = np.full((height, width, 3), 110, np.uint8)
    columns = math.ceil(math.sqrt(faces * width / height))
    rows = math.ceil(faces / columns)
    for n in range(faces):
        x = int((n % columns + 0.5) * width / columns - side / 2)
        y = int((n // columns + 0.5) * height / rows - side / 2)
        picture[y : y + side, x : x + side] = face
    return picture


@pytest.mark.parametrize(
    ("size", "faces", "wide"), [((3840, 2160), 1, 240), ((3840, 2160), 24, 120), ((1920, 1080), 12, 60)]
)
def test_small_faces_are_all_found_where_they_are_looked_for(size, faces, wide):
    picture = crowd(*size, faces, wide)
    found = FaceFrontend(100, small_faces=True)(picture, 0.0)
    assert len(found) == faces
    assert all(abs(track.box[2] / wide - 1) < 0.35 for track in found)
    if faces > 1:
        assert len(FaceFrontend(100)(picture, 0.0)) < faces
