"""What an active ofer_node listens to: images, raw or compressed, and CameraInfo, paired where asked for."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ofer_ros.base.frames import Frame
from ofer_ros.base.parameters import OferSettings
from ofer_ros.input.calibration import Calibration
from ofer_ros.input.pairing import Pairing

# While raw images came within this time, compressed ones of the same camera are not looked at (transport: auto).
_RAW_PREFERRED = 1.0


def image_qos(settings: OferSettings) -> QoSProfile:
    """QoS that the parameters ask for. Best effort fits every publisher, reliable only reliable ones."""
    return QoSProfile(depth=settings.image_depth, reliability=ReliabilityPolicy[settings.image_reliability.upper()])


class CameraInputs:
    """Subscriptions from activate to deactivate. Callbacks only store: frames go to `accept`, calibrations aside."""

    def __init__(
        self, node: Node, settings: OferSettings, calibration: Calibration, accept: Callable[[Frame], None]
    ) -> None:
        """accept(frame) is called for each image that is to be looked at, or where `sync` says so, for each pair."""
        self._node = node
        self._settings = settings
        self._calibration = calibration
        self._accept = accept
        self._raw_arrived = self._arrived = float("-inf")
        slop = settings.sync_slop if settings.sync == "approximate" else 0.0
        self._pairings: dict[type, Pairing] = {}
        self._subscriptions: list = []
        try:
            if settings.transport in ("auto", "raw"):
                self._hear(Image, "image_raw", self._on_raw, slop)
            if settings.transport in ("auto", "compressed"):
                self._hear(CompressedImage, "image_raw/compressed", self._on_compressed, slop)
            self._subscriptions.append(
                node.create_subscription(CameraInfo, "camera_info", self._on_info, qos_profile_sensor_data)
            )
        except Exception:
            self.destroy()
            raise

    def _hear(self, kind: type, topic: str, callback: Callable, slop: float) -> None:
        if self._settings.sync != "latest":
            self._pairings[kind] = Pairing(slop, lambda image, info: self._accept(Frame(image, info)))
        self._subscriptions.append(self._node.create_subscription(kind, topic, callback, image_qos(self._settings)))

    def destroy(self) -> None:
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)

    @property
    def last_image(self) -> float:
        """When the last image arrived (time.monotonic), whether it was used or not."""
        return self._arrived

    def unpaired(self, limit: float) -> str:
        """Why images arrive and none is used, in one line, when no pair was found for `limit` seconds; else ''."""
        now = time.monotonic()
        if not self._pairings or now - self._arrived > limit:
            return ""
        waited = now - max(pairing.last_pair for pairing in self._pairings.values())
        if waited < limit:
            return ""
        topic = self._node.resolve_topic_name("camera_info")
        if not self._node.count_publishers(topic):
            return f"images arrive, but sync is {self._settings.sync} and {topic} has no publisher"
        within = f"within {self._settings.sync_slop:g} s" if self._settings.sync == "approximate" else "the same"
        return (
            f"images arrive, but for {waited:.0f} s none with a CameraInfo on {topic} whose stamp is {within}: "
            "set sync to latest, or sync_slop higher with sync approximate"
        )

    def _on_raw(self, message: Image) -> None:
        self._raw_arrived = self._arrived = time.monotonic()
        self._take(message)

    def _on_compressed(self, message: CompressedImage) -> None:
        self._arrived = time.monotonic()
        if self._arrived - self._raw_arrived > _RAW_PREFERRED:
            self._take(message)

    def _take(self, message: Image | CompressedImage) -> None:
        if self._pairings:
            self._pairings[type(message)].add_image(message)
        else:
            self._accept(Frame(message))

    def _on_info(self, message: CameraInfo) -> None:
        for pairing in self._pairings.values():
            pairing.add_info(message)
        if not self._pairings:
            self._calibration.update(message)
