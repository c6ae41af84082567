"""What every source of pictures gives, how it refuses, and which paths are bags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

BAGS = (".mcap", ".db3", ".bag")


class SourceError(ValueError):
    """The source does not exist or cannot be read; the text says what to give instead."""


@dataclass(frozen=True)
class Recorded:
    """What a bag knows of a picture: stamp and frame of its header, and when it was recorded (both times in ns).

    camera_info: the serialised sensor_msgs/CameraInfo that came with it, or None where none did.
    """

    stamp: int
    frame_id: str
    time: int
    camera_info: bytes | None = None


@dataclass(frozen=True)
class SourceFrame:
    """One picture of a source.

    bgr: (H, W, 3) uint8.  name: file and frame number, for the log.
    face_expected: whether a face is known to be visible; None where nobody knows.
    recorded: of a bag's picture.  time: of a video's frame, seconds on the file's own clock.
    taken: when a camera gave it, time.monotonic.  problem: why there are no pixels, where a picture cannot be read.
    """

    bgr: np.ndarray
    name: str
    face_expected: bool | None = None
    recorded: Recorded | None = None
    time: float | None = None
    taken: float | None = None
    problem: str = ""

    @property
    def moment(self) -> float | None:
        """Seconds on the clock of its source that tell how far apart frames are shown; None: at any rate."""
        return self.time if self.recorded is None else 1e-9 * self.recorded.time


def bag_path(source: str) -> Path | None:
    """The bag that `source` names ('path', or 'path#topic'): a bag's file, or a folder that holds one; else None."""
    path, _ = bag_and_topic(source)
    if path.is_dir():
        return path if _holds_a_bag(path) else None
    return path if path.suffix.lower() in BAGS and path.is_file() else None


def bag_and_topic(source: str) -> tuple[Path, str]:
    """The path and the topic ('' where none is named) of 'path' or 'path#topic'; a path may hold a # as well."""
    whole = Path(source).expanduser()
    path, mark, topic = source.rpartition("#")
    return (whole, "") if whole.exists() or not mark else (Path(path).expanduser(), topic)


def _holds_a_bag(folder: Path) -> bool:
    """By its files, or by a metadata.yaml that is a bag's: other things have files of that name, too."""
    if any(file.suffix.lower() in BAGS for file in folder.iterdir()):
        return True
    try:
        with (folder / "metadata.yaml").open("rb") as file:
            return b"rosbag2_bagfile_information" in file.read(4096)
    except OSError:
        return False
