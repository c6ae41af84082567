"""What a command line names: pictures, videos and bags out of files, folders, patterns, lists and addresses."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ofer_models.dataset.places import Place, PlaceError, resolve
from ofer_models.files.refusal import one_line
from ofer_models.perception.pictures import SUFFIXES

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv", ".3gp")
BAGS = (".mcap", ".db3", ".bag")
PICTURE, STREAM = "picture", "stream"  # a stream is a video or a bag
_LIST = ".txt"
_BAG_NOTE = "metadata.yaml"
_LONGEST_LINE = 4096


@dataclass(frozen=True)
class Source:
    """One picture, video or bag. address: a path or URL, with `#topic` for a bag's topic; version changes when the
    content does; size in bytes. problem: why it cannot be read, where that is known before it is tried."""

    address: str
    kind: str
    size: int = 0
    version: str = ""
    problem: str = ""


def find_sources(arguments: Iterable[str], outside: str = "") -> list[Source]:
    """Every source that the arguments stand for, once, in their order.

    An argument is a file, a folder (with all below it), a pattern, an address, a bag's `path#topic`, or a text file
    with one of these a line (`#` begins a comment; paths are relative to it). Folders and patterns give what has a
    known suffix and is not hidden, and nothing in `outside`, where results go. What stands for nothing is a source with
    a problem.
    """
    found: dict[str, Source] = {}
    for argument in arguments:
        for source in _listed(argument, outside):
            found.setdefault(source.address, source)
    return list(found.values())


def _listed(argument: str, outside: str) -> Iterator[Source]:
    if not argument.lower().endswith(_LIST) or "://" in argument or not os.path.isfile(os.path.expanduser(argument)):
        yield from _sources(argument, outside)
        return
    path = os.path.abspath(os.path.expanduser(argument))
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            while line := file.readline(_LONGEST_LINE + 1):
                if len(line) > _LONGEST_LINE or "\0" in line:
                    yield Source(path, PICTURE, problem="is no list of sources: a path or address a line")
                    return
                name = line.strip()
                if name and not name.startswith("#"):
                    whole = "://" in name or name.startswith("~")
                    yield from _sources(name if whole else os.path.join(os.path.dirname(path), name), outside)
    except OSError as error:
        yield Source(path, PICTURE, problem=f"cannot be read ({error.strerror})")


def _sources(argument: str, outside: str) -> Iterator[Source]:
    try:
        place, path = resolve(argument)
        yield from _expanded(place, path, argument, outside)
    except Exception as error:
        yield Source(argument, PICTURE, problem=_why(error))


def _why(error: Exception) -> str:
    """What keeps a source from being read, in one line; systems behind fsspec raise what they like."""
    if isinstance(error, PlaceError):
        return str(error)
    return f"cannot be read ({getattr(error, 'strerror', None) or one_line(error)})"


def _expanded(place: Place, path: str, argument: str, outside: str) -> Iterator[Source]:
    kind = place.kind(path)
    bag, mark, topic = path.rpartition("#")
    if kind == "file":
        yield _source(place, path)
    elif kind == "folder":
        found = list(_in_folder(place, path, outside))
        yield from found or [_nothing(argument, "a folder without pictures, videos or bags")]
    elif mark and place.kind(bag):
        members = [bag] if place.kind(bag) == "file" else [one for one in place.files(bag) if one.endswith(BAGS)]
        source = _bag(place, bag, members)
        yield replace(source, address=f"{source.address}#{topic}")
    elif glob.has_magic(path):
        found = []
        for match in place.matches(path):
            if place.kind(match) == "folder":
                found += _in_folder(place, match, outside)
            elif _known(match) and not _hidden(match) and not _within(match, outside):
                found.append(_source(place, match))
        yield from found or [_nothing(argument, "no picture, video or bag matches")]
    else:
        yield _nothing(argument, "does not exist")


def _in_folder(place: Place, folder: str, outside: str) -> Iterator[Source]:
    files = [file for file in place.files(folder) if not _within(file, outside)]
    bags = {_folder_of(file) for file in files if os.path.basename(file) == _BAG_NOTE}
    parts: dict[str, list[str]] = {}
    for file in files:
        if _folder_of(file) in bags and file.lower().endswith(BAGS):
            parts.setdefault(_folder_of(file), []).append(file)
        elif _known(file) and not _hidden(file[len(folder) :]):
            yield _source(place, file)
    for bag, members in parts.items():
        yield _bag(place, bag, members)


def _bag(place: Place, folder: str, members: list[str]) -> Source:
    """A bag of one or several files."""
    return _measured(place, folder, STREAM, sorted(members))


def _source(place: Place, path: str) -> Source:
    return _measured(place, path, PICTURE if path.lower().endswith(SUFFIXES) else STREAM, [path])


def _measured(place: Place, path: str, kind: str, files: list[str]) -> Source:
    """A source of some files; with a problem where one is a broken link, a pipe, or gone since it was listed."""
    try:
        versions = [place.version(file) for file in files]
    except Exception as error:
        return Source(place.address(path), kind, problem=_why(error))
    return Source(place.address(path), kind, sum(size for size, _ in versions), "+".join(one for _, one in versions))


def _nothing(argument: str, problem: str) -> Source:
    path = argument if "://" in argument else os.path.abspath(os.path.expanduser(argument))
    return Source(path, PICTURE, problem=problem)


def _known(path: str) -> bool:
    return path.lower().endswith((*SUFFIXES, *VIDEOS, *BAGS))


def _hidden(path: str) -> bool:
    """Whether a part of the path begins with a dot: nothing for anybody to look at."""
    return any(part.startswith(".") for part in path.split("/"))


def _within(path: str, folder: str) -> bool:
    return bool(folder) and path.startswith(folder.rstrip("/") + "/")


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]
