"""Where camera_node's frames come from: the built-in scene, pictures, a video, a webcam, a bag. No ROS in here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from ofer_models.perception.pictures import SUFFIXES, PictureError, pictures_in, printable, read_picture
from ofer_ros.camera.bag_source import bag_frames
from ofer_ros.camera.scene import FRAMES, Scene
from ofer_ros.camera.source_frame import SourceError, SourceFrame, bag_path
from ofer_ros.camera.video import video_frames, webcam_frames


def open_source(source: str, rate: float, hold: float, max_side: int) -> Iterator[SourceFrame]:
    """Frames of one pass over `source`: 'scene', a picture, a folder, a video file, a webcam's number, or a rosbag2.

    rate: frames a second, which with `hold` (seconds a picture is shown) gives the repetitions of a picture.
    Larger frames are scaled down to `max_side` px, but for those of a bag, whose CameraInfo is for their own size.
    Raises SourceError before the first frame when there is none, and after a folder none of whose pictures can be read.
    """
    if source == "scene":
        return _scene()
    if source.isdigit():
        return _scaled(webcam_frames(int(source)), max_side)
    if bag_path(source) is not None:
        return bag_frames(source)
    try:
        path = Path(source).expanduser()
        files, hidden = pictures_in(path.iterdir()) if path.is_dir() else ([], [])
    except (OSError, RuntimeError) as error:  # no right to look, too long a name, ~ of nobody
        raise SourceError(f"source '{source}' cannot be read ({error})") from None
    if path.is_dir():
        if not files:
            raise SourceError(f"no pictures ({', '.join(SUFFIXES)}) in the folder {printable(path)}")
        return _scaled(_pictures(files, hidden, max(1, round(rate * hold))), max_side)
    if not path.exists():
        raise SourceError(f"source '{source}' is neither 'scene', a file, a folder, a bag nor the number of a webcam")
    if path.suffix.lower() in SUFFIXES:
        return _scaled(_pictures([path], [], max(1, round(rate * hold))), max_side)
    return _scaled(video_frames(path, rate), max_side)


def own_pace(source: str) -> bool:
    """Whether the frames of a source come at times of their own: those of a bag and of a video file do."""
    path = Path(source).expanduser()
    return bag_path(source) is not None or (path.is_file() and path.suffix.lower() not in SUFFIXES)


def _scene() -> Iterator[SourceFrame]:
    try:
        scene = Scene()
    except ImportError as error:
        raise SourceError(str(error)) from None
    return (_scene_frame(scene, index) for index in range(FRAMES))


def _scene_frame(scene: Scene, index: int) -> SourceFrame:
    frame = scene(index)
    return SourceFrame(cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR), f"scene {index}", frame.expects_face)


def _pictures(files: list[Path], hidden: list[Path], repeats: int) -> Iterator[SourceFrame]:
    """Each file's picture `repeats` times; those that cannot be read, and the hidden ones, have none and say why."""
    nothing = np.zeros((0, 0, 3), np.uint8)
    problems: list[str] = []
    for file in files:
        name = printable(file.name)
        try:
            bgr = cv2.cvtColor(read_picture(file), cv2.COLOR_RGB2BGR)
        except PictureError as error:
            problems.append(f"{name}: {error}")
            yield SourceFrame(nothing, name, problem=str(error))
            continue
        for _ in range(repeats):
            yield SourceFrame(bgr, name)
    for file in hidden:
        yield SourceFrame(nothing, printable(file.name), problem="a hidden file")
    if len(problems) == len(files):
        raise SourceError(f"no picture can be read: {'; '.join(problems)}")


def _scaled(frames: Iterator[SourceFrame], max_side: int) -> Iterator[SourceFrame]:
    for frame in frames:
        height, width = frame.bgr.shape[:2]
        scale = max_side / max(height, width, 1)
        if scale >= 1:
            yield frame
            continue
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        yield replace(frame, bgr=cv2.resize(frame.bgr, size, interpolation=cv2.INTER_AREA))
