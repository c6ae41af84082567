"""Says why nothing happens: no image for a while is the commonest trouble with a perception node."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy

from ofer_ros.input.topics import image_topics

_LONGEST_STEP = 2.0  # seconds between two looks; after more, this process stood still itself


class SilenceWatch:
    """Watches the arrival of images; warns once for each silence. To be asked about once a second."""

    def __init__(self, node: Node, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock = clock
        self.start()

    def start(self) -> None:
        """Begin to expect images."""
        self._last = self._looked = self._clock()
        self._warned = False

    def check(self, arrived: float, limit: float, transport: str, reliability: str) -> str:
        """The reason, in one line, when no image arrived for `limit` seconds, else ''. Logs it the first time.

        arrived: when the last one did (time.monotonic); reliability: what the node asks of publishers.
        """
        now = self._clock()
        # A process that was stopped, or a machine that slept, heard nothing in that time and cannot blame the camera.
        if now - self._looked > _LONGEST_STEP:
            self._last += now - self._looked
        self._looked = now
        if arrived > self._last:
            self._last = arrived
            if self._warned:
                self._warned = False
                self._node.get_logger().info("images arrive again")
        silent = now - self._last
        if silent < limit:
            return ""
        told = "; ".join(self._describe(topic, reliability) for topic in image_topics(self._node, transport))
        text = f"no image for {silent:.0f} s; {told}"
        if not self._warned:
            self._warned = True
            self._node.get_logger().warning(text)
        return text

    def _describe(self, topic: str, reliability: str) -> str:
        name = self._node.resolve_topic_name(topic)
        publishers = self._node.get_publishers_info_by_topic(name)
        if not publishers:
            return f"{name} has no publisher (remap it, or start the camera)"
        profiles = {
            f"{info.qos_profile.reliability.name} {info.qos_profile.durability.name}".lower().replace("_", " ")
            for info in publishers
        }
        text = f"{name} has {len(publishers)} publisher(s), QoS {', '.join(sorted(profiles))} "
        if reliability == "best_effort":
            return text + (
                "(this node asks for best effort, volatile, which fits all; very large images get lost in DDS's "
                "buffers)"
            )
        if all(info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for info in publishers):
            return text + "(this node asks for reliable, which does not fit: set image_reliability to best_effort)"
        return text + "(this node asks for reliable, volatile)"
