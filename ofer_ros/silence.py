"""Says why nothing happens: no image for a while is the commonest trouble with a perception node."""

from __future__ import annotations

import time

from rclpy.node import Node

_TOPICS = {
    "auto": ("image_raw", "image_raw/compressed"),
    "raw": ("image_raw",),
    "compressed": ("image_raw/compressed",),
}


class SilenceWatch:
    """Watches the arrival of images; warns once for each silence."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._last = time.monotonic()
        self._warned = False

    def start(self) -> None:
        """Begin to expect images."""
        self._last, self._warned = time.monotonic(), False

    def arrived(self) -> None:
        self._last = time.monotonic()
        if self._warned:
            self._warned = False
            self._node.get_logger().info("images arrive again")

    def check(self, limit: float, transport: str) -> str:
        """The reason, in one line, when nothing arrived for `limit` seconds, else ''. Logs it the first time."""
        silent = time.monotonic() - self._last
        if silent < limit:
            return ""
        text = f"no image for {silent:.0f} s; " + "; ".join(self._describe(topic) for topic in _TOPICS[transport])
        if not self._warned:
            self._warned = True
            self._node.get_logger().warning(text)
        return text

    def _describe(self, topic: str) -> str:
        name = self._node.resolve_topic_name(topic)
        publishers = self._node.get_publishers_info_by_topic(name)
        if not publishers:
            return f"{name} has no publisher (remap it, or start the camera)"
        profiles = {
            f"{info.qos_profile.reliability.name} {info.qos_profile.durability.name}".lower().replace("_", " ")
            for info in publishers
        }
        return (
            f"{name} has {len(publishers)} publisher(s), QoS {', '.join(sorted(profiles))} "
            "(this node asks for best effort, volatile, which fits all; very large images get lost in DDS's buffers)"
        )
