"""The thread on which what a camera sends arrives, with an executor that asks for nothing else.

At every wake-up rclpy's executor asks each topic, service, timer and event of all its nodes whether it is ready: about
thirty a node, of which a camera's images are one. So they have an executor of their own, and the node's is left with
what is asked for rarely. The topics stay the node's, with its remappings and QoS.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.subscription import Subscription


class Receiver:
    """Takes the messages of subscriptions that were made in its `group`, and their events, on a thread of its own from
    `start` to `stop`."""

    def __init__(self, node: Node) -> None:
        self.group: CallbackGroup = _Group(self)
        self._log = node.get_logger().error
        self._context = node.context
        self._executor = SingleThreadedExecutor(context=node.context)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="ofer-input", daemon=True)

    def start(self, subscriptions: Iterable[Subscription]) -> None:
        self._executor.add_node(_Topics(subscriptions))
        self._thread.start()

    def stop(self) -> None:
        """Wait for the callback at work; none comes after it. Before the subscriptions are destroyed."""
        if self._thread.ident is not None:
            self._executor.create_task(self._end)
            self._thread.join()
        self._executor.shutdown()

    @property
    def here(self) -> bool:
        """Whether this is its thread."""
        return threading.current_thread() is self._thread

    def _end(self) -> None:
        self._stopped = True

    def _run(self) -> None:
        while not self._stopped and self._context.ok():
            try:
                self._executor.spin_once()
            except ExternalShutdownException:
                return
            except Exception:
                self._log(f"a callback raised:\n{traceback.format_exc()}")


class _Group(CallbackGroup):
    """What is for the receiver's thread alone. Events as well: in Fast DDS an image wakes who waits for those of its
    topic, again and again until it is taken."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__()
        self._receiver = receiver

    def can_execute(self, entity: Any) -> bool:
        return self._receiver.here

    def beginning_execution(self, entity: Any) -> bool:
        return True

    def ending_execution(self, entity: Any) -> None:
        pass


class _Topics:
    """A node, as an executor sees it, that has these subscriptions, their events and nothing else."""

    def __init__(self, subscriptions: Iterable[Subscription]) -> None:
        self.subscriptions = tuple(subscriptions)
        self.waitables = tuple(event for one in self.subscriptions for event in one.event_handlers)
        self.timers = self.clients = self.services = self.guards = ()
        self.executor: SingleThreadedExecutor | None = None
