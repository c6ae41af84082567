"""The pipeline over time: identities beside the stream, people who cross, load tiers, filters, memory that ends."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from ofer_models.head.landmark_sets import tracked_landmarks
from ofer_models.pipeline import FacePipeline
from ofer_models.tracking.face_poser import FacePoser, _inside
from ofer_models.tracking.load_plan import TIERS
from ofer_ros.camera.scene import Scene

RATE, SLOW = 30, 5  # frames a second: at the one faces are looked at closely in every other, at the other in all
PATCH = 220  # px, side of a person's picture; the face is 110 px wide in its middle


@pytest.fixture(scope="module")
def shared_pipeline(open_bundle) -> FacePipeline:
    return FacePipeline(open_bundle, candidates=16)


@pytest.fixture
def pipeline(shared_pipeline) -> FacePipeline:
    shared_pipeline.reset()
    shared_pipeline.set_hypotheses(15)
    shared_pipeline.set_steps(None)
    shared_pipeline.plan._level = 0
    return shared_pipeline


@pytest.fixture(scope="module")
def one() -> np.ndarray:
    """A frame (280, 280, 3) with one face."""
    return np.ascontiguousarray(astronaut()[0:280, 90:370])


@pytest.fixture(scope="module")
def two(one) -> np.ndarray:
    """A frame with two faces, the left one smaller."""
    small = cv2.warpAffine(one, np.array([[0.7, 0, 42], [0, 0.7, 42]]), (280, 280))
    return np.concatenate([small, one[:, ::-1]], axis=1)


def stream(pipeline: FacePipeline, frame: np.ndarray, count: int, start: int = 0) -> list[list]:
    """Faces, from left to right, of so many equal frames."""
    return [sorted(pipeline(frame, n / RATE), key=lambda f: f.roi) for n in range(start, start + count)]


# Time


class Arrivals:
    """The machine's own clock, by hand: each frame comes 1 / RATE after the one before."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("stamp_of", [lambda n: 0.0, lambda n: 5 - 0.001 * n, lambda n: 7.0 if n % 2 else 6.8],
                         ids=["zero", "backward", "to and fro"])  # fmt: skip
def test_a_face_that_is_gone_is_gone_also_where_stamps_do_not_advance(open_bundle, one, stamp_of):
    arrivals = Arrivals()
    pipeline = FacePipeline(open_bundle, candidates=8, arrival=arrivals)
    states = []
    for n in range(45):
        arrivals.now += 1 / RATE
        (face,) = pipeline(one, stamp_of(n))
        states.append(face.identity_state)
    assert face.id == "f1" and states[0] == "gathering" and states[-1] == "locked"
    for n in range(45, 85):
        arrivals.now += 1 / RATE
        assert pipeline(np.full_like(one, 90), stamp_of(n)) == []
        if n == 50:
            assert pipeline.status()["identity/f1"] == "lost"
    assert not pipeline._memory and pipeline.status()["identities_lost"] == 1
    arrivals.now += 1 / RATE
    assert [face.id for face in pipeline(one, stamp_of(85))] == ["f2"]


def test_filters_follow_where_stamps_do_not_advance(open_bundle, one):
    arrivals = Arrivals()
    frozen = FacePipeline(open_bundle, candidates=8, arrival=arrivals)
    timed = FacePipeline(open_bundle, candidates=8)
    for n in range(12):
        arrivals.now = n / RATE
        moved = np.roll(one, 2 * n, axis=1)
        (a,), (b,) = frozen(moved, 0.0), timed(moved, n / RATE)
        np.testing.assert_allclose(a.translation, b.translation, atol=1e-5)
        np.testing.assert_allclose(a.expression, b.expression, atol=1e-4)


def test_a_box_is_inside_the_image_and_a_face_beside_it_has_none(pipeline, one):
    cut = np.ascontiguousarray(one[:, :160])
    for frame in (cut, np.ascontiguousarray(cut[:, ::-1]), np.ascontiguousarray(one[:150])):
        pipeline.reset()
        (face,) = pipeline(frame, 0.0)
        x, y, width, height = face.roi
        assert x >= 0 and y >= 0 and width > 0 and height > 0
        assert x + width <= frame.shape[1] and y + height <= frame.shape[0]
    assert _inside(np.array([-50.0, 10, 40, 40]), 100, 100) == (0, 0, 0, 0)
    assert _inside(np.array([90.4, -9.7, 40, 40]), 100, 100) == (90, 0, 10, 30)


# Identities beside the stream


def test_frames_do_not_wait_for_identities_in_the_background(open_bundle, one):
    go = threading.Event()
    pipeline = FacePipeline(open_bundle, candidates=8, background=True)
    runner = pipeline._identities._runner
    work = runner._draw
    runner._draw = lambda request: work(request) if go.wait(300) else None
    faces = [found[0] for found in stream(pipeline, one, 12)]  # would never return if it waited
    assert all(face.identity_revision == 0 and face.identity_score == 0 and not face.shape.any() for face in faces)
    assert all(face.landmark_error < 0.1 for face in faces)
    go.set()
    for _, _, done in runner._jobs:
        done.result(300)
    go.clear()  # what this frame asks for itself ends after it
    face = pipeline(one, 12 / RATE)[0]
    go.set()
    assert face.identity_revision == 1 and face.identity_blend == 0.0
    for n in range(13, 70):
        if n >= 40:  # the last draw, on all views; afterwards there is nothing left to change to
            for _, _, done in list(runner._jobs):
                done.result(300)
        before, face = face, pipeline(one, n / RATE)[0]
        if face.identity_revision > before.identity_revision:  # a later draw, on more views, may find a better one
            assert face.identity_blend == 0
        elif before.identity_blend < 1:
            assert face.identity_blend > before.identity_blend and not np.array_equal(face.shape, before.shape)
    assert face.identity_blend == 1 and face.shape.any() and face.landmark_error < faces[-1].landmark_error


def test_the_background_draws_the_same_heads(open_bundle, one):
    """What is drawn depends on the views and the seed, not on who waits for it."""
    at_once = FacePipeline(open_bundle, candidates=8)(one, 0.0)[0].shape
    pipeline = FacePipeline(open_bundle, candidates=8, background=True)
    pipeline(one, 0.0)
    for _, _, done in pipeline._identities._runner._jobs:
        done.result(300)
    pipeline(one, 0.01)
    np.testing.assert_array_equal(pipeline(one, 0.35)[0].shape, at_once)


# Who is who


@pytest.fixture(scope="module")
def people(shared, shared_pipeline) -> list[np.ndarray]:
    """Pictures (220, 220, 3) of two people."""
    patches = []
    for picture in (astronaut(), cv2.imread(str(shared / "images" / "occluded_04.jpg"))[..., ::-1]):
        shared_pipeline.reset()
        x, y, width, height = shared_pipeline(np.ascontiguousarray(picture), 0.0)[0].roi
        scale = 110 / width
        shift = PATCH / 2 - scale * np.array([x + width / 2, y + height / 2])
        patches.append(cv2.warpAffine(picture, np.column_stack([scale * np.eye(2), shift]), (PATCH, PATCH)))
    return patches


def together(people: list[np.ndarray], places: tuple[int, int]) -> np.ndarray:
    """A frame (300, 900, 3) with the two at these x, px; the first stands behind; None: not there."""
    frame = np.full((300, 900, 3), 120, np.uint8)
    frame += np.random.default_rng(0).integers(0, 30, frame.shape, np.uint8)
    y, x = np.mgrid[:PATCH, :PATCH]
    inside = (((x - 110) / 75) ** 2 + ((y - 110) / 90) ** 2 < 1)[..., None]
    for person, place in zip(people, places, strict=True):
        if place is not None:
            part = frame[40 : 40 + PATCH, place : place + PATCH]
            part[:] = np.where(inside, person, part)
    return frame


def test_two_people_cross_and_keep_their_heads(pipeline, people):
    for n in range(75):
        way = int(560 * min(max((n - 20) / 40, 0), 1))
        faces = sorted(pipeline(together(people, (60 + way, 620 - way)), n / RATE), key=lambda f: f.roi)
        if n == 20:
            left, right = (face.shape for face in faces)
    assert len(faces) == 2
    np.testing.assert_array_equal(faces[0].shape, right)
    np.testing.assert_array_equal(faces[1].shape, left)


def test_heads_go_with_the_faces_when_the_tracker_swaps_them(pipeline, people, monkeypatch):
    frontend = pipeline._perception.frontend
    swapped = False

    def mistaken(frame: np.ndarray, stamp: float) -> list:
        tracks = frontend(frame, stamp)
        ids = [track.id for track in tracks]
        return [replace(track, id=id) for track, id in zip(tracks, ids[::-1] if swapped else ids, strict=True)]

    monkeypatch.setattr(pipeline._perception, "frontend", mistaken)
    frame = together(people, (60, 620))
    for n in range(50):
        swapped = n >= 20
        faces = sorted(pipeline(frame, n / RATE), key=lambda f: f.roi)
        if n == 19:
            before = faces
    assert [face.id for face in faces] == [face.id for face in before[::-1]]
    revisions = {face.id: face.identity_revision for face in before}
    for now, then in zip(faces, before, strict=True):
        np.testing.assert_array_equal(now.shape, then.shape)
        assert now.identity_revision > revisions[now.id]  # to this track it is another head


def test_a_face_gets_its_head_back_and_nobody_else_does(pipeline, people):
    empty = together(people, (None, None))
    mine = stream(pipeline, together(people, (60, None)), 26)[-1][0]
    assert mine.identity_state == "locked" and mine.identity_blend == 1
    stream(pipeline, empty, 3, 26)
    other = stream(pipeline, together(people, (None, 70)), 20, 29)[-1][0]
    assert not np.array_equal(other.shape, mine.shape)
    stream(pipeline, empty, 40, 49)  # longer than the tracker keeps an id
    back = stream(pipeline, together(people, (500, None)), 12, 89)[-1][0]
    assert back.id not in (mine.id, other.id)
    np.testing.assert_array_equal(back.shape, mine.shape)


def test_a_hand_that_sweeps_over_the_face_changes_no_head(pipeline):
    scene = Scene()
    faces = [pipeline(scene(n).rgb, n / RATE) for n in range(0, 390, 5)]
    assert min(scene(n).face_visible for n in range(180, 300, 5)) < 0.6
    seen = [found[0] for found in faces if found]
    assert len(seen) > 70 and len({face.id for face in seen}) == 1
    settled = seen[8]
    assert settled.identity_state == "locked"
    for face in seen[8:]:
        np.testing.assert_array_equal(face.shape, settled.shape)


# Memory


def test_forget_and_expire_drop_everybody(pipeline, one, monkeypatch):
    face = stream(pipeline, one, 2)[-1][0]
    assert pipeline.status()[f"identity/{face.id}"] == "gathering"
    pipeline.expire()
    assert pipeline._memory
    pipeline.forget()
    assert not pipeline._memory and not pipeline._identities.states() and pipeline.status()["identities_lost"] == 0
    again = pipeline(one, 3.0)[0]
    assert again.id != face.id and again.identity_revision == 1 and again.identity_state == "gathering"
    monkeypatch.setattr(pipeline, "_last_frame", pipeline._last_frame - 31)
    pipeline.expire()
    assert not pipeline._memory and not pipeline._identities.states()


def test_a_frame_that_was_looked_at_before_a_forget_shows_nobody(pipeline, one):
    (face,) = pipeline(one, 0.0)
    look = pipeline.look(one, 1 / RATE)
    pipeline.forget()
    assert pipeline.faces(look) == [] and not pipeline._memory and not pipeline._identities.states()
    (again,) = pipeline(one, 2 / RATE)
    assert again.id != face.id and again.identity_revision == 1


def test_a_look_that_is_left_out_changes_nothing(pipeline, one):
    before = stream(pipeline, one, 2)[-1][0]
    pipeline.look(np.roll(one, 3, axis=1), 2 / RATE)
    (after,) = pipeline(one, 3 / RATE)
    assert (after.id, after.identity_revision) == (before.id, before.identity_revision)
    np.testing.assert_array_equal(after.shape, before.shape)


def test_what_begins_anew_in_a_look_that_is_left_out_begins_anew(pipeline, one):
    before = stream(pipeline, one, 45, start=300)[-1][0]
    assert before.identity_state == "locked"
    pipeline.look(one, 0.0)
    (after,) = pipeline(one, 1 / RATE)
    assert after.id != before.id and after.identity_state == "gathering"
    assert pipeline.status()["identities_lost"] == 0


def test_two_threads_give_what_one_gives(open_bundle, two):
    """Each half of the frames on a thread of its own."""
    frames = [np.roll(two, 2 * n, axis=1) for n in range(12)]
    one_thread, two_threads = (FacePipeline(open_bundle, candidates=8, drift=0.5) for _ in range(2))
    looks: queue.Queue = queue.Queue(1)

    def look() -> None:
        for n, frame in enumerate(frames):
            looks.put(two_threads.look(frame, n / RATE))

    threading.Thread(target=look, daemon=True).start()
    for n, frame in enumerate(frames):
        expected, found = one_thread(frame, n / RATE), two_threads.faces(looks.get(timeout=60))
        assert [face.id for face in found] == [face.id for face in expected] and len(found) == 2
        for face, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(face.expressions, other.expressions)
            np.testing.assert_array_equal(face.translation, other.translation)
            np.testing.assert_array_equal(face.shape, other.shape)


def test_reset_identity_draws_one_face_anew(pipeline, two):
    before = stream(pipeline, two, 40)[-1]
    assert all(face.identity_state == "locked" and face.identity_blend == 1 for face in before)
    assert pipeline.reset_identity(before[0].id) and not pipeline.reset_identity("f999")
    after = stream(pipeline, two, 30, 40)[-1]
    assert after[0].identity_revision > before[0].identity_revision
    assert not np.array_equal(after[0].shape, before[0].shape) and after[0].identity_blend == 1
    np.testing.assert_array_equal(after[1].shape, before[1].shape)
    assert pipeline.reset_identity() and pipeline.reset_identity(None)


# Hypotheses


def test_hypotheses_and_steps_change_at_work(pipeline, one):
    before = stream(pipeline, one, 2)[-1][0]
    pipeline.set_hypotheses(5)
    few = pipeline(one, 2 / RATE)[0]
    assert few.expressions.shape == (5, 50)
    assert np.abs(few.expressions - before.expressions[:5]).mean() < 0.04  # what they are spread about moves a little
    pipeline.set_hypotheses(20)
    many = pipeline(one, 3 / RATE)[0]
    assert many.expressions.shape[0] == len(many.scores) == 20
    assert np.abs(many.expressions[:5] - few.expressions).mean() < 0.04
    pipeline.set_steps(4)
    assert len(pipeline._stages.expgen.table.timesteps) == 4
    assert pipeline(one, 4 / RATE)[0].landmark_error < 0.06
    for wrong in (lambda: pipeline.set_hypotheses(0), lambda: pipeline.set_steps(2)):
        with pytest.raises(ValueError):
            wrong()


def test_the_selected_expression_is_smooth_and_the_hypotheses_are_as_drawn(open_bundle, one):
    pipeline = FacePipeline(open_bundle, candidates=8, drift=3.0)
    faces = [found[0] for found in stream(pipeline, one, 25)]
    drawn = np.stack([np.concatenate([f.expressions[f.selected], f.jaws[f.selected]]) for f in faces])
    smooth = np.stack([np.concatenate([f.expression, f.jaw]) for f in faces])
    np.testing.assert_array_equal(smooth[0], drawn[0])
    assert np.abs(np.diff(smooth, axis=0)).mean() < 0.8 * np.abs(np.diff(drawn, axis=0)).mean()
    assert np.abs(smooth - drawn).mean() < 0.1
    face = faces[-1]
    expected = pipeline.head.decode(face.shape, face.expression, jaw=face.jaw)
    np.testing.assert_allclose(pipeline.filtered_vertices(face), expected, atol=1e-5)


def test_the_spread_is_that_of_the_meshes(pipeline, one):
    face = pipeline(one, 0.0)[0]
    spread = pipeline.spread_mm(face)
    assert spread.shape == (pipeline.head.n_vertices,)
    meshes = np.stack([pipeline.vertices(face, row) for row in range(len(face.expressions))]).astype(np.float64)
    mean = np.tensordot(face.scores, meshes, 1)
    expected = 1000 * np.sqrt(np.tensordot(face.scores, ((meshes - mean) ** 2).sum(-1), 1))
    np.testing.assert_allclose(spread, expected, atol=1e-3)
    assert set(face.spread) == {"mouth", "eyes", "brows"}
    on_lips = spread[pipeline.head.masks["lips"]]
    assert 0.5 * on_lips.mean() < 1000 * face.spread["mouth"] < 2 * on_lips.mean()


def test_faces_are_posed_together_as_they_are_alone(pipeline, two):
    """One batch over all tracks, the same result to 1e-6."""
    asked = []
    poser = pipeline._pose_faces
    pipeline._pose_faces = lambda *arguments: (asked.append(arguments), poser(*arguments))[1]
    try:
        together_ = stream(pipeline, two, 3)[-1]
    finally:
        pipeline._pose_faces = poser
    tracks, memories, seen, heads, *rest = asked[-1]
    fresh = FacePoser(pipeline.head, *tracked_landmarks(pipeline.head), poser._evidence)
    for row in range(2):
        known = {name: getattr(memories[row], name) for name in ("noise", "occlusion", "drawn", "scatter", "visible")}
        memory = type(memories[row])(**known)
        (alone,) = fresh([tracks[row]], [memory], [seen[row]], [heads[row]], *(part[row : row + 1] for part in rest))
        batch = next(face for face in together_ if face.id == alone.id)
        assert alone.landmark_error == pytest.approx(batch.landmark_error, abs=1e-3)
        np.testing.assert_allclose(alone.scores, batch.scores, atol=1e-2)


# Load


def at_tier(pipeline: FacePipeline, name: str) -> None:
    pipeline.plan._level = next(level for level, tier in enumerate(TIERS) if tier.name == name)


def test_tiers_take_steps_and_hypotheses_and_give_them_back(pipeline, one, monkeypatch):
    taken, own = [], pipeline.bundle.stages["expgen"].steps
    pipeline.set_steps(own)  # distilled networks take their own, whatever the tier
    sampler = pipeline._stages.expgen._drawing.sampler
    sample = sampler.sample
    monkeypatch.setattr(
        sampler, "sample", lambda c, n, table, rng: (taken.append(len(table.timesteps)), sample(c, n, table, rng))[1]
    )
    for number, tier in enumerate([*TIERS, TIERS[0]]):
        at_tier(pipeline, tier.name)
        face = pipeline(one, number / SLOW)[0]
        count = round(15 * tier.hypotheses)
        assert len(face.expressions) == len(face.jaws) == len(face.scores) == count and face.selected < count
        assert taken[-1] == round(own * tier.steps)
        assert pipeline.status()["tier"] == tier.name


def test_every_other_frame_is_for_the_most_visible_face_alone(pipeline, two, monkeypatch):
    at_tier(pipeline, "every other frame")
    drawn = []
    draw = pipeline._method.draw
    monkeypatch.setattr(
        pipeline._method, "draw", lambda memories, *rest: (drawn.append(len(memories)), draw(memories, *rest))[1]
    )
    frames = [two, np.roll(two, 1, axis=1), two, np.roll(two, 1, axis=1), two]
    found, samples = [], []
    for n, frame in enumerate(frames):
        found.append(sorted(pipeline(frame, n / SLOW), key=lambda f: f.roi))
        samples.append([pipeline._memory[face.id].drawn for face in found[-1]])
    assert drawn == [2, 1, 2, 1, 2] and all(len(faces) == 2 for faces in found)
    np.testing.assert_array_equal(samples[1][0], samples[0][0])  # the small one waits
    assert not np.array_equal(samples[1][1], samples[0][1])
    assert not np.array_equal(found[1][1].expressions, found[0][1].expressions)
    assert not np.array_equal(found[1][0].translation, found[0][0].translation)  # but its pose does not


def test_a_face_whose_head_is_known_is_drawn_in_every_other_frame_and_follows_its_landmarks(pipeline, one):
    samples, found = [], []
    for n in range(46):
        found += pipeline(np.roll(one, n % 3, axis=1), n / RATE)
        samples.append(pipeline._memory[found[-1].id].drawn)
    anew = [now is not before for before, now in pairwise(samples)]
    assert all(anew[:9]) and anew[-8:] in ([True, False] * 4, [False, True] * 4)
    assert all(np.abs(now.expressions - before.expressions).max() > 1e-4 for before, now in pairwise(found[-8:]))


def test_a_less_visible_face_comes_second_at_the_tier_for_that(pipeline, two):
    stream(pipeline, two, 40)
    at_tier(pipeline, "every other frame")
    drawn = []
    for n in range(41, 59):
        faces = sorted(pipeline(two, n / RATE), key=lambda f: f.roi)
        drawn.append([pipeline._memory[face.id].drawn for face in faces])
    small, large = ([now[row] is not before[row] for before, now in pairwise(drawn[1:])] for row in (0, 1))
    assert (sum(small), sum(large)) == (4, 8)


def test_reported_latency_moves_the_tier(open_bundle, one):
    pipeline = FacePipeline(open_bundle, candidates=8, latency_bound=80.0)
    for _ in range(3):
        pipeline.report_latency(200.0)
    assert pipeline.status()["tier"] == "fewer hypotheses"  # the bundle's steps are fixed
    unbounded = FacePipeline(open_bundle, candidates=8)
    for _ in range(50):
        unbounded.report_latency(9999.0)
    assert unbounded.status()["tier_level"] == 0
