"""Folders of results that are whole and of one run: written aside, then put in the place of an earlier run's."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RESULT = re.compile(r"face\d+(_identity|_texture|_\d+)?\.(png|npz|json|ply|obj|glb|mtl|txt)")


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which becomes `folder` when the block ends, and vanishes when it raises.

    Raises FileExistsError when `folder` holds anything but results of an earlier run.
    """
    _refuse_others(folder)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        remove_results(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_results(folder: Path) -> None:
    """Take an earlier run's results away. Raises FileExistsError when the folder holds anything else."""
    _refuse_others(folder)
    if folder.is_dir():
        shutil.rmtree(folder)


def _refuse_others(folder: Path) -> None:
    others = [file.name for file in folder.iterdir() if not _RESULT.fullmatch(file.name)] if folder.is_dir() else []
    if others:
        raise FileExistsError(f"{folder} holds {others[0]}, which is no result of an earlier run: give another folder")
