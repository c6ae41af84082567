"""An mp4 that plays at the speed of the stream, whatever rate its frames came at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

_LONGEST_GAP = 2.0  # seconds a picture is held at most; a camera that paused must not fill the disk


class TimedVideo:
    """Writes frames onto a fixed timeline: early ones are left out, late ones bridged by repeating the last."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path = path
        self._rate = rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._start = 0.0
        self._last: np.ndarray | None = None
        self.frames = 0

    def add(self, bgr: np.ndarray, time: float) -> None:
        """Add a picture (H, W, 3) uint8 taken at `time` seconds. Sizes other than the first are fitted into it.

        Raises OSError when the file cannot be written.
        """
        if self._writer is None:
            self._open(bgr, time)
        due = round((time - self._start) * self._rate)
        if due < self.frames:
            return
        gap = min(due - self.frames, round(_LONGEST_GAP * self._rate))
        self._start += (due - self.frames - gap) / self._rate
        for _ in range(gap):
            self._write(self._last)
        self._last = self._fitted(bgr)
        self._write(self._last)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def _open(self, bgr: np.ndarray, time: float) -> None:
        # The codec wants even sizes.
        self._size = (max(2, bgr.shape[1] // 2 * 2), max(2, bgr.shape[0] // 2 * 2))
        self._writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter_fourcc(*"mp4v"), self._rate, self._size)
        if not self._writer.isOpened():
            raise OSError(f"cannot write {self._path}")
        self._start = time

    def _write(self, bgr: np.ndarray) -> None:
        self._writer.write(bgr)
        self.frames += 1

    def _fitted(self, bgr: np.ndarray) -> np.ndarray:
        width, height = self._size
        if bgr.shape[:2] == (height, width):
            return bgr
        scale = min(width / bgr.shape[1], height / bgr.shape[0])
        size = (max(1, round(bgr.shape[1] * scale)), max(1, round(bgr.shape[0] * scale)))
        canvas = np.zeros((height, width, 3), np.uint8)
        left, top = (width - size[0]) // 2, (height - size[1]) // 2
        canvas[top : top + size[1], left : left + size[0]] = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
        return canvas
