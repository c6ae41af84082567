"""Identity over time on synthetic faces: losses, crossings, stamps; and the assignment below it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from ofer_models.perception import crops
from ofer_models.perception.assignment import assign
from ofer_models.perception.tracker import FaceTracker, Observation


class Person:
    """A rigid face of its own shape; `seen` gives its landmarks as an observation."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        smooth = crops._CANONICAL @ random.normal(0, 0.08, (3, 3))  # wider, longer, flatter, skewed
        self.shape = crops._CANONICAL + smooth + random.normal(0, 0.005, (478, 3))

    def seen(self, x, y, width=100.0, yaw=0.0, noise=0.3, seed=0) -> Observation:
        points = self.shape @ cv2.Rodrigues(np.array([0.0, yaw, 0.0]))[0].T * (width / 1.4)
        points = points + np.random.default_rng(seed).normal(0, noise, points.shape) + [x, y, 0]
        return Observation(points.astype(np.float32), 0.9)


ANNA, BEN, CARL = Person(0), Person(2), Person(3)  # 0.07 to 0.08 apart, as strangers can be


def ids(tracks, visible=True):
    return [track.id for track in tracks if track.visible or not visible]


def test_first_ids_begin_with_a_letter_and_count():
    tracks = FaceTracker().update([ANNA.seen(100, 100), BEN.seen(400, 100)], 0.0)
    assert ids(tracks) == ["f1", "f2"]
    assert all(track.age == 0 and track.lost == 0 and track.confidence == 0.9 for track in tracks)


@settings(deadline=None, max_examples=60)
@given(
    rate=st.sampled_from([8, 15, 30, 60]),
    speed=st.floats(100, 500),
    offset=st.floats(-30, 30),
    ratio=st.floats(0.7, 1.4),
    flip=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_two_people_crossing_keep_their_ids(rate, speed, offset, ratio, flip, seed):
    assume(speed / rate < 45)  # px a frame, two thirds of the smaller face: beyond that nothing links two frames
    tracker, owner = FaceTracker(), {}
    seconds = 500 / speed
    for frame in range(int(seconds * rate) + 1):
        t = frame / rate
        front = ANNA.seen(100 + speed * t, 200, 100, seed=seed + frame)
        behind_x = 600 - speed * t
        observations = [front]
        if abs(behind_x - (100 + speed * t)) > 70:  # else hidden behind the face in front
            observations.append(BEN.seen(behind_x, 200 + offset, 100 * ratio, seed=seed + frame + 7))
        if flip and frame % 2:
            observations.reverse()
        for track in tracker.update(observations, t):
            if track.visible:
                owner.setdefault(track.id, set()).add("front" if track.points is front.points else "behind")
    assert owner == {"f1": {"front"}, "f2": {"behind"}} or owner == {"f1": {"behind"}, "f2": {"front"}}


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(3)), st.integers(0, 100))
def test_the_order_of_observations_does_not_matter(order, seed):
    tracker = FaceTracker()
    people = [(ANNA, 100), (BEN, 300), (CARL, 500)]
    tracker.update([person.seen(x, 200) for person, x in people], 0.0)
    shuffled = [people[i][0].seen(people[i][1] + 8, 205, seed=seed) for i in order]
    tracks = tracker.update(shuffled, 0.05)
    assert ids(tracks) == ["f1", "f2", "f3"]
    np.testing.assert_allclose([track.points[:, 0].mean() for track in tracks], [108, 308, 508], atol=12)


def test_a_short_loss_keeps_the_id_and_a_long_one_does_not():
    tracker = FaceTracker()
    for frame in range(10):
        tracker.update([ANNA.seen(100 + 4 * frame, 100)], frame / 30)
    (lost,) = tracker.update([], 0.8)
    assert lost.id == "f1" and not lost.visible and lost.lost == pytest.approx(0.5)
    assert lost.confidence == pytest.approx(0.45) and lost.age == pytest.approx(0.8)
    assert ids(tracker.update([ANNA.seen(180, 100)], 1.2)) == ["f1"]
    assert tracker.update([], 2.5) == []
    assert ids(tracker.update([ANNA.seen(180, 100)], 2.6)) == ["f2"]


def test_shape_decides_between_two_equally_near_faces():
    tracker = FaceTracker()
    tracker.update([ANNA.seen(200, 200)], 0.0)
    around = [BEN.seen(195, 200), ANNA.seen(206, 200)]
    assert tracker.update(around, 0.1)[0].points is around[1].points


def test_a_face_that_jumps_or_changes_size_at_once_is_another_face():
    tracker = FaceTracker()
    tracker.update([ANNA.seen(200, 200)], 0.0)
    assert ids(tracker.update([ANNA.seen(320, 200)], 0.03)) == ["f2"]
    tracker.reset()
    tracker.update([ANNA.seen(200, 200)], 1.0)
    assert ids(tracker.update([ANNA.seen(245, 200, width=50)], 1.03)) == ["f4"]


def test_a_mesh_that_had_shrunk_onto_half_the_face_may_jump_back():
    tracker = FaceTracker()
    tracker.update([ANNA.seen(200, 200, width=50)], 0.0)
    assert ids(tracker.update([ANNA.seen(210, 205, width=100)], 0.03)) == ["f1"]


@given(st.lists(st.floats(0, 20), max_size=30))
def test_any_order_of_stamps_gives_sound_tracks(stamps):
    tracker, given_ids = FaceTracker(), []
    for stamp in stamps:
        (*lost, track) = tracker.update([ANNA.seen(200, 200)], stamp)
        assert track.visible and track.age >= 0 and np.isfinite(track.velocity).all()
        assert all(other.lost >= 0 for other in lost)
        given_ids.append(int(track.id[1:]))
    assert given_ids == sorted(given_ids)


def test_repeated_and_slightly_older_stamps_keep_the_track():
    tracker = FaceTracker()
    for stamp in (10.0, 10.0, 9.9, 10.05, 10.01, 10.1):
        (track,) = tracker.update([ANNA.seen(200, 200)], stamp)
        assert track.id == "f1"
    assert track.age == pytest.approx(0.1)


def test_who_is_not_in_a_frame_is_not_seen_in_it_whatever_its_stamp():
    tracker = FaceTracker()
    for stamp in (0.0, 0.0, 0.0):
        (track,) = tracker.update([ANNA.seen(200, 200)], stamp)
        assert track.visible and track.confidence == 0.9
    for stamp in (0.0, -0.5, 0.0):
        (track,) = tracker.update([], stamp)
        assert not track.visible and track.lost == 0


def test_a_clock_set_back_starts_anew():
    tracker = FaceTracker()
    tracker.update([ANNA.seen(200, 200)], 100.0)
    (track,) = tracker.update([ANNA.seen(200, 200)], 3.0)
    assert (track.id, track.age) == ("f2", 0.0)


def test_a_stamp_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="finite stamp"):
        FaceTracker().update([], float("nan"))


def test_velocity_of_a_steady_motion():
    tracker = FaceTracker()
    for frame in range(30):
        (track,) = tracker.update([ANNA.seen(100 + 6 * frame, 300 - 3 * frame)], frame / 30)
    np.testing.assert_allclose(track.velocity, [180, -90], atol=6)


costs = st.integers(0, 6).flatmap(
    lambda rows: st.integers(0, 6).flatmap(
        lambda columns: st.lists(
            st.one_of(st.floats(-5, 5), st.integers(0, 3), st.just(np.inf)),
            min_size=rows * columns,
            max_size=rows * columns,
        ).map(lambda values: np.array(values, np.float64).reshape(rows, columns))
    )
)


@settings(deadline=None)
@given(costs)
def test_assignment_is_the_cheapest_of_the_largest(cost):
    pairs = assign(cost)
    rows, columns = linear_sum_assignment(np.where(np.isfinite(cost), cost, 1e6))
    best = [c for c in cost[rows, columns] if np.isfinite(c)]
    assert len(pairs) == len(best) == len({r for r, _ in pairs}) == len({c for _, c in pairs})
    assert sum(cost[pair] for pair in pairs) == pytest.approx(sum(best), abs=1e-6)
