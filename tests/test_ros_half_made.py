"""Steps that raise half-way, wherever in them: nothing of what they made is left, and the next attempt succeeds."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import threading
from collections import Counter

from rclpy.node import Node
from ros_support import NodeHarness, image_message
from std_msgs.msg import Header

from ofer_ros.input import camera_place
from ofer_ros.input.input_watch import InputWatch
from ofer_ros.output import ros4hri, transforms

pytestmark = pytest.mark.ros
MAKES = ("create_publisher", "create_subscription", "create_guard_condition")


def entities(node: Node) -> Counter:
    """What a node has of each kind, by topic where it has one."""
    found = Counter(f"publisher {one.topic_name}" for one in node.publishers)
    found += Counter(f"subscription {one.topic_name}" for one in node.subscriptions)
    return found + Counter(guards=len(list(node.guards)))


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in ("ofer-perception", "ofer-worker")]


class Failing:
    """Makes the n-th call of those methods raise."""

    def __init__(self, monkeypatch, node: Node, number: int) -> None:
        self.calls = 0
        for name in MAKES:
            made = getattr(node, name)

            def make(*arguments, _made=made, **named):
                self.calls += 1
                if self.calls == number:
                    raise RuntimeError("out of order")
                return _made(*arguments, **named)

            monkeypatch.setattr(node, name, make)


@pytest.fixture
def everything(monkeypatch):
    """A node that publishes and hears all that it can: what is not installed here has a stand-in for its messages."""
    for module in (camera_place, transforms):
        monkeypatch.setattr(module, "TFMessage", Header)
    monkeypatch.setattr(ros4hri, "IdsList", Header)
    monkeypatch.setattr(ros4hri.HriFaces, "available", True)
    with NodeHarness(start=False, ros4hri=True, filtering_frame="odom") as harness:
        yield harness


@pytest.mark.parametrize("step", ["configure", "activate"])
def test_a_step_that_fails_at_any_of_its_topics_leaves_none_behind(everything, monkeypatch, step):
    harness, node = everything, everything.node
    if step == "activate":
        assert harness.change("configure")
    before, number, failed = entities(node), 0, True
    while failed:
        number += 1
        with monkeypatch.context() as broken:
            failing = Failing(broken, node, number)
            failed = not harness.change(step)
        assert failed == (failing.calls >= number)
        if failed:
            assert entities(node) == before and not workers(), f"the {number}. failed"
    assert number > (9 if step == "configure" else 5)
    assert entities(node) != before


@pytest.mark.parametrize("thread", ["ofer-perception", "ofer-worker", "ofer-drawer"])
def test_a_machine_without_another_thread_leaves_nothing_running(monkeypatch, thread):
    start = threading.Thread.start

    def refused(one: threading.Thread) -> None:
        if one.name == thread:
            raise RuntimeError("can't start new thread")
        start(one)

    with NodeHarness(start=False) as harness:
        assert harness.change("configure")
        before = entities(harness.node)
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", refused)
            assert not harness.change("activate")
        assert entities(harness.node) == before
        harness.wait_for(lambda: not workers())
        assert harness.change("activate")
        harness.wait_for(lambda: harness.images.get_subscription_count() == 1)
        assert harness.send_and_wait(image_message(stamp=1.0)).faces


def test_what_raises_after_the_stream_has_begun_ends_it(monkeypatch):
    with NodeHarness(start=False) as harness:
        assert harness.change("configure")
        before = entities(harness.node)
        with monkeypatch.context() as broken:
            broken.setattr(InputWatch, "start", lambda watch: 1 / 0)
            assert not harness.change("activate")
        assert harness.node.state == "inactive" and entities(harness.node) == before and not workers()
        assert harness.change("activate")
