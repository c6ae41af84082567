"""Frames of video files, at their own times and turned upright, and of webcams, the newest and when it was taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ofer_models.perception.pictures import printable
from ofer_ros.camera.source_frame import SourceError, SourceFrame

_PATIENCE = 5.0  # seconds that a webcam may take for a frame


def video_frames(path: Path, rate: float) -> Iterator[SourceFrame]:
    """Every frame of a file with its `time`. rate: of files that state none, Hz. Raises SourceError."""
    return _from_file(_opened(str(path), f"video {printable(path)}"), printable(path.name), rate)


def webcam_frames(number: int) -> Iterator[SourceFrame]:
    """Each time the newest frame that was not given yet, with when it was `taken`. Raises SourceError."""
    return _from_camera(_opened(number, f"webcam {number}"))


def _opened(source: str | int, what: str) -> cv2.VideoCapture:
    level = cv2.getLogLevel()
    cv2.setLogLevel(0)  # OpenCV tells of every way in which it tried to open it; one line from us will do
    try:
        capture = cv2.VideoCapture(source)
    finally:
        cv2.setLogLevel(level)
    if not capture.isOpened():
        raise SourceError(f"{what} cannot be opened")
    return capture


def _from_file(capture: cv2.VideoCapture, name: str, rate: float) -> Iterator[SourceFrame]:
    # A phone writes its pictures as the sensor lies, and how they are to be turned beside them.
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    period = 1 / (capture.get(cv2.CAP_PROP_FPS) or rate)
    try:
        index, at = 0, -period
        while True:
            good, bgr = capture.read()
            if not good:
                return
            stated = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            at = stated if stated > at else at + period  # files without times say 0 again and again
            yield SourceFrame(bgr, f"{name} {index}", time=at)
            index += 1
    finally:
        capture.release()


class Webcam:
    """Reads a camera as fast as it gives frames, in a thread of its own, and keeps the newest.

    A driver hands out its oldest buffer: who reads more slowly than the camera fills them sees the past.
    """

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self._new = threading.Condition()
        self._frame: tuple[np.ndarray, float] | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="ofer-webcam", daemon=True)
        self._thread.start()

    def next(self, patience: float = _PATIENCE) -> tuple[np.ndarray, float] | None:
        """The newest frame not given yet and when it arrived (time.monotonic); None when the camera has ended."""
        with self._new:
            self._new.wait_for(lambda: self._frame is not None or self._ended, patience)
            frame, self._frame = self._frame, None
            return frame

    def close(self) -> None:
        self._ended = True
        self._thread.join(_PATIENCE)

    def _read(self) -> None:
        while not self._ended:
            good, bgr = self._capture.read()
            with self._new:
                self._frame = (bgr, time.monotonic()) if good else self._frame
                self._ended |= not good
                self._new.notify()
        self._capture.release()


def _from_camera(capture: cv2.VideoCapture) -> Iterator[SourceFrame]:
    webcam = Webcam(capture)  # only now: who opens a source to see whether it can be must not keep it
    try:
        index = 0
        while (frame := webcam.next()) is not None:
            yield SourceFrame(frame[0], f"webcam {index}", taken=frame[1])
            index += 1
    finally:
        webcam.close()
