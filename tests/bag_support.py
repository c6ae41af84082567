"""Small bags for tests, written with rosbags alone: no ROS, and nothing of this project's own writer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ofer_models.perception.intrinsics import Intrinsics
from ofer_ros.camera.scene import Scene

START = 1_600_000_000_123_456_789  # ns: a day in 2020
PERIOD = 33_333_333  # ns
TYPES = get_typestore(Stores.ROS2_JAZZY)


def header(stamp: int, frame_id: str = "head_camera"):
    time = TYPES.types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    return TYPES.types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


def image(stamp: int, pixels: np.ndarray, encoding: str = "rgb8", step: int | None = None):
    """sensor_msgs/Image of (H, W) or (H, W, C) pixels."""
    data = np.ascontiguousarray(pixels)
    return TYPES.types["sensor_msgs/msg/Image"](
        header=header(stamp),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=step or data.strides[0],
        data=data.view(np.uint8).ravel(),
    )


def compressed(stamp: int, pixels: np.ndarray, form: str = "rgb8; jpeg compressed bgr8"):
    """sensor_msgs/CompressedImage (JPEG) of RGB pixels, with image_transport's format text."""
    jpeg = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    return TYPES.types["sensor_msgs/msg/CompressedImage"](header=header(stamp), format=form, data=jpeg.ravel())


def info(stamp: int, focal: float = 610.0, size: tuple[int, int] = (640, 480)):
    """sensor_msgs/CameraInfo with a focal length (px) that no field of view would give."""
    k = Intrinsics.from_field_of_view(*size, 60.0).K
    k[0, 0] = k[1, 1] = focal
    roi = TYPES.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return TYPES.types["sensor_msgs/msg/CameraInfo"](
        header=header(stamp),
        height=size[1],
        width=size[0],
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=k.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([k, np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=roi,
    )


def write_bag(folder: Path, messages: Iterable[tuple[str, int, object]], storage: str = "mcap") -> Path:
    """A bag of (topic, time in ns, message), with their types embedded. Returns its folder."""
    with Writer(folder, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        connections = {}
        for topic, time, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=TYPES)
            writer.write(connections[topic], time, TYPES.serialize_cdr(message, message.__msgtype__))
    return folder


def scene_bag(folder: Path, frames: int, storage: str = "mcap", jpeg: bool = False) -> Path:
    """The built-in scene as a camera driver would record it: image and camera_info of equal stamps."""
    scene = Scene()
    messages = []
    for index in range(frames):
        stamp = START + index * PERIOD
        rgb = scene(index).rgb
        topic = "/camera/color/image_raw" + ("/compressed" if jpeg else "")
        messages.append((topic, stamp + 5_000_000, compressed(stamp, rgb) if jpeg else image(stamp, rgb)))
        messages.append(("/camera/color/camera_info", stamp + 5_100_000, info(stamp)))
    return write_bag(folder, messages, storage)


def read_bag(folder: Path) -> tuple[dict[str, str], dict[str, list[tuple[int, object]]]]:
    """Types by topic, and (time, message) by topic, of a bag that is understood from its own definitions alone."""
    with Reader(folder) as reader:
        store = get_typestore(Stores.EMPTY)
        for connection in reader.connections:
            assert connection.msgdef.data, f"{connection.topic} has no definition"
            store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
        types = {connection.topic: connection.msgtype for connection in reader.connections}
        content: dict[str, list[tuple[int, object]]] = {topic: [] for topic in types}
        for connection, time, data in reader.messages(reader.connections):
            content[connection.topic].append((time, store.deserialize_cdr(data, connection.msgtype)))
    return types, content
