"""Serialised messages into a new rosbag2, with their definitions, so that others can read it without this package."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

_VERSION = 8  # of rosbag2's format: the newest that Humble reads as well
_OWN = "ofer_msgs"
_EARLY = 100  # messages of a topic that wait for a first picture


class BagWriter:
    """One bag. Messages go in at the time of the picture they belong to, which is that of the bag it came from.

    `advance` says what that time is; what is written before the first picture gets the first one's time.
    """

    def __init__(self, folder: Path, storage: str = "mcap") -> None:
        """folder: new.  storage: 'mcap' or 'sqlite3'.  Raises ValueError where rosbags is missing, OSError where the
        folder exists or cannot be written.
        """
        try:
            from rosbags.rosbag2 import StoragePlugin, Writer
        except ImportError:
            raise ValueError("writing a bag needs the package rosbags: pip install rosbags") from None
        if folder.exists():
            raise OSError(f"{folder} exists: a bag is only written to a new folder")
        self._types = _typestore()
        self._writer = Writer(folder, version=_VERSION, storage_plugin=StoragePlugin[storage.upper()])
        self._writer.open()
        self._connections: dict[str, object] = {}
        self._time: int | None = None
        self._early: dict[str, deque[bytes]] = {}  # by topic, what came before the first picture

    def add_topic(self, topic: str, kind: type, qos: QoSProfile) -> None:
        """Announce a topic (full name) of a generated message class; `qos` is what a player should offer it with."""
        self._connections[topic] = self._writer.add_connection(
            topic, type_name(kind), typestore=self._types, offered_qos_profiles=[_offered(qos)]
        )

    def advance(self, time: int) -> None:
        """From now on messages belong to the picture stamped `time` (ns)."""
        self._time = time
        early, self._early = self._early, {}
        for topic, messages in early.items():
            for data in messages:
                self._writer.write(self._connections[topic], time, data)

    def write(self, topic: str, data: bytes) -> None:
        """Add a serialised message of an announced topic."""
        if self._time is None:
            self._early.setdefault(topic, deque(maxlen=_EARLY)).append(data)
        else:
            self._writer.write(self._connections[topic], self._time, data)

    def close(self) -> None:
        """Finish the file; only now can others read it."""
        self._writer.close()


def type_name(kind: type) -> str:
    """'package/msg/Name' of a generated message class."""
    package, _, _ = kind.__module__.partition(".")
    return f"{package}/msg/{kind.__name__}"


def _typestore():
    """Definitions of the common interfaces, and of ofer_msgs as it is installed."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    for file in sorted(Path(get_package_share_directory(_OWN), "msg").glob("*.msg")):
        types |= get_types_from_msg(file.read_text(), f"{_OWN}/msg/{file.stem}")
    store.register(types)
    return store


def _offered(qos: QoSProfile):
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    latched = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
    reliable = qos.reliability == ReliabilityPolicy.RELIABLE
    never = QosTime(9223372036, 854775807)  # RMW_DURATION_INFINITE
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=qos.depth,
        reliability=QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=never,
        lifespan=never,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=never,
        avoid_ros_namespace_conventions=False,
    )
