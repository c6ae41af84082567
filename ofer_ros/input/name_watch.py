"""Says that another node has this one's name: both then publish the same topics and serve the same services."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node

# Seconds for which a node that was killed is still thought to be there, and more: its successor is no other.
_PATIENCE = 40.0


class NameWatch:
    """To be asked about once a second."""

    def __init__(self, node: Node, clock: Callable[[], float] = time.monotonic) -> None:
        """clock(): seconds."""
        self._node = node
        self._clock = clock
        self._alone = clock()
        self._told = False

    def check(self) -> str:
        """What is wrong, in one line, when it has been so for a while, else ''. Logs it the first time."""
        own = self._node.get_name(), self._node.get_namespace()
        count = self._node.get_node_names_and_namespaces().count(own)
        now = self._clock()
        if count < 2:
            self._alone, self._told = now, False
        if now - self._alone < _PATIENCE:
            return ""
        text = (
            f"{count} nodes are called {self._node.get_fully_qualified_name()}, and publish and serve the same: give "
            "each a name or a namespace of its own"
        )
        if not self._told:
            self._told = True
            self._node.get_logger().warning(text)
        return text
