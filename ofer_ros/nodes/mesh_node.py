"""mesh_node: FaceArray in, markers out. The far end of a link that carries coefficients instead of meshes."""

from __future__ import annotations

import sys

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from visualization_msgs.msg import MarkerArray

from ofer_models.head import HeadModel
from ofer_msgs.msg import FaceArray
from ofer_msgs.msg import HeadModel as HeadModelMessage
from ofer_ros.base.bundles import load_bundle
from ofer_ros.base.parameters import declare, read
from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.base.qos import LATCHED, NEWEST
from ofer_ros.base.settings import MeshSettings
from ofer_ros.nodes.lifecycle import run
from ofer_ros.output.marker_array import FaceMarkers
from ofer_ros.output.usable_faces import UsableFaces

NAME = "mesh_node"


class MeshNode(Node):
    """Decodes `faces` with its own copy of the head model and publishes `~/markers`, equal to ofer_node's.

    It listens to `head_info` as well and refuses faces made with another head.
    """

    def __init__(self, head: HeadModel | None = None, **kwargs) -> None:
        """head: given by tests; else loaded from the parameter `bundle` (raises BundleError in one line)."""
        super().__init__(NAME, **kwargs)
        declare(self, NAME, MeshSettings)
        self._settings = settings = read(self, MeshSettings)
        self._head = head if head is not None else load_bundle(settings.bundle).head
        self._meshes = FaceMarkers(self._head, settings.mesh_region)
        self._problems = ProblemLog(self.get_logger().error)
        self._usable = UsableFaces(self._head, self._problems.report)
        self._mismatch = ""
        self._markers = self.create_publisher(MarkerArray, "~/markers", NEWEST)
        self.create_timer(1.0, self._read_settings, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_subscription(HeadModelMessage, "head_info", self._on_head_info, LATCHED)
        self.create_subscription(FaceArray, "faces", self._on_faces, NEWEST)

    def _read_settings(self) -> None:
        self._settings = read(self, MeshSettings)

    def _on_head_info(self, message: HeadModelMessage) -> None:
        fits = message.head_sha256 == self._head.sha256
        self._mismatch = (
            ""
            if fits
            else f"faces come from head {message.head_sha256[:12]} of bundle '{message.bundle}', "
            f"this node has head {self._head.sha256[:12]}: start it with -p bundle:=<that bundle's folder>"
        )

    def _on_faces(self, message: FaceArray) -> None:
        if self._mismatch:
            self._problems.report(self._mismatch)
            return
        try:
            self._markers.publish(self._meshes.encode(self._usable(message), self._settings))
        except ValueError as error:
            self._problems.report(str(error))


def main(args: list[str] | None = None) -> int:
    return run(MeshNode, args)


if __name__ == "__main__":
    sys.exit(main())
