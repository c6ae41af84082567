"""What an active ofer_node listens to: images, raw or compressed, and CameraInfo, paired where asked for."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from ofer_models.bundle.share import share_folder
from ofer_models.tracking.pose_filter import CameraPose
from ofer_ros.base.frames import Frame
from ofer_ros.base.geometry import stamp_key
from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.base.settings import OferSettings
from ofer_ros.input.calibration import Calibration
from ofer_ros.input.camera_place import CameraPlace
from ofer_ros.input.image_losses import ImageLosses
from ofer_ros.input.pairing import Pairing
from ofer_ros.input.receiver import Receiver
from ofer_ros.input.topics import INFO, RAW, compressed_topic

# While raw images came within this time, compressed ones of the same camera are not looked at (transport: auto).
_RAW_PREFERRED = 1.0
_REMEDY = (
    "where the camera is started, set FASTRTPS_DEFAULT_PROFILES_FILE={profile} (larger buffers), or let it send "
    "smaller or compressed images"
)


def image_qos(settings: OferSettings) -> QoSProfile:
    """QoS that the parameters ask for. Best effort fits every publisher, reliable only reliable ones."""
    return QoSProfile(depth=settings.image_depth, reliability=ReliabilityPolicy[settings.image_reliability.upper()])


class CameraInputs:
    """Subscriptions from activate to deactivate. Callbacks, on the receiver's thread, only store: frames go to
    `accept`, calibrations aside."""

    def __init__(
        self,
        node: Node,
        settings: OferSettings,
        calibration: Calibration,
        problems: ProblemLog,
        accept: Callable[[Frame], None],
    ) -> None:
        """accept(frame) is called for each image that is to be looked at, or where `sync` says so, for each pair."""
        self._node = node
        self._settings = settings
        self._calibration = calibration
        self._accept = accept
        self._raw_arrived = self._arrived = float("-inf")
        self._losses = ImageLosses()
        self._frame: str | None = None  # of the last image
        slop = settings.sync_slop if settings.sync == "approximate" else 0.0
        self._pairings: dict[type, Pairing] = {}
        self._subscriptions: list = []
        self._place: CameraPlace | None = None
        self._receiver = Receiver(node)
        try:
            if settings.transport in ("auto", "raw"):
                self._hear(Image, RAW, self._on_raw, slop)
            if settings.transport in ("auto", "compressed"):
                self._hear(CompressedImage, compressed_topic(node), self._on_compressed, slop)
            self._subscribe(CameraInfo, INFO, self._on_info, qos_profile_sensor_data)
            if settings.filtering_frame:
                self._place = CameraPlace(node, settings.filtering_frame, problems, self._receiver.group)
            self._receiver.start([*self._subscriptions, *(self._place.subscriptions if self._place else ())])
        except Exception:
            self.destroy()
            raise

    def _hear(self, kind: type, topic: str, callback: Callable, slop: float) -> None:
        if self._settings.sync != "latest":
            self._pairings[kind] = Pairing(slop, lambda image, info: self._accept(Frame(image, info)))
        self._subscribe(kind, topic, callback, image_qos(self._settings))

    def _subscribe(self, kind: type, topic: str, callback: Callable, qos: QoSProfile) -> None:
        new = self._node.create_subscription(kind, topic, callback, qos, callback_group=self._receiver.group)
        self._subscriptions.append(new)

    def destroy(self) -> None:
        """Stop listening; once it returns, nothing more is accepted."""
        self._receiver.stop()
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)
        if self._place is not None:
            self._place.destroy()

    def camera_pose(self, header: Header) -> CameraPose | None:
        """Where the camera of an image was, in the fixed frame that the parameters name, as far as TF tells. For the
        worker's thread as well."""
        return None if self._place is None else self._place.at(header)

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
        topic = self._node.resolve_topic_name(INFO)
        if not self._node.count_publishers(topic):
            return f"images arrive, but sync is {self._settings.sync} and {topic} has no publisher"
        within = f"within {self._settings.sync_slop:g} s" if self._settings.sync == "approximate" else "the same"
        return (
            f"images arrive, but for {waited:.0f} s none with a CameraInfo on {topic} whose stamp is {within}: "
            "set sync to latest, or sync_slop higher with sync approximate"
        )

    @property
    def lost(self) -> int:
        """Images that the camera sent and that did not arrive here, as far as can be told."""
        return self._losses.lost

    def losses(self) -> str:
        """How many images are lost on their way and what helps, in one line, or ''. To be asked once a second."""
        self._losses.check(time.monotonic())
        problem = self._losses.problem()
        return problem and f"{problem}: {_REMEDY.format(profile=share_folder() / 'config' / 'fastdds.xml')}"

    def describe(self) -> str:
        """What it listens to, with which QoS."""
        names = [subscription.topic_name for subscription in self._subscriptions]
        wish = f"{self._settings.image_reliability.replace('_', ' ')}, depth {self._settings.image_depth}"
        return f"listening to {' and '.join(names[:-1])} ({wish}) with {names[-1]}"

    def _on_raw(self, message: Image) -> None:
        self._raw_arrived = self._arrived = time.monotonic()
        self._take(message)

    def _on_compressed(self, message: CompressedImage) -> None:
        self._arrived = time.monotonic()
        if self._arrived - self._raw_arrived > _RAW_PREFERRED:
            self._take(message)
        else:
            self._losses.beside(stamp_key(message.header.stamp), self._arrived)

    def _take(self, message: Image | CompressedImage) -> None:
        if message.header.frame_id != self._frame:
            self._frame = message.header.frame_id
            self._look_at_frame()
        self._losses.image(stamp_key(message.header.stamp), self._arrived)
        if self._pairings:
            self._pairings[type(message)].add_image(message)
        else:
            self._accept(Frame(message))

    def _look_at_frame(self) -> None:
        """Say once what a frame_id does not allow."""
        warn = self._node.get_logger().warning
        if not self._frame:
            warn("images have no frame_id: no TF, and RViz cannot place the markers; set it in the camera's driver")
        elif self._frame.startswith("/"):
            warn(f"frame_id {self._frame!r} begins with a slash, which tf2 does not take: left out in TF and markers")

    def _on_info(self, message: CameraInfo) -> None:
        self._losses.beside(stamp_key(message.header.stamp), time.monotonic())
        for pairing in self._pairings.values():
            pairing.add_info(message)
        if not self._pairings:
            self._calibration.update(message)
