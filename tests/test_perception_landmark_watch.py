"""When a bundle's landmark network looks at a face, and what goes along with the face when it does not."""

from __future__ import annotations

import numpy as np
import pytest

from ofer_models.perception.crops import canonical_face
from ofer_models.perception.landmark_watch import LandmarkWatch

FRAME = np.zeros((480, 640, 3), np.uint8)
STEP = 1 / 30


def face(size: float = 90.0, x: float = 320.0, turn: float = 0.0, closed: float = 0.0) -> np.ndarray:
    """(478, 3) px of a face; closed: px by which its upper lids are down."""
    points = size * canonical_face()
    points[[160, 159, 158, 385, 386, 387], 1] += closed
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points[:, :2] = points[:, :2] @ linear.T + [x, 240]
    return points


class Network:
    """Says that all points are at the crop's middle, a pixel further right in every call."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, crop128: np.ndarray) -> dict[str, np.ndarray]:
        n = len(crop128)
        self.asked.append(n)
        points = np.full((n, 478, 2), 64.0) + [len(self.asked), 0]
        return {"points": points, "deviation": np.full((n, 478), 2.0), "visible": np.full((n, 478), 0.9)}


@pytest.fixture
def network() -> Network:
    return Network()


def test_one_face_is_looked_at_in_every_other_frame(network):
    watch = LandmarkWatch(network)
    for frame in range(6):
        watch(FRAME, ["a"], face()[None], frame * STEP)
    assert network.asked == [1, 1, 1]


def test_several_faces_take_turns(network):
    watch = LandmarkWatch(network)
    for frame in range(6):
        _, fresh = watch(FRAME, list("abcde"), np.stack([face(60, 100 * i) for i in range(5)]), frame * STEP)
        assert len(fresh) == network.asked[-1]
    assert network.asked[0] == 5 and all(asked in (2, 3) for asked in network.asked[1:]) and len(network.asked) == 6


def test_what_the_network_said_goes_along_with_the_face(network):
    watch = LandmarkWatch(network)
    first, second = face(), face(size=100.0, x=350.0, turn=0.2)
    ((told,), _) = watch(FRAME, ["a"], first[None], 0.0)
    ((carried,), fresh) = watch(FRAME, ["a"], second[None], STEP)
    assert network.asked == [1] and fresh == []
    # What it is off MediaPipe's points, as a part of the face.
    turn = np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]) * 100 / 90
    expected = second[:, :2] + (told.points - first[:, :2]) @ turn.T
    np.testing.assert_allclose(carried.points, expected, atol=1e-3)
    np.testing.assert_allclose(carried.deviation, told.deviation * 100 / 90, rtol=1e-5)
    assert carried.visible is told.visible


@pytest.mark.parametrize(
    ("then", "stamp"),
    [({"closed": 12.0}, STEP), ({}, 0.5), ({}, 0.0), ({}, -1.0)],
    ids=["a blink", "a slow camera", "the same stamp", "an older one"],
)
def test_it_looks_at_once_where_nothing_can_be_carried(network, then, stamp):
    watch = LandmarkWatch(network)
    watch(FRAME, ["a"], face()[None], 0.0)
    watch(FRAME, ["a"], face(**then)[None], stamp)
    assert network.asked == [1, 1]


def test_a_face_that_was_away_or_is_new_is_looked_at(network):
    watch = LandmarkWatch(network)
    watch(FRAME, ["a"], face()[None], 0.0)
    watch(FRAME, ["b"], face()[None], STEP)
    watch(FRAME, ["a"], face()[None], 2 * STEP)
    watch.reset()
    watch(FRAME, ["a"], face()[None], 3 * STEP)
    assert network.asked == [1, 1, 1, 1]
