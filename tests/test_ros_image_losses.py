"""Images that get lost before the node, and a node that is itself away: counted, told, and never claimed falsely."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import numpy as np
from rclpy.qos import qos_profile_sensor_data
from ros_support import NodeHarness, image_message
from sensor_msgs.msg import CameraInfo

from ofer_ros.input.image_losses import ImageLosses
from ofer_ros.input.silence_watch import SilenceWatch

pytestmark = pytest.mark.ros
PERIOD = 1 / 30


def watched(images, infos=None, seconds: float = 8.0, start: float = 100.0) -> ImageLosses:
    """Losses of a 30 Hz camera; images(n) and infos(n): whether the n-th arrives, with its stamp or None."""
    losses = ImageLosses()
    next_check = 1.0
    for number in range(round(seconds / PERIOD)):
        now = number * PERIOD
        stamp = round(1e9 * (start + now))
        if now >= next_check:
            losses.check(now)
            next_check += 1.0
        if images(number):
            losses.image(stamp, now)
        if infos is not None and infos(number):
            losses.beside(stamp, now)
    return losses


def test_a_camera_info_without_its_image_is_a_lost_image():
    losses = watched(lambda n: n % 3 == 0, lambda n: True)
    assert losses.problem() == "20 of 30 images a second are lost before this node"
    assert losses.lost == pytest.approx(20 * 7, abs=20), "the last second has not settled"


def test_without_camera_info_the_gaps_between_regular_stamps_tell():
    rng = np.random.default_rng(0)
    kept = rng.random(300) < 0.6
    losses = watched(lambda n: kept[n])
    assert losses.problem().endswith("of 30 images a second are lost before this node")
    assert losses.lost == pytest.approx((~kept[:200]).sum(), rel=0.25)


@pytest.mark.parametrize("infos", [None, lambda n: True, lambda n: n % 2 == 0])
def test_nothing_is_claimed_where_every_image_arrives(infos):
    losses = watched(lambda n: True, infos)
    assert (losses.lost, losses.problem()) == (0, "")


def test_stamps_that_stand_still_or_wander_or_pause_tell_nothing():
    frozen, wild, paused = ImageLosses(), ImageLosses(), ImageLosses()
    rng = np.random.default_rng(1)
    stamp = 10**9
    for number in range(240):
        now = number * PERIOD
        if number % 30 == 29:
            for losses in (frozen, wild, paused):
                losses.check(now)
        frozen.image(0, now)
        frozen.beside(0, now)
        stamp += round(1e9 * rng.exponential(PERIOD))
        wild.image(stamp, now)
        # Away for a minute, and then played from the beginning again.
        paused.image(round(1e9 * (now + 60 * (number > 60) - 50 * (number > 120))), now)
    assert [losses.lost for losses in (frozen, wild, paused)] == [0, 0, 0]


def test_the_node_counts_what_it_does_not_get_and_says_what_to_set(capfd):
    with NodeHarness() as harness:
        infos = harness.client.create_publisher(CameraInfo, "/camera_info", qos_profile_sensor_data)
        harness.wait_for(lambda: infos.get_subscription_count() == 1)

        def lost():
            for number in range(30):
                message = image_message(stamp=lost.time)
                k = [50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0]
                infos.publish(CameraInfo(header=message.header, width=64, height=48, k=k))
                if number % 3 == 0:
                    harness.send(message)
                lost.time += 0.01
            return next((s for s in list(harness.diagnostics) if "lost before this node" in s.message), None)

        lost.time = 100.0
        status = harness.wait_for(lost)
        assert "fastdds.xml" in status.message and status.level == b"\x01"
        assert int({item.key: item.value for item in status.values}["frames_lost"]) >= 5
        assert sum("lost before this node" in line for line in capfd.readouterr().err.splitlines()) == 1


def test_a_process_that_stood_still_does_not_blame_the_camera():
    with NodeHarness(start=False) as harness:
        now = [100.0]
        watch = SilenceWatch(harness.client, clock=lambda: now[0])
        arrived = 100.0

        def check(seconds: float) -> str:
            now[0] += seconds
            return watch.check(arrived, 3.0, "raw", "best_effort")

        assert check(1.0) == ""
        assert check(60.0) == "", "SIGSTOP, a debugger, a machine that slept"
        assert [check(1.0) for _ in range(2)][-1].startswith("no image for 3 s"), "from then on the camera is silent"


@pytest.mark.parametrize(
    ("remaps", "topics"),
    [
        (("image_raw:=/cam/image",), ("/cam/image", "/cam/image/compressed")),
        (("image_raw/compressed:=/other",), ("/image_raw", "/other")),
        (("image_raw:=/cam/image", "/cam/image/compressed:=/jpeg"), ("/cam/image", "/jpeg")),
    ],
)
def test_compressed_images_follow_the_image_topic(remaps, topics, capfd):
    with NodeHarness(start=False, remaps=remaps, silence_warning=0.5) as harness:
        assert harness.change("configure") and harness.change("activate")
        count = harness.node.count_subscribers
        harness.wait_for(lambda: [count(topic) for topic in topics] == [1, 1])
        said = harness.status(lambda s: "no image for" in s.message).message
        assert all(f"{topic} has" in said for topic in topics)
    told = f"listening to {topics[0]} and {topics[1]} (best effort, depth 5) with /camera_info; bundle 'fake' 0 on none"
    assert told in capfd.readouterr().err
