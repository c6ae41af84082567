"""Which pictures a command line names, and what their results are called."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from ofer_models.perception.pictures import SUFFIXES, PictureError, pictures_in


def find_pictures(
    arguments: Iterable[str], outside: Path | None = None
) -> tuple[list[Path], dict[str, str], list[Path]]:
    """Files that arguments (files, folders, patterns) stand for, each once; argument -> why it stands for none; and the
    hidden files that were passed over.

    Folders and patterns give the files with a picture's suffix, by name, leaving out those under `outside`: results
    of an earlier run are no input.
    """
    found: dict[Path, Path] = {}
    problems: dict[str, str] = {}
    passed_over: list[Path] = []
    for argument in arguments:
        try:
            pictures, hidden = _expand(argument, outside)
        except PictureError as error:
            problems[argument] = str(error)
            continue
        except (OSError, RuntimeError) as error:  # no right to look, too long a name, ~ of nobody
            problems[argument] = f"cannot be read ({getattr(error, 'strerror', None) or error})"
            continue
        passed_over += hidden
        for picture in pictures:
            found.setdefault(_place(picture), picture)  # links lead to one picture more than once
    return list(found.values()), problems, passed_over


def _expand(argument: str, outside: Path | None) -> tuple[list[Path], list[Path]]:
    path = Path(argument).expanduser()
    if path.is_file():  # also a file whose name looks like a pattern
        return [path], []
    if path.is_dir():
        candidates, nothing = path.iterdir(), f"a folder without pictures ({', '.join(SUFFIXES)})"
    elif glob.has_magic(argument):
        candidates = map(Path, glob.iglob(str(path), recursive=True))
        nothing = f"no picture ({', '.join(SUFFIXES)}) matches"
    else:
        raise PictureError("does not exist")
    excluded = outside.resolve() if outside else None
    pictures, hidden = pictures_in(file for file in candidates if excluded not in _place(file).parents)
    if not pictures:
        raise PictureError(nothing)
    return pictures, hidden


def _place(path: Path) -> Path:
    """Where links lead. Path.resolve raises for one that leads to itself, which would cost the whole folder."""
    return Path(os.path.realpath(path))


def folder_names(pictures: Iterable[Path]) -> list[str]:
    """A name for each picture's results: its own without suffix, numbered where several would share one."""
    names: list[str] = []
    taken: set[str] = set()
    for picture in pictures:
        stem = picture.stem.lstrip(".") or "picture"  # `...jpg` would lead out of the results' folder
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        names.append(name)
    return names
