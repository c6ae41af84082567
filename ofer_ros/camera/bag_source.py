"""Pictures out of a rosbag2 (MCAP or sqlite3), with the stamps, frames and CameraInfo they were recorded with.

Needs the package `rosbags` and no ROS installation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from ofer_ros.camera.bag_reader import reading
from ofer_ros.camera.source_frame import Recorded, SourceError, SourceFrame, bag_and_topic
from ofer_ros.input.images import ImageError, to_rgb

IMAGE, COMPRESSED, INFO = (f"sensor_msgs/msg/{kind}" for kind in ("Image", "CompressedImage", "CameraInfo"))
_TRIED = 10  # first messages of a topic that are looked at to tell pictures from depth maps and damage
_GREY = ("mono", "8UC1", "16UC1")


@dataclass(frozen=True)
class BagContents:
    """What of a bag is played: an image topic, its CameraInfo topic ('' where there is none), and how many pictures.

    storage: 'mcap' or 'sqlite3'.  others: image topics that could be played instead.
    """

    path: Path
    topic: str
    info_topic: str
    images: int
    storage: str
    others: tuple[str, ...]


def inspect_bag(source: str) -> BagContents:
    """Choose what to play of the bag 'path' or 'path#topic'.

    Without a topic: one with pictures, colour before grey, raw before compressed, then the one with most messages.
    Raises SourceError when the bag cannot be read or shows no picture.
    """
    path, wanted = bag_and_topic(source)
    with reading(path, (IMAGE, COMPRESSED)) as (reader, typestore):
        kinds = {name: topic.msgtype for name, topic in reader.topics.items()}
        counts = {name: topic.msgcount for name, topic in reader.topics.items()}
        images = [name for name, kind in kinds.items() if kind in (IMAGE, COMPRESSED) and counts[name]]
        if wanted and wanted not in images:
            raise SourceError(f"the bag {path} has no images on {wanted}; it has them on: {', '.join(images) or '-'}")
        if not images:
            raise SourceError(f"the bag {path} has no images; its topics: {', '.join(sorted(kinds)) or '-'}")
        ranked, problems = [], []
        for name in images:
            grey, problem = _look(reader, typestore, name)
            problems += [f"{name}: {problem}"] if problem else []
            ranked += [] if problem else [(grey, kinds[name] == COMPRESSED, -counts[name], name)]
        usable = [name for *_, name in sorted(ranked)]
        if (wanted or not usable) and wanted not in usable:
            raise SourceError(f"the bag {path} has no picture that can be used: {'; '.join(problems)}")
        topic = wanted or usable[0]
        infos = [name for name, kind in kinds.items() if kind == INFO and counts[name]]
        storage = _storage(path)
    others = tuple(name for name in usable if name != topic)
    return BagContents(path, topic, _info_topic(topic, infos), counts[topic], storage, others)


def bag_frames(source: str) -> Iterator[SourceFrame]:
    """Every picture of the bag, in its order. One that cannot be decoded has no pixels and says why in `problem`.

    Raises SourceError as `inspect_bag` does, before the first frame; a bag that breaks off raises it at that place.
    """
    return _frames(inspect_bag(source))


def _frames(bag: BagContents) -> Iterator[SourceFrame]:
    with reading(bag.path, (IMAGE, COMPRESSED)) as (reader, typestore):
        wanted = [one for one in reader.connections if one.topic in (bag.topic, bag.info_topic)]
        records = ((one.msgtype, time, data) for one, time, data in reader.messages(wanted))
        for number, (kind, time, data, info) in enumerate(_paired(records)):
            message = typestore.deserialize_cdr(data, kind)
            header = message.header
            stamp = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec or time
            recorded = Recorded(stamp, header.frame_id, time, info)
            name = f"{bag.topic} {number}"
            try:
                bgr = cv2.cvtColor(to_rgb(message), cv2.COLOR_RGB2BGR)
            except ImageError as error:
                yield SourceFrame(np.zeros((0, 0, 3), np.uint8), name, recorded=recorded, problem=str(error))
                continue
            yield SourceFrame(bgr, name, recorded=recorded)


def _paired(records: Iterator[tuple[str, int, bytes]]) -> Iterator[tuple[str, int, bytes, bytes | None]]:
    """Each image with the CameraInfo that came since the image before it, or None.

    A recorder writes the two of one moment in either order: an image waits for the CameraInfo of its own stamp until
    the next image comes.
    """
    held, info = None, None
    for kind, time, data in records:
        if kind == INFO:
            if held is not None and _stamp_bytes(held[2]) == _stamp_bytes(data):
                yield (*held, data)
                held = None
            else:
                info = data
            continue
        if held is not None:
            yield (*held, None)
        held = (kind, time, data)
        if info is not None:
            yield (*held, info)
            held, info = None, None
    if held is not None:
        yield (*held, None)


def _stamp_bytes(data: bytes) -> bytes:
    """The stamp of a serialised message that begins with a header, behind the 4 bytes that tell the byte order."""
    return bytes(data[4:12])


def _look(reader, typestore, topic: str) -> tuple[bool, str]:
    """Whether a topic is grey, and why nothing of its beginning can be used ('' when something can)."""
    problem = ""
    connections = [one for one in reader.connections if one.topic == topic]
    for connection, _, data in islice(reader.messages(connections), _TRIED):
        message = typestore.deserialize_cdr(data, connection.msgtype)
        try:
            to_rgb(message)
        except ImageError as error:
            problem = problem or str(error)
            continue
        return getattr(message, "encoding", "").startswith(_GREY), ""
    return False, problem


def _info_topic(topic: str, infos: list[str]) -> str:
    """The CameraInfo beside an image topic (.../camera_info, as image_transport has it), else the bag's only one."""
    names = topic.split("/")
    for beside in ("/".join([*names[:-1], "camera_info"]), "/".join([*names[:-2], "camera_info"])):
        if beside in infos:
            return beside
    return infos[0] if len(infos) == 1 else ""


def _storage(path: Path) -> str:
    """'mcap' or 'sqlite3', as the bag's files are called."""
    files = list(path.iterdir()) if path.is_dir() else [path]
    return "mcap" if any(".mcap" in file.name.lower() for file in files) else "sqlite3"

