"""view_node: what RViz would show, and more, as a page in a browser.

An ordinary client of an ofer_node, in a process of its own: meshes are decoded here from the coefficients, and nothing
is subscribed to that no browser looks at.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage

from ofer_models.head import HeadModel
from ofer_msgs.msg import FaceArray
from ofer_msgs.msg import HeadModel as HeadModelMessage
from ofer_ros.base.bundles import load_bundle
from ofer_ros.base.geometry import stamp_key
from ofer_ros.base.parameters import declare, read
from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.base.qos import LATCHED
from ofer_ros.base.settings import ViewSettings
from ofer_ros.base.statistics import RateCap
from ofer_ros.nodes.lifecycle import run
from ofer_ros.output.face_meshes import MeshDecoder
from ofer_ros.output.usable_faces import UsableFaces
from ofer_ros.web.packets import FacePackets, pack
from ofer_ros.work.diagnostics import values_of

NAME = "view_node"
# Only the newest is of interest, and a lost one is no loss. A few faces wait for their overlay.
_FACES_KEPT = 10
_FACES = QoSProfile(depth=_FACES_KEPT // 2, reliability=ReliabilityPolicy.BEST_EFFORT)
_OVERLAY = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_OVERLAY_WAIT = 1.0  # seconds without an overlay after which faces are shown without one
_LOOK_EVERY = 0.25  # seconds between looks at whether anybody looks
_JPEG = b"\xff\xd8\xff"  # how one begins
_SHOWN = 40  # characters of a format in a message


class ViewNode(Node):
    """Serves the page and feeds it. Raises, in one line, OSError when the port is taken, BundleError for a bad bundle
    and ValueError where aiohttp is not installed."""

    def __init__(self, head: HeadModel | None = None, **kwargs) -> None:
        """head: given by tests; else loaded from the parameter `bundle`."""
        super().__init__(NAME, **kwargs)
        declare(self, NAME, ViewSettings)
        self._settings = settings = read(self, ViewSettings)
        head = head if head is not None else load_bundle(settings.bundle).head
        self._head = head
        self._packets = FacePackets(MeshDecoder(head, settings.mesh_region))
        self._problems = ProblemLog(self.get_logger().error)
        self._usable = UsableFaces(head, self._problems.report)
        self._mismatch = ""
        self._cap = RateCap()
        self._faces: OrderedDict[int, FaceArray] = OrderedDict()  # by stamp, until their picture comes
        self._overlay: CompressedImage | None = None
        self._overlay_arrived = float("-inf")
        self._inputs: list = []
        try:  # the one node that needs it
            from ofer_ros.web.server import ViewServer
        except ModuleNotFoundError:
            raise ValueError(f"{NAME} needs aiohttp: pip install aiohttp") from None
        self._server = ViewServer(settings.host, settings.port)
        self._server.start()
        self._server.send("head", self._packets.head(head.expression_names, ""), keep=True)
        self._tell("")
        self.create_subscription(HeadModelMessage, f"{settings.node}/head_info", self._on_head_info, LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        # Not the node's clock: a simulated one may stand still.
        self.create_timer(_LOOK_EVERY, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(f"view of {self.resolve_topic_name(settings.node)} at {self.url}")

    @property
    def url(self) -> str:
        """Where the page is."""
        return self._server.url

    def _look(self) -> None:
        """Subscribe while a browser is there: the node draws its overlay only for those who listen."""
        looking = bool(self._server.watched())
        if looking and not self._inputs:
            node = self._settings.node
            overlay = self.resolve_topic_name(f"{node}/overlay")  # compressed under the name that it is remapped to
            self._inputs = [
                self.create_subscription(FaceArray, f"{node}/faces", self._on_faces, _FACES),
                self.create_subscription(CompressedImage, f"{overlay}/compressed", self._on_overlay, _OVERLAY),
            ]
        elif self._inputs and not looking:
            for entity in self._inputs:
                self.destroy_subscription(entity)
            self._inputs = []
            self._faces.clear()
            self._overlay = None
            self._packets.forget()

    def _tell(self, problem: str) -> None:
        """What the page says about the node it looks at."""
        fields = {"node": self.resolve_topic_name(self._settings.node), "problem": problem}
        self._server.send("state", pack("state", fields), keep=True)

    def _on_head_info(self, message: HeadModelMessage) -> None:
        fits = message.head_sha256 == self._head.sha256
        self._mismatch = (
            ""
            if fits
            else f"the faces come from another head, that of bundle '{message.bundle}': "
            "start view_node with -p bundle:=<that bundle's folder>"
        )
        self._tell(self._mismatch)
        bundle = f"{message.bundle} {message.bundle_version}"
        self._server.send("head", self._packets.head(message.expression_names, bundle), keep=True)

    def _on_faces(self, message: FaceArray) -> None:
        if self._mismatch:
            self._problems.report(self._mismatch)
            return
        message = self._usable(message)
        self._faces[stamp_key(message.header.stamp)] = message
        while len(self._faces) > _FACES_KEPT:
            self._faces.popitem(last=False)
        if not self._overlays_are_rare():
            self._show_pair()
        elif self._cap.due(self._settings.rate):
            self._show(message)

    def _on_overlay(self, message: CompressedImage) -> None:
        rare = self._overlays_are_rare()
        self._overlay_arrived = time.monotonic()
        self._overlay = message
        self._show_pair(at_once=rare)  # its faces have just been shown without it

    def _overlays_are_rare(self) -> bool:
        return time.monotonic() - self._overlay_arrived > _OVERLAY_WAIT

    def _show_pair(self, at_once: bool = False) -> None:
        """Show the newest overlay with the faces of its frame, once both are here; they arrive in either order.
        at_once: whatever was shown before it."""
        overlay = self._overlay
        faces = None if overlay is None else self._faces.pop(stamp_key(overlay.header.stamp), None)
        if faces is None:
            return
        self._overlay = None
        if not self._cap.due(self._settings.rate) and not at_once:
            return
        jpeg = np.frombuffer(overlay.data, np.uint8)
        if jpeg[: len(_JPEG)].tobytes() != _JPEG:
            self._problems.report(f"overlay: no JPEG, format {overlay.format[:_SHOWN]!r}")
            return
        self._show(faces, jpeg)

    def _show(self, message: FaceArray, jpeg: np.ndarray | None = None) -> None:
        ids = {face.id for face in message.faces}
        made: dict[str, bytes] = {}  # one a face in view at most, whatever browsers ask for
        for watched in self._server.watched():
            shown = watched if watched in ids else ""
            try:
                if shown not in made:
                    made[shown] = self._packets.faces(message, shown, jpeg)
                self._server.send("faces", made[shown], watched)
            except ValueError as error:
                self._problems.report(str(error))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        name = f"{self.resolve_topic_name(self._settings.node).lstrip('/')}: faces"
        status = next((one for one in message.status if one.name == name), None)
        if status is not None:
            fields = {
                "level": int.from_bytes(status.level, "little"),
                "message": status.message,
                "values": values_of(message, name),
            }
            self._server.send("diagnostics", pack("diagnostics", fields), keep=True)

    def close(self) -> None:
        self._server.stop()


def main(args: list[str] | None = None) -> int:
    return run(ViewNode, args)


if __name__ == "__main__":
    sys.exit(main())
