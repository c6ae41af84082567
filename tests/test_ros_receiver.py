"""Where images arrive: a thread and an executor of their own, beside the node's."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_support import NodeHarness, RosSession, image_message, wait_for
from sensor_msgs.msg import Image
from std_msgs.msg import UInt8

from ofer_ros.input.receiver import Receiver

pytestmark = pytest.mark.ros
_CAMERA = ("/image_raw", "/image_raw/compressed", "/camera_info")


def test_the_nodes_executor_is_not_woken_by_images():
    """For eight cameras in one process it asked some three hundred things at each of them."""
    with NodeHarness() as harness:
        harness.send_and_wait(image_message(stamp=1.0))
        heard = [one for one in harness.node.subscriptions if one.topic_name in _CAMERA]
        assert len(heard) == len(_CAMERA)  # the node's, for all who ask
        assert not any(map(harness.executor.can_execute, heard))
        events = [event for one in heard for event in one.event_handlers]  # which images wake as well
        assert events and not any(map(harness.executor.can_execute, events))


def test_images_arrive_while_the_nodes_executor_is_held_up():
    with NodeHarness() as harness:
        harness.wait_for(lambda: harness.images.get_subscription_count() == 1)
        held, go_on = threading.Event(), threading.Event()
        harness.executor.create_task(lambda: (held.set(), go_on.wait()))
        try:
            assert held.wait(60)
            harness.images.publish(image_message(stamp=1.0))
            wait_for(lambda: harness.node.statistics.processed == 1)
        finally:
            go_on.set()


def test_a_camera_whose_qos_does_not_fit_is_told_of(capfd):
    with NodeHarness(image_reliability="reliable") as harness:
        said = ""

        def told() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "New publisher discovered on topic 'image_raw', offering incompatible QoS" in said

        profile = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        harness.client.create_publisher(Image, "/image_raw", profile)
        harness.wait_for(told)


def test_a_callback_that_raises_is_told_and_nothing_comes_after_the_end(capfd):
    with RosSession() as session:
        heard: list[int] = []

        def hear(message: UInt8) -> None:
            assert threading.current_thread().name == "ofer-input"
            heard.append(message.data)
            if message.data == 1:
                raise ValueError("one is too many")

        receiver = Receiver(session.client)
        subscription = session.client.create_subscription(UInt8, "/numbers", hear, 10, callback_group=receiver.group)
        receiver.start([subscription])
        publisher = session.client.create_publisher(UInt8, "/numbers", 10)
        session.wait_for(lambda: publisher.get_subscription_count() == 1)
        for number in (1, 2):
            publisher.publish(UInt8(data=number))
        session.wait_for(lambda: heard == [1, 2])
        receiver.stop()
        publisher.publish(UInt8(data=3))
        assert publisher.wait_for_all_acked() and heard == [1, 2]
    assert "ValueError: one is too many" in capfd.readouterr().err


def test_a_receiver_ends_with_its_context():
    with RosSession() as session:
        receiver = Receiver(session.client)
        group = receiver.group
        receiver.start([session.client.create_subscription(UInt8, "/numbers", print, 10, callback_group=group)])
    receiver.stop()  # after the context is gone: returns


def test_one_that_was_never_started_can_be_stopped():
    with RosSession() as session:
        Receiver(session.client).stop()
