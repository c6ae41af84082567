"""What the tests of datasets share: small archives, and readers of videos that are there for a test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ofer_models.dataset.frames import ArchivedFrame
from ofer_models.perception.intrinsics import Intrinsics

H, N, SEED = 2, 4, 3
CAMERA = Intrinsics(np.array([[300.0, 0, 120], [0, 300, 110], [0, 0, 1]]), 240, 220)


def face_picture(shift: int = 0) -> np.ndarray:
    """BGR (220, 240, 3) with a face."""
    from skimage.data import astronaut

    return np.roll(cv2.cvtColor(astronaut(), cv2.COLOR_RGB2BGR)[0:220, 100:340], shift, axis=1)


def make_pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"p{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), face_picture(3 * number))
    return paths


def moving_face(path: str) -> Iterator[ArchivedFrame]:
    """Reads the text file at `path`: how many frames it has, and after which one it breaks off, if it does."""
    count, _, end = Path(path).read_text().partition(" ")
    for number in range(int(count)):
        if end and number == int(end):
            raise ValueError("the rest is missing")
        rgb = cv2.cvtColor(face_picture(2 * number), cv2.COLOR_BGR2RGB)
        yield ArchivedFrame(rgb, 100 + number / 30, CAMERA)


def deadly(path: str) -> Iterator[ArchivedFrame]:
    """As `moving_face`, but a file called once.mp4 kills its first reader, and one called always.mp4 every reader."""
    seen = Path(path).with_suffix(".tried")
    with seen.open("a") as file:
        file.write("x")
    name = os.path.basename(path)
    for number, frame in enumerate(moving_face(path)):
        if number == 1 and (name == "always.mp4" or (name == "once.mp4" and len(seen.read_text()) == 1)):
            os.kill(os.getpid(), signal.SIGKILL)
        yield frame
