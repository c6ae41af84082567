"""Where sources lie: on this machine's file system, or behind an address that fsspec knows (s3://, ...)."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from ofer_models.files.refusal import one_line
from ofer_models.perception.pictures import FILES, PictureError

_STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "created")  # what tells of a change, by system


class PlaceError(ValueError):
    """An address cannot be used; one line says why."""


class Place(Protocol):
    """One file system. Paths are as `resolve` and the methods here give them."""

    def kind(self, path: str) -> str:
        """`file`, `folder`, or '' where there is nothing."""

    def files(self, folder: str) -> Iterator[str]:
        """Every file in a folder and below it."""

    def matches(self, pattern: str) -> Iterator[str]:
        """Files and folders that match a glob pattern."""

    def version(self, path: str) -> tuple[int, str]:
        """Bytes, and a text that changes when the file does. Raises PlaceError or OSError for what is no file."""

    def address(self, path: str) -> str:
        """What names the file from anywhere."""


def resolve(argument: str) -> tuple[Place, str]:
    """The file system of a path or address, and the path on it. Raises PlaceError."""
    if argument.startswith("file://"):
        return Disk(), os.path.abspath(_path_of(argument))
    if "://" not in argument:
        try:
            return Disk(), os.path.abspath(Path(argument).expanduser())
        except RuntimeError as error:  # ~ of nobody
            raise PlaceError(one_line(error)) from None
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(argument)
    except Exception as error:  # an unknown protocol, a package that is missing, credentials: each system its own
        raise PlaceError(f"cannot be used ({one_line(error)})") from None
    return Remote(system), path


def _path_of(address: str) -> str:
    """The path of a `file://` address, of this machine by name or without, escaped (RFC 8089) or as it is."""
    path = address.removeprefix("file://")
    path = path.removeprefix("localhost") if path.startswith("localhost/") else path
    return path if os.path.lexists(path) else unquote(path, errors="surrogateescape")


class Disk:
    """This machine's files. Links to folders are not followed: they may lead back."""

    def kind(self, path: str) -> str:
        return "folder" if os.path.isdir(path) else "file" if os.path.exists(path) else ""

    def files(self, folder: str) -> Iterator[str]:
        for base, folders, names in os.walk(folder):
            folders.sort()
            yield from (os.path.join(base, name) for name in sorted(names))

    def matches(self, pattern: str) -> Iterator[str]:
        return iter(sorted(glob.iglob(_without_known_folders(self, pattern), recursive=True)))

    def version(self, path: str) -> tuple[int, str]:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device may never end
            raise PlaceError("is no regular file")
        return found.st_size, f"{found.st_size}-{found.st_mtime_ns}"

    def address(self, path: str) -> str:
        return path


class Remote:
    """Files behind a file system of fsspec."""

    def __init__(self, system: Any) -> None:
        self._system = system

    def kind(self, path: str) -> str:
        try:
            return "folder" if self._system.info(path)["type"] == "directory" else "file"
        except FileNotFoundError:
            return ""

    def files(self, folder: str) -> Iterator[str]:
        return iter(sorted(self._system.find(folder)))

    def matches(self, pattern: str) -> Iterator[str]:
        return iter(sorted(self._system.glob(_without_known_folders(self, pattern))))

    def version(self, path: str) -> tuple[int, str]:
        info = self._system.info(path)
        size = int(info.get("size") or 0)
        stamp = next((str(info[name]) for name in _STAMPS if info.get(name)), "")
        return size, f"{size}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"

    def address(self, path: str) -> str:
        return self._system.unstrip_protocol(path)

    def fetch(self, path: str, target: str) -> None:
        """A file, or a folder with all that is below it; no name is taken for a pattern. Raises PlaceError for one that
        would lead out of the target."""
        if self.kind(path) != "folder":
            self._system.get_file(path, target)
            return
        for file in self.files(path):
            name = file[len(path) :].lstrip("/")
            if ".." in name.split("/"):  # an object store allows it
                raise PlaceError(f"{one_line(file)} leads out of its folder")
            own = os.path.join(target, name)
            os.makedirs(os.path.dirname(own), exist_ok=True)
            self._system.get_file(file, own)

    def content(self, path: str) -> bytes:
        return self._system.cat_file(path)


def _without_known_folders(place: Place, pattern: str) -> str:
    """A pattern whose folders that are there as they are written are no patterns."""
    base, name = os.path.split(pattern)
    rest = [name]
    while base.strip("/") and place.kind(base) != "folder":
        base, name = os.path.split(base)
        rest.insert(0, name)
    return os.path.join(glob.escape(base), *rest)


def picture_bytes(address: str) -> bytes | None:
    """The content of a picture behind an address; None for one on this machine, which is read by its path.

    Raises PictureError before a content of more than pictures may have is fetched.
    """
    place, path = resolve(address)
    if isinstance(place, Disk):
        return None
    size, _ = place.version(path)
    if size > FILES.bytes:
        raise PictureError(f"too large: {size / 2**20:.0f} MiB, at most {FILES.bytes / 2**20:.0f} are read")
    return place.content(path)


@contextmanager
def on_this_machine(address: str) -> Iterator[str]:
    """A path at which a file or folder can be read: its own, or that of a copy for as long as the block lasts; with
    `#topic` where a bag's address has one."""
    place, path = resolve(address)
    if isinstance(place, Disk):
        yield path
        return
    bag, mark, topic = path.rpartition("#")
    if mark and not place.kind(path):  # a name may hold a # as well
        path, topic = bag, mark + topic
    else:
        topic = ""
    with tempfile.TemporaryDirectory(prefix="ofer_") as folder:
        target = os.path.join(folder, os.path.basename(path.rstrip("/")))
        place.fetch(path, target)
        yield target + topic
