"""What is wrong with the images that arrive, or do not: silence, no partner, losses. One line, said once in the log."""

from __future__ import annotations

from rclpy.node import Node

from ofer_ros.base.settings import OferSettings
from ofer_ros.input.silence_watch import SilenceWatch
from ofer_ros.input.subscriptions import CameraInputs


class InputWatch:
    """Asked once a second while a node listens."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._silence = SilenceWatch(node)
        self._losing = False

    def start(self) -> None:
        """Begin to expect images."""
        self._silence.start()
        self._losing = False

    def check(self, inputs: CameraInputs, settings: OferSettings) -> str:
        """The worst trouble in one line, or ''."""
        lost = inputs.losses()
        if bool(lost) != self._losing:
            self._losing = bool(lost)
            logger = self._node.get_logger()
            logger.warning(lost) if lost else logger.info("images arrive without losses again")
        silent = self._silence.check(
            inputs.last_image, settings.silence_warning, settings.transport, settings.image_reliability
        )
        return silent or inputs.unpaired(settings.silence_warning) or lost
