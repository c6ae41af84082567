"""Which pictures a command line names, and reading them."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class PictureError(ValueError):
    """A picture is not there or cannot be read; one line says why."""


def find_pictures(arguments: Iterable[str], outside: Path | None = None) -> tuple[list[Path], dict[str, str]]:
    """Files that arguments (files, folders, patterns) stand for, each once, and argument -> why it stands for none.

    Folders and patterns give the files with a picture's suffix, by name, leaving out those under `outside`: results
    of an earlier run are no input.
    """
    found: dict[Path, Path] = {}
    problems: dict[str, str] = {}
    for argument in arguments:
        try:
            for picture in _expand(argument, outside):
                found.setdefault(picture.resolve(), picture)  # links lead to one picture more than once
        except PictureError as error:
            problems[argument] = str(error)
    return list(found.values()), problems


def _expand(argument: str, outside: Path | None) -> list[Path]:
    path = Path(argument).expanduser()
    if path.is_file():  # also a file whose name looks like a pattern
        return [path]
    if path.is_dir():
        candidates, nothing = path.iterdir(), f"a folder without pictures ({', '.join(PICTURES)})"
    elif glob.has_magic(argument):
        candidates = map(Path, glob.iglob(str(path), recursive=True))
        nothing = f"no picture ({', '.join(PICTURES)}) matches"
    else:
        raise PictureError("does not exist")
    excluded = outside.resolve() if outside else None
    pictures = sorted(
        file
        for file in candidates
        if file.suffix.lower() in PICTURES and file.is_file() and excluded not in file.resolve().parents
    )
    if not pictures:
        raise PictureError(nothing)
    return pictures


def read_picture(path: Path) -> np.ndarray:
    """A picture as (H, W, 3) uint8 RGB, turned as its camera's note says. Raises PictureError."""
    try:
        with path.open("rb"):
            pass
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror})") from None
    except cv2.error as error:  # more pixels than OpenCV accepts
        raise PictureError(f"cannot be read ({str(error).splitlines()[0]})") from None
    if bgr is None:
        raise PictureError("not a picture that OpenCV can read, or damaged")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def folder_names(pictures: Iterable[Path]) -> list[str]:
    """A name for each picture's results: its own without suffix, numbered where several would share one."""
    names: list[str] = []
    taken: set[str] = set()
    for picture in pictures:
        name, number = picture.stem, 1
        while name in taken:
            number += 1
            name = f"{picture.stem}_{number}"
        taken.add(name)
        names.append(name)
    return names
