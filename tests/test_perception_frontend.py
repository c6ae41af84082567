"""The whole front end on moving, hidden, crossing and vanishing faces made from a photograph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from ofer_models.perception import frontend as frontend_module
from ofer_models.perception.frontend import FaceFrontend
from ofer_models.perception.landmarks import FaceLandmarker, LandmarkResult, Roi

PHOTOGRAPHS = sorted((Path(__file__).resolve().parents[2] / "shared" / "images").glob("*.jpg"))
EYE_DISTANCE = 43.0  # px in the photograph
RATE = 30


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return astronaut()


@pytest.fixture(scope="module")
def mesh(picture) -> np.ndarray:
    return FaceLandmarker().locate(picture, Roi(224.0, 124.0, 163.0, 0.06)).points


@pytest.fixture
def frontend() -> FaceFrontend:
    return FaceFrontend()


def view(picture, x=320.0, y=240.0, scale=1.4, roll=0.0) -> tuple[np.ndarray, np.ndarray]:
    """A 640 x 480 frame with the face at (x, y) px, and the (2, 3) map from the photograph to it."""
    matrix = cv2.getRotationMatrix2D((224, 124), roll, scale)
    matrix[:, 2] += (x - 224, y - 124)
    return cv2.warpAffine(picture, matrix, (640, 480)), matrix


def wandering(picture, frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for t in np.arange(frames) / RATE:
        yield view(
            picture,
            320 + 120 * np.sin(1.6 * t),
            240 + 50 * np.sin(2.2 * t),
            1.4 + 0.4 * np.sin(t),
            20 * np.sin(1.4 * t),
        )


def error_of(track, mesh, matrix) -> float:
    """Mean distance to the moved reference mesh, as a part of the inter-ocular distance."""
    expected = mesh[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    return float(
        np.linalg.norm(track.points[:, :2] - expected, axis=1).mean() / (EYE_DISTANCE * np.hypot(*matrix[:, 0]))
    )


def test_a_moving_face_is_one_track_with_its_landmarks_in_place(frontend, picture, mesh):
    for i, (frame, matrix) in enumerate(wandering(picture, 120)):
        (track,) = frontend(frame, i / RATE)
        assert track.id == "f1" and track.visible and track.confidence > 0.9
        assert error_of(track, mesh, matrix) < 0.05
    assert track.age == pytest.approx(119 / RATE)


def test_a_followed_face_costs_one_inference_a_frame(frontend, picture, monkeypatch):
    calls = {"landmarks": 0, "detector": 0}

    def counted(name, function):
        def count(*args):
            calls[name] += 1
            return function(*args)

        return count

    frames = [frame for frame, _ in wandering(picture, 51)]
    frontend(frames[0], 0.0)
    monkeypatch.setattr(frontend._landmarker, "_infer", counted("landmarks", frontend._landmarker._infer))
    monkeypatch.setattr(frontend._detector, "detect", counted("detector", frontend._detector.detect))
    for i, frame in enumerate(frames[1:], start=1):
        frontend(frame, i / RATE)
    assert calls == {"landmarks": 50, "detector": 10}


def test_an_occluder_sweeping_across_keeps_the_id_and_leaves_no_bad_mesh(frontend, picture, mesh):
    frame, matrix = view(picture)
    wrong, hidden = 0, 0
    for i in range(110):
        covered = frame.copy()
        x = 8 * i - 190
        covered[:, max(x, 0) : max(x + 190, 0)] = (60, 110, 70)
        tracks = frontend(covered, i / RATE)
        assert {track.id for track in tracks} == {"f1"}
        (track,) = tracks
        hidden += not track.visible
        wrong += track.visible and error_of(track, mesh, matrix) > 0.3
    assert track.visible and error_of(track, mesh, matrix) < 0.03
    assert 3 < hidden < 30 and wrong <= 6


def test_a_mesh_that_no_detection_confirms_is_dropped(frontend, picture, monkeypatch):
    frontend(picture, 0.0)
    monkeypatch.setattr(frontend._detector, "detect", lambda rgb, quarters: [])
    visible = [frontend(picture, stamp)[0].visible for stamp in np.arange(1, 30) / RATE]
    first_lost = visible.index(False)
    assert 0.5 < (first_lost + 1) / RATE < 0.9 and not any(visible[first_lost:])


def test_a_mesh_shrunk_onto_half_the_face_is_placed_anew(picture, mesh, monkeypatch):
    monkeypatch.setattr(frontend_module, "DETECT_EVERY", 2)
    frontend = FaceFrontend()
    matrix = np.eye(3)[:2]
    frontend(picture, 0.0)
    shrunk = ((mesh - mesh[205]) * 0.45 + mesh[205]).astype(np.float32)  # onto one cheek
    monkeypatch.setattr(frontend, "_follow", lambda rgb, passed: {"f1": LandmarkResult(shrunk, 1.0)})
    (wrong,) = frontend(picture, 0.03)
    (right,) = frontend(picture, 0.06)
    assert error_of(wrong, mesh, matrix) > 0.3 > 0.03 > error_of(right, mesh, matrix)
    assert right.id == "f1"


def test_two_faces_crossing_one_behind_the_other(frontend, picture, mesh):
    """The nearer face passes in front of a farther one, cut out along its outline."""
    sides = {}
    outline = cv2.convexHull(np.ascontiguousarray(mesh[:, :2]))
    for i in range(100):
        far, far_map = view(picture, x=540 - 4.4 * i, y=200, scale=0.9)
        near, near_map = view(picture, x=100 + 4.4 * i, y=220, scale=1.3)
        mask = np.zeros(frame_shape := near.shape[:2], np.uint8)
        shape = (outline[:, 0] - mesh[:, :2].mean(axis=0)) * 1.35 + mesh[:, :2].mean(axis=0)
        cv2.fillPoly(mask, [np.round(shape @ near_map[:, :2].T + near_map[:, 2]).astype(np.int32)], 1)
        frame = np.where(mask[..., None] > 0, near, far)
        assert frame.shape[:2] == frame_shape
        for track in frontend(frame, i / RATE):
            if track.visible and not 25 < i < 75:
                near_error, far_error = error_of(track, mesh, near_map), error_of(track, mesh, far_map)
                assert min(near_error, far_error) < 0.15
                sides.setdefault(track.id, set()).add("near" if near_error < far_error else "far")
    assert sorted(sides) == ["f1", "f2"] and {next(iter(s)) for s in sides.values()} == {"near", "far"}
    assert all(len(side) == 1 for side in sides.values())


def test_a_face_that_leaves_is_lost_and_then_gone(frontend, picture):
    frame, _ = view(picture)
    frontend(frame, 0.0)
    empty = np.full_like(frame, 90)
    (lost,) = frontend(empty, 0.1)
    assert lost.lost == pytest.approx(0.1) and not lost.visible
    assert frontend(empty, 1.2) == []
    (back,) = frontend(frame, 1.3)
    assert back.id == "f2"


def test_max_faces(picture):
    small = cv2.resize(picture[:250, 100:350], (213, 213))
    crowd = np.hstack([small, small, small])
    assert len(FaceFrontend(max_faces=4)(crowd, 0.0)) == 3
    frontend = FaceFrontend(max_faces=2)
    for i in range(12):
        assert [track.id for track in frontend(crowd, i / RATE)] == ["f1", "f2"]


@pytest.mark.parametrize("size", [(1, 1), (1, 640), (2, 3)])
def test_tiny_frames_hold_no_face(frontend, size):
    assert frontend(np.zeros((*size, 3), np.uint8), 0.0) == []


def test_an_8000_pixel_frame(frontend, picture):
    huge = cv2.resize(picture, (8000, 8000), interpolation=cv2.INTER_LINEAR)
    (track,) = frontend(huge, 0.0)
    assert np.linalg.norm(track.points[4, :2] / (8000 / 512) - [224, 125]) < 5


def test_another_frame_size_starts_anew(frontend, picture):
    (first,) = frontend(picture, 0.0)
    (second,) = frontend(picture[:400, :400], 0.03)
    assert (first.id, second.id) == ("f1", "f2")


def test_reset_forgets_but_never_gives_an_id_twice(frontend, picture):
    frontend(picture, 5.0)
    frontend.reset()
    (track,) = frontend(picture, 0.0)
    assert track.id == "f2" and track.age == 0


@pytest.mark.parametrize(
    ("frame", "stamp", "message"),
    [
        (np.zeros((480, 640), np.uint8), 0.0, "RGB image"),
        (np.zeros((480, 640, 4), np.uint8), 0.0, "RGB image"),
        (np.zeros((480, 640, 3), np.uint16), 0.0, "RGB image"),
        (np.zeros((0, 640, 3), np.uint8), 0.0, "RGB image"),
        (np.zeros((480, 640, 3), np.uint8), float("nan"), "finite stamp"),
    ],
)
def test_bad_input_is_refused_and_the_next_frame_works(frontend, picture, frame, stamp, message):
    with pytest.raises(ValueError, match=message):
        frontend(frame, stamp)
    assert len(frontend(picture, 1.0)) == 1


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        FaceFrontend(max_faces=0)


@pytest.mark.skipif(not PHOTOGRAPHS, reason="the shared photographs are not here")
def test_shared_photographs():
    """Nine of the ten give a mesh; in the tenth the face is a full profile behind a pumpkin."""
    missed = []
    for path in PHOTOGRAPHS:
        tracks = FaceFrontend()(cv2.imread(str(path))[..., ::-1], 0.0)
        assert len(tracks) <= 1
        if not tracks:
            missed.append(path.stem)
    assert missed == ["occluded_05"]


@pytest.mark.parametrize(
    ("stamps", "new"),
    [((0.0, 0.03, 0.06, 0.09, 0.12), True), ((0.0, 0.03, 0.06, 0.5, 0.53), True), ((0.0, 0.5, 1.0, 1.5, 2.0), False)],
    ids=["quick", "one frame late", "slow camera"],
)
def test_a_cut_to_another_scene_starts_new_ids(frontend, picture, stamps, new):
    """A face at the same place, but in another picture, is somebody else; a slow camera's pictures all differ."""
    frame, _ = view(picture)
    rng = np.random.default_rng(0)
    other = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    mask = cv2.ellipse(np.zeros((480, 640), np.uint8), (320, 240), (95, 120), 0, 0, 360, 255, -1) > 0
    other[mask] = frame[mask]
    shown = [frame] * 3 + [other] * 2
    ids = [[track.id for track in frontend(*both)] for both in zip(shown, stamps, strict=True)]
    assert ids == [["f1"]] * 3 + [["f2" if new else "f1"]] * 2


@pytest.mark.parametrize("change", ["darker", "blank frame", "flash"])
def test_light_and_lost_frames_are_no_cut(frontend, picture, change):
    frame, _ = view(picture)
    odd = {
        "darker": (0.4 * frame).astype(np.uint8),
        "blank frame": np.zeros_like(frame),
        "flash": cv2.add(frame, (90, 90, 90, 0)),
    }[change]
    for i, shown in enumerate([frame, frame, odd, odd, frame, frame]):
        tracks = frontend(shown, i / RATE)
    assert [track.id for track in tracks if track.visible] == ["f1"]


def test_photographs_in_a_row_are_different_people(frontend):
    if not PHOTOGRAPHS:
        pytest.skip("../shared/images is not here")
    seen: list[set[str]] = []
    for index, file in enumerate(PHOTOGRAPHS):
        rgb = np.ascontiguousarray(cv2.imread(str(file))[..., ::-1])
        visible = [frontend(rgb, (5 * index + i) / RATE) for i in range(5)]
        seen.append({track.id for tracks in visible for track in tracks if track.visible})
    assert all(not a & b for i, a in enumerate(seen) for b in seen[:i]), "an id went from one photograph to another"


@pytest.mark.parametrize(("score", "seen_in_runs", "expected"), [(0.45, 1, 1), (0.45, 2, 2), (0.9, 1, 2)])
def test_a_weak_detection_beside_a_face_must_be_found_twice(
    frontend, picture, monkeypatch, score, seen_in_runs, expected
):
    """A real second face, whose detection is made weak or short."""
    one, _ = view(picture, x=180, scale=1.0)
    both = one.copy()
    both[:, 320:] = view(picture, x=470, scale=1.0)[0][:, 320:]
    detect, runs = frontend._detector.detect, []

    def doctored(rgb, quarters):
        if quarters:
            return []
        found = detect(rgb)
        runs.append(len(found))
        second = [replace(face, score=score) for face in found if face.box[0] > 320]
        first = [face for face in found if face.box[0] <= 320]
        return first + (second if len(runs) in range(2, 2 + seen_in_runs) else [])

    monkeypatch.setattr(frontend._detector, "detect", doctored)
    tracks = [frontend(one if i == 0 else both, i / RATE) for i in range(3 * frontend_module.DETECT_EVERY)]
    assert len(runs) >= 3
    assert max(sum(track.visible for track in found) for found in tracks) == expected


@pytest.mark.parametrize(("passed", "beside"), [(1 / RATE, True), (0.2, False)])
def test_the_detector_runs_between_quick_frames_and_changes_nothing_by_that(picture, monkeypatch, passed, beside):
    """Of a slow camera's frames the last one says too little: there it sees the frame itself."""
    alone, ahead = FaceFrontend(), FaceFrontend()
    runs, inside = [], []
    detect = ahead._detector.detect

    def counted(*arguments):
        runs.append(bool(inside))
        return detect(*arguments)

    monkeypatch.setattr(ahead._detector, "detect", counted)
    for i in range(3 * frontend_module.DETECT_EVERY):
        frame = view(picture, x=300 + 2 * i, scale=1.0)[0]
        (expected,) = alone(frame, i * passed)
        inside.append(True)
        (found,) = ahead(frame, i * passed)
        inside.clear()
        ahead.look_ahead()
        np.testing.assert_array_equal(found.points, expected.points)
    assert runs[0] and len(runs) >= 3
    assert any(runs[1:]) != beside and all(runs[1:]) != beside
