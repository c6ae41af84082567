"""What the nodes that drive avatars share: faces of an ofer_node in, datagrams out."""

from __future__ import annotations

import socket
from abc import abstractmethod

from rclpy.node import Node

from ofer_models.avatar.arkit_map import arkit_map
from ofer_models.avatar.performance import Performance
from ofer_models.avatar.performer import Performer
from ofer_msgs.msg import FaceArray
from ofer_ros.base.bundles import load_bundle
from ofer_ros.base.geometry import seconds
from ofer_ros.base.parameters import declare, read
from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.base.qos import FACES
from ofer_ros.base.settings import AvatarSettings
from ofer_ros.output.seen_faces import seen_faces
from ofer_ros.output.usable_faces import UsableFaces


class AvatarNode(Node):
    """Listens to `<node>/faces` and sends a datagram for each message to host:port. Subclasses make the datagrams."""

    def __init__(self, name: str, settings_class: type[AvatarSettings], **kwargs) -> None:
        """Raises ValueError or BundleError, in one line, for parameters that do not fit and an unknown host."""
        super().__init__(name, **kwargs)
        declare(self, name, settings_class)
        self.settings = read(self, settings_class)
        try:
            family, kind, _, _, self._address = socket.getaddrinfo(
                self.settings.host, self.settings.port, type=socket.SOCK_DGRAM
            )[0]
        except OSError as error:
            raise ValueError(f"host '{self.settings.host}' is not known ({error.strerror}): set -p host:=...") from None
        self._socket = socket.socket(family, kind)
        self._problems = ProblemLog(self.get_logger().error)
        head = load_bundle(self.settings.bundle).head
        self._usable = UsableFaces(head, self._problems.report)
        self._performer = Performer(arkit_map(head), self.settings.face, self.settings.hypothesis)
        self.create_subscription(FaceArray, f"{self.settings.node}/faces", self._on_faces, FACES)
        self.get_logger().info(f"sending {self.settings.node}/faces to {self._address[0]} port {self._address[1]}")

    @abstractmethod
    def datagram(self, performance: Performance | None) -> bytes | None:
        """What is sent for a frame in which the face is there, or (None) not; None: nothing."""

    def close(self) -> None:
        """End sending."""
        self._socket.close()

    def _on_faces(self, message: FaceArray) -> None:
        try:
            faces = seen_faces(self._usable(message))
            data = self.datagram(self._performer(faces, seconds(message.header.stamp)))
            if data is not None:
                self._socket.sendto(data, self._address)
        except (ValueError, OSError) as error:
            self._problems.report(str(error))
