"""The whole chain without ROS, with the shipped bundle, on a photograph."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from ofer_models.bundle import Bundle, BundleError
from ofer_models.head.landmark_sets import ON_PEOPLE
from ofer_models.perception.head_pose import HeadPose
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.pipeline import Face, FacePipeline
from ofer_models.pipeline_settings import PipelineSettings
from ofer_models.tracking import reprojection

ROOT = Path(__file__).resolve().parents[1]
RATE = 30


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return astronaut()


def view(picture: np.ndarray, x: float = 320, y: float = 240, scale: float = 1.5, roll: float = 0) -> np.ndarray:
    """A 640 x 480 frame with the face at (x, y) px."""
    matrix = cv2.getRotationMatrix2D((224, 124), roll, scale)
    matrix[:, 2] += (x - 224, y - 124)
    return cv2.warpAffine(picture, matrix, (640, 480))


@pytest.fixture(scope="module")
def make(open_bundle) -> Callable[..., FacePipeline]:
    return lambda **options: FacePipeline(open_bundle, **options)


@pytest.fixture(scope="module")
def shared_pipeline(make) -> FacePipeline:
    return make()


@pytest.fixture
def pipeline(shared_pipeline) -> FacePipeline:
    """A pipeline that has forgotten everything but the number of the next id."""
    shared_pipeline.reset()
    return shared_pipeline


def only(faces: list[Face]) -> Face:
    assert len(faces) == 1
    return faces[0]


def same(a: Face, b: Face) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(Face) if field.name != "id"
    )


def test_a_photograph_gives_one_face_that_fits(pipeline, picture):
    face = only(pipeline(picture, 0.0))
    bundle = pipeline.bundle
    assert face.id.startswith("f") and face.identity_revision == 1 and 0 < face.identity_score <= 1
    assert face.landmark_error < 0.04
    assert face.shape.shape == (bundle.n_shape,) and face.landmarks.shape == (478, 3)
    assert face.expressions.shape == (bundle.hypotheses, 50) and face.jaws.shape == (bundle.hypotheses, 3)
    assert face.expressions.dtype == face.jaws.dtype == face.scores.dtype == np.float32
    assert face.expressions.min() >= 0 and face.expressions.max() <= 1
    assert face.scores.sum() == pytest.approx(1, abs=1e-5) and face.selected == face.scores.argmax()
    assert 0 <= face.occlusion <= 1 and 0.5 < face.confidence <= 1
    x, y, width, height = face.roi
    assert x < 224 < x + width and y < 124 < y + height and 60 < width < 200
    np.testing.assert_allclose(face.rotation @ face.rotation.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(face.rotation) > 0 and face.rotation[1, 1] < -0.8 and face.rotation[2, 2] < -0.8
    assert {"perception", "context", "identity", "expression", "pose", "total"} <= pipeline.timings.keys()
    assert all(value >= 0 for value in pipeline.timings.values())


def test_the_mesh_lies_on_the_face(pipeline, picture):
    """Pose, intrinsics and vertices together: what a user draws over the frame."""
    frame = view(picture)
    face = only(pipeline(frame, 0.0))
    camera = pipeline.vertices(face) @ face.rotation.T + face.translation
    seen = Intrinsics.from_field_of_view(640, 480).project(pipeline.head.landmarks(camera, ON_PEOPLE))
    apart = np.linalg.norm(seen - face.landmarks[:468, :2], axis=1).mean()
    eyes = face.landmarks[[[33, 133], [362, 263]], :2].mean(1)
    assert apart / np.linalg.norm(eyes[1] - eyes[0]) < 0.05
    # The error is to the points as MediaPipe and the bundle's own network see them together.
    assert apart / np.linalg.norm(eyes[1] - eyes[0]) == pytest.approx(face.landmark_error, rel=0.5)


def test_equal_seeds_and_frames_give_equal_faces(make, picture):
    frames = [view(picture, 320 + 5 * n) for n in range(4)]
    first, second, other = (make(seed=seed) for seed in (3, 3, 4))
    for n, frame in enumerate(frames):
        a, b, c = (only(p(frame, n / RATE)) for p in (first, second, other))
        assert a.id == b.id and same(a, b)
        assert not np.array_equal(a.expressions, c.expressions)
    first.reset()
    again = only(first(frames[0], 9.0))
    second.reset()
    assert same(again, only(second(frames[0], 9.0)))


def test_one_person_stays_one_track_with_one_head(pipeline, picture):
    seen = []
    for n in range(45):
        t = n / RATE
        frame = view(
            picture, 320 + 110 * np.sin(3 * t), 240 + 30 * np.sin(5 * t), 1.5 + 0.3 * np.sin(2 * t), 12 * np.sin(4 * t)
        )
        seen.append(only(pipeline(frame, t)))
    assert len({face.id for face in seen}) == 1
    revisions = [face.identity_revision for face in seen]
    assert revisions == sorted(revisions) and revisions[-1] <= 3 and revisions[15] == revisions[-1]
    for before, after in pairwise(seen):
        if before.identity_revision == after.identity_revision:
            assert np.array_equal(before.shape, after.shape) and before.identity_score == after.identity_score
    assert np.mean([face.landmark_error for face in seen]) < 0.045
    assert np.ptp([face.translation[2] for face in seen[16:]]) < 0.6  # it moves in depth, but does not jump about


def test_hypotheses_persist_on_a_still_picture(pipeline, picture):
    """The noise belongs to the track: what differs from frame to frame is only how the landmarks tremble."""
    faces = [only(pipeline(view(picture), n / RATE)) for n in range(45)]
    between_frames = np.abs(faces[-1].expressions - faces[-2].expressions).mean()
    between_hypotheses = np.abs(faces[-1].expressions - np.roll(faces[-1].expressions, 1, axis=0)).mean()
    assert between_hypotheses > 0.005
    assert between_frames < 0.25 * between_hypotheses
    spreads = [face.expressions.std(0) for face in faces[20:]]
    # Also as means touch an end of their range: an opposite muscle's spread hangs on it.
    assert max(np.abs(now - before).max() for before, now in pairwise(spreads)) < 0.05


def test_two_people_get_a_head_and_noise_each(pipeline, picture):
    face = picture[0:280, 90:370]
    frame = np.concatenate([face, face[:, ::-1]], axis=1)
    faces = pipeline(frame, 0.0)
    assert len(faces) == 2 and faces[0].id != faces[1].id
    assert not np.array_equal(faces[0].expressions, faces[1].expressions)
    assert not np.array_equal(faces[0].shape, faces[1].shape)
    left, right = sorted(faces, key=lambda f: f.roi[0])
    assert left.translation[0] < 0 < right.translation[0]


def test_a_face_without_a_pose_does_not_cost_the_others(pipeline, picture, monkeypatch):
    face = picture[0:280, 90:370]
    frame = np.concatenate([face, face[:, ::-1]], axis=1)
    solve = reprojection.estimate_head_poses

    def fails_on_the_left(points: np.ndarray, *rest: object, **how: int) -> list[HeadPose | None]:
        poses = solve(points, *rest, **how)
        return [None if seen[:, 0].mean() < 280 else pose for seen, pose in zip(points, poses, strict=True)]

    monkeypatch.setattr(reprojection, "estimate_head_poses", fails_on_the_left)
    assert only(pipeline(frame, 0.0)).translation[0] > 0
    monkeypatch.setattr(reprojection, "estimate_head_poses", solve)
    assert len(pipeline(frame, 0.03)) == 2


def test_max_faces(make, picture):
    face = picture[0:280, 90:370]
    assert len(make(max_faces=1)(np.concatenate([face, face], axis=1), 0.0)) == 1


def test_a_face_that_comes_back_keeps_its_head(pipeline, picture):
    nothing = np.zeros((480, 640, 3), np.uint8)
    for n in range(4):
        before = only(pipeline(view(picture), n / RATE))
    for n in range(4, 10):
        gone = pipeline(nothing, n / RATE)
    assert gone == []
    for n in range(10, 14):
        after = pipeline(view(picture), n / RATE)
    assert only(after).id == before.id and np.array_equal(only(after).shape, before.shape)
    for n in range(4):  # longer than any memory of it
        pipeline(nothing, 10 + n)
    assert only(pipeline(view(picture), 15.0)).id != before.id


@pytest.mark.parametrize("shape", [(480, 640), (1, 1), (2, 3), (1, 4000), (4000, 1)])
def test_frames_without_a_face(pipeline, shape):
    for value in (0, 128, 255):
        assert pipeline(np.full((*shape, 3), value, np.uint8), 0.0) == []
    assert pipeline(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8), 0.1) == []


def test_large_frames(pipeline, picture):
    large = cv2.resize(picture, (4000, 4000), interpolation=cv2.INTER_CUBIC)
    face = only(pipeline(large, 0.0))
    assert face.landmark_error < 0.05
    np.testing.assert_allclose(
        face.landmarks[4, :2] / 4000, only(pipeline(picture, 0.1)).landmarks[4, :2] / 512, atol=0.01
    )


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((480, 640), np.uint8),
        np.zeros((480, 640, 4), np.uint8),
        np.zeros((480, 640, 3), np.float32),
        np.zeros((480, 640, 3), np.uint16),
        np.zeros((0, 640, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused_and_the_next_frame_works(pipeline, picture, frame):
    with pytest.raises(ValueError, match="expected an RGB image"):
        pipeline(frame, 0.0)
    only(pipeline(picture, 0.1))


@pytest.mark.parametrize("stamp", [np.nan, np.inf])
def test_a_stamp_must_be_finite(pipeline, picture, stamp):
    with pytest.raises(ValueError, match="finite stamp"):
        pipeline(picture, stamp)


def test_views_and_read_only_frames_are_taken(pipeline, picture):
    wide = np.concatenate([picture, picture * 0], axis=1)[:, :512][:, ::-1]  # neither contiguous nor writable
    wide.flags.writeable = False
    only(pipeline(wide, 0.0))


def test_vertices_are_the_decoded_head(pipeline, picture):
    face = only(pipeline(picture, 0.0))
    for which in (None, 0, 7):
        index = face.selected if which is None else which
        expected = pipeline.head.decode(face.shape, face.expressions[index], jaw=face.jaws[index])
        np.testing.assert_allclose(pipeline.vertices(face, which), expected, atol=1e-5)
    other = replace(face, shape=face.shape * 0, identity_revision=77)  # of an identity that is not held any more
    expected = pipeline.head.decode(other.shape, face.expressions[0], jaw=face.jaws[0])
    np.testing.assert_allclose(pipeline.vertices(other, 0), expected, atol=1e-5)
    pipeline.reset()
    expected = pipeline.head.decode(face.shape, face.expressions[0], jaw=face.jaws[0])
    np.testing.assert_allclose(pipeline.vertices(face, 0), expected, atol=1e-5)


def test_distance_follows_the_focal_length(pipeline, picture):
    guessed = only(pipeline(picture, 0.0))
    assert not guessed.metric
    distances = []
    for n, focal in enumerate((400.0, 800.0, 1600.0)):
        pipeline.reset()
        K = np.array([[focal, 0, 255.5], [0, focal, 255.5], [0, 0, 1]])
        face = only(pipeline(picture, 1.0 + n, Intrinsics(K, 512, 512)))
        assert face.metric
        distances.append(face.translation[2])
        eyes = face.landmarks[[[33, 133], [362, 263]], :2].mean(1)
        assert face.translation[2] == pytest.approx(focal * 0.063 / np.linalg.norm(eyes[1] - eyes[0]), rel=0.35)
    assert distances[1] / distances[0] == pytest.approx(2, rel=0.1)
    assert distances[2] / distances[1] == pytest.approx(2, rel=0.05)


def test_intrinsics_of_another_size_are_scaled(pipeline, picture):
    K = np.array([[800.0, 0, 255.5], [0, 800.0, 255.5], [0, 0, 1]])
    large = replace(Intrinsics(K, 512, 512).scaled_to(1024, 1024))
    a = only(pipeline(picture, 0.0, Intrinsics(K, 512, 512)))
    pipeline.reset()
    b = only(pipeline(picture, 0.0, large))
    np.testing.assert_allclose(a.translation, b.translation, rtol=1e-4)


def test_counts_can_be_chosen(make, open_bundle, picture):
    face = only(make(hypotheses=4, candidates=8, steps=6)(picture, 0.0))
    assert face.expressions.shape == (4, 50) and face.jaws.shape == (4, 3) and face.scores.shape == (4,)
    single = only(make(hypotheses=1, candidates=1)(picture, 0.0))
    assert single.selected == 0 and single.scores[0] == 1 and single.identity_score == 1
    for wrong in (
        {"hypotheses": 0},
        {"candidates": 0},
        {"hypotheses": -1},
        {"steps": 0},
        {"steps": 2},
        {"max_faces": 0},
    ):
        with pytest.raises(ValueError) as error:
            make(**wrong)
        assert "\n" not in str(error.value)


def test_a_folder_will_do_and_a_wrong_one_says_so(open_bundle, tmp_path):
    assert isinstance(FacePipeline(str(open_bundle.path), hypotheses=2).bundle, Bundle)
    with pytest.raises(BundleError, match="no bundle at"):
        FacePipeline(tmp_path)


def test_photographs_of_covered_faces(make, shared):
    """No crash, and a mesh that fits what is seen on every face that is found; most are."""
    found, errors = 0, []
    for path in sorted((shared / "images").glob("*.jpg")):
        faces = make()(cv2.imread(str(path))[..., ::-1], 0.0)
        found += bool(faces)
        errors += [face.landmark_error for face in faces]
        assert all(np.isfinite(face.translation).all() and face.translation[2] > 0 for face in faces)
    assert found >= 7 and np.median(errors) < 0.06


SCRIPT = """
import json, sys
import numpy as np
from ofer_models.pipeline import FacePipeline
faces = FacePipeline(sys.argv[1])(np.load(sys.argv[2]), 0.0)
FORBIDDEN = ("torch", "anny", "diffusers", "scipy", "skimage", "numba", "trimesh", "onnx", "transformers")
print(json.dumps([len(faces), [name for name in FORBIDDEN if name in sys.modules]]))
"""


def test_the_run_time_needs_no_training_packages(open_bundle, picture, tmp_path):
    np.save(tmp_path / "frame.npy", picture)
    command = [sys.executable, "-c", SCRIPT, str(open_bundle.path), str(tmp_path / "frame.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [1, []]


@pytest.mark.parametrize(("name", "value"), [
    ("hypotheses", 0), ("hypotheses", "5"), ("candidates", 0), ("steps", 2.5), ("seed", -1), ("threads", 0),
    ("max_faces", 0), ("drift", float("nan")), ("latency_bound", -1.0), ("remember", float("inf")),
])  # fmt: skip
def test_a_setting_that_cannot_be_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a .*number of at least [01], got"):
        PipelineSettings(**{name: value})
