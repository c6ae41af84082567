"""Videos, bags and folders as `ofer reconstruct --ray` reads them. Needs no ROS installation."""

from __future__ import annotations

from collections.abc import Iterator

import cv2

from ofer_models.dataset.frames import ArchivedFrame
from ofer_models.perception.intrinsics import Intrinsics, IntrinsicsError
from ofer_models.perception.pictures import MAX_SIDE
from ofer_ros.camera.bag_reader import camera_info
from ofer_ros.camera.source_frame import SourceFrame
from ofer_ros.camera.sources import open_source
from ofer_ros.input.calibration import camera_of, is_rectified

_RATE = 30.0  # Hz, of videos that state none


def archived_frames(path: str) -> Iterator[ArchivedFrame]:
    """Every frame of a video or a bag ('path', or 'path#topic'). Raises SourceError for what cannot be read."""
    for number, frame in enumerate(open_source(path, _RATE, hold=1 / _RATE, max_side=MAX_SIDE)):
        stamp = 1e-9 * frame.recorded.stamp if frame.recorded else frame.time
        stamp = number / _RATE if stamp is None else stamp
        if frame.problem:
            yield ArchivedFrame(None, stamp, problem=frame.problem)
        else:
            yield ArchivedFrame(cv2.cvtColor(frame.bgr, cv2.COLOR_BGR2RGB), stamp, _camera(frame))


def _camera(frame: SourceFrame) -> Intrinsics | None:
    """As the bag has it; None where it has none that can be used."""
    if frame.recorded is None or frame.recorded.camera_info is None:
        return None
    try:
        camera = camera_of(camera_info(frame.recorded.camera_info), is_rectified(frame.name.partition(" ")[0]))
        return camera.scaled_to(*frame.bgr.shape[1::-1])
    except IntrinsicsError:
        return None
