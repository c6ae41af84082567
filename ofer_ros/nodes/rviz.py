"""rviz: starts RViz once it is known in which frame the camera's images are.

    ros2 run ofer_ros rviz -d <config> --ros-args -r faces:=ofer_node/faces

RViz shows nothing while its fixed frame is unknown to it, and every camera calls its frame otherwise. All arguments are
RViz's own; the fixed frame is added.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from ofer_msgs.msg import FaceArray
from ofer_ros.base.qos import FACES
from ofer_ros.base.signals import restore
from ofer_ros.nodes.lifecycle import run

NAME = "rviz_starter"
_RVIZ = "rviz2"
_REMIND_EVERY = 10.0  # seconds


class RvizStarter(Node):
    """Waits for the first FaceArray on `faces`, tells `found` the frame in its header, and is `finished`."""

    def __init__(self, found: Callable[[str], object], **kwargs) -> None:
        super().__init__(NAME, **kwargs)
        self.finished = False
        self._found = found
        faces = self.create_subscription(FaceArray, "faces", self._on_faces, FACES)
        self._text = f"RViz starts with the first image (to start it at once: fixed_frame:=<frame>); {faces.topic_name}"
        self.create_timer(_REMIND_EVERY, self._remind, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_faces(self, message: FaceArray) -> None:
        if not self.finished:
            self.finished = True
            self._found(message.header.frame_id)

    def _remind(self) -> None:
        self.get_logger().info(self._text)


def main(args: list[str] | None = None) -> int:
    if shutil.which(_RVIZ) is None:
        print(f"error: {_RVIZ} is not installed (apt: ros-<distribution>-rviz2)", file=sys.stderr)
        return 1
    frames: list[str] = []
    status = run(lambda: RvizStarter(frames.append), args)
    if frames:
        restore()
        os.execvp(_RVIZ, [_RVIZ, "-f", frames[0], *(sys.argv[1:] if args is None else args)])
    return status


if __name__ == "__main__":
    sys.exit(main())
