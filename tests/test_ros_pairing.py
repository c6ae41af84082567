"""Image and CameraInfo pairs: our own matcher, message_filters where it is installed, and both alike."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import random

from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from ofer_ros.input import pairing
from ofer_ros.input.pairing import QUEUE, Matcher, MessageFilters, Pairing

pytestmark = pytest.mark.ros
MS = 1_000_000


def stamped(kind: type, milliseconds: float):
    nanoseconds = round(milliseconds * MS)
    return kind(header=Header(stamp=Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)))


def run(make, slop: float, events: list[tuple[str, float]]) -> list[tuple[float, float]]:
    """Pairs (image, info) of arrivals ('image' or 'info', stamp in ms), in ms."""
    pairs = []

    def stamp(message) -> float:
        return (message.header.stamp.sec * 10**9 + message.header.stamp.nanosec) / MS

    synchronizer = make(slop, lambda image, info: pairs.append((stamp(image), stamp(info))))
    for topic, milliseconds in events:
        if topic == "image":
            synchronizer.add_image(stamped(Image, milliseconds))
        else:
            synchronizer.add_info(stamped(CameraInfo, milliseconds))
    return pairs


def makers() -> list:
    return [
        Matcher,
        pytest.param(
            MessageFilters,
            marks=pytest.mark.skipif(pairing.message_filters is None, reason="message_filters is not installed"),
        ),
        Pairing,
    ]


@pytest.mark.parametrize("make", makers())
@pytest.mark.parametrize(
    ("slop", "events", "pairs"),
    [
        pytest.param(0.0, [("info", 10), ("image", 10), ("image", 20), ("info", 20)], [(10, 10), (20, 20)], id="exact"),
        pytest.param(0.0, [("info", 10), ("image", 11), ("info", 12)], [], id="exact-means-equal"),
        pytest.param(0.0, [("image", 10), ("image", 20), ("info", 10)], [(10, 10)], id="late-info"),
        pytest.param(0.01, [("info", 10), ("info", 14), ("image", 13)], [(13, 14)], id="nearest"),
        pytest.param(0.01, [("info", 10), ("image", 20)], [], id="as-far-as-the-slop"),
        pytest.param(0.01, [("info", 10), ("image", 12), ("image", 13)], [(12, 10)], id="used-once"),
        pytest.param(
            0.0, [*(("info", n) for n in range(QUEUE + 1)), ("image", 0), ("image", 1)], [(1, 1)], id="oldest-leave"
        ),
    ],
)
def test_pairs(make, slop, events, pairs):
    assert run(make, slop, events) == pairs


def stream(seed: int) -> list[tuple[str, float]]:
    """A camera's two topics with jitter, losses and messages that overtake each other."""
    rng = random.Random(seed)
    events = []
    for number in range(300):
        at = 33.0 * number
        for topic, shift in (("image", 0.0), ("info", rng.choice([0.0, 0.0, 2.0, 12.0, -7.0]))):
            if rng.random() > 0.1:
                events.append((at + rng.uniform(0, 60), topic, at + shift))
    return [(topic, stamp) for _, topic, stamp in sorted(events)]


@pytest.mark.parametrize("slop", [0.0, 0.01, 0.04])
@pytest.mark.parametrize("seed", range(5))
def test_message_filters_makes_the_same_pairs(seed, slop):
    if pairing.message_filters is None:
        pytest.skip("message_filters is not installed (ros-<distribution>-message-filters)")
    events = stream(seed)
    ours = run(Matcher, slop, events)
    assert len(ours) > 50
    assert ours == run(MessageFilters, slop, events)


def test_a_bag_that_starts_again_is_paired_again():
    waiting = [("info", 60_000 + 40 * n) for n in range(QUEUE)]
    again = [("image", 1000), ("info", 1000), ("image", 1040), ("info", 1040)]
    assert run(Matcher, 0.0, waiting + again) == [], "on its own it is stuck"
    assert run(Pairing, 0.0, waiting + again) == [(1000, 1000), (1040, 1040)]
