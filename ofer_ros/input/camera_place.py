"""Where a moving camera is, from TF: for filters in a frame that does not move, the parameter `filtering_frame`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.subscription import Subscription
from std_msgs.msg import Header

from ofer_models.tracking.pose_filter import CameraPose
from ofer_ros.base.geometry import seconds
from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.input.frame_tree import FrameTree, NoTransformError, Placed

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # not among the wheels; ros-<distribution>-tf2-msgs has it
    TFMessage = None

_PATIENCE = 2.0  # seconds without a place before it is said: TF may begin after the images
_MOVING = QoSProfile(depth=100)
_STATIC = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class CameraPlace:
    """Listens to /tf and /tf_static. `at` is for the worker's thread and never waits."""

    def __init__(
        self,
        node: Node,
        frame: str,
        problems: ProblemLog,
        group: CallbackGroup,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """frame: the fixed one. group: that of its subscriptions. clock(): seconds."""
        self._node = node
        self._frame = frame.lstrip("/")
        self._problems = problems
        self._clock = clock
        self._tree = FrameTree()
        self._missing_since: float | None = None
        self._told = False
        self.subscriptions: list[Subscription] = []
        if TFMessage is None:
            node.get_logger().warning(
                "filtering_frame: tf2_msgs is not installed (apt: ros-<distribution>-tf2-msgs): faces are filtered as "
                "if the camera stood still"
            )
            return
        try:
            for topic, qos, static in (("/tf", _MOVING, False), ("/tf_static", _STATIC, True)):
                hear = partial(self.hear, static=static)
                self.subscriptions.append(
                    node.create_subscription(TFMessage, topic, hear, qos, callback_group=group)
                )
        except Exception:
            self.destroy()
            raise

    def hear(self, message: TFMessage, static: bool) -> None:
        """Note the transforms of a message."""
        for one in message.transforms:
            t, q = one.transform.translation, one.transform.rotation
            placed = Placed(seconds(one.header.stamp), np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w]))
            self._tree.put(one.header.frame_id.lstrip("/"), one.child_frame_id.lstrip("/"), placed, static)

    def destroy(self) -> None:
        subscriptions, self.subscriptions = self.subscriptions, []
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)

    def at(self, header: Header) -> CameraPose | None:
        """Where the camera of an image was when it took it; None where TF does not tell, which is said once."""
        try:
            place = self._tree.place(header.frame_id.lstrip("/"), self._frame, seconds(header.stamp))
        except NoTransformError as error:
            if self.subscriptions:
                self._miss(str(error))
            return None
        self._missing_since, self._told = None, False
        return place

    def _miss(self, reason: str) -> None:
        """Log a reason once, and keep it before the diagnostics for as long as there is one."""
        now = self._clock()
        self._missing_since = now if self._missing_since is None else self._missing_since
        if now - self._missing_since < _PATIENCE:
            return
        text = f"filtering_frame: {reason}: faces are filtered as if the camera stood still"
        if self._told:
            self._problems.note(text)
        else:
            self._problems.report(text)
        self._told = True
