"""A rosbag2 opened under a budget: whatever is wrong with it comes as one line, and its own message definitions are
used where they differ from Jazzy's.

Needs the package `rosbags` and no ROS installation.
"""

from __future__ import annotations

import keyword
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ofer_models.files.documents import read_yaml
from ofer_models.files.refusal import FileRefused, one_line
from ofer_ros.camera.source_frame import SourceError

_MOST_METADATA = 4 << 20  # bytes of metadata.yaml
_LARGEST_CHUNK = 1 << 30  # bytes that one compressed chunk may unpack to
_LONGEST_DEFINITION = 64 << 10
_FIELD_NAME, _TYPE_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,63}"), re.compile(r"\w{1,64}/msg/\w{1,64}")
_MENDS = "(cut off while recording? `mcap recover` or `ros2 bag reindex` mends it)"


@contextmanager
def reading(path: Path, kinds: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
    """An open rosbags Reader, and a typestore that knows these message kinds as the bag has them.

    Raises SourceError of one line for anything that is wrong with the bag, also while it is read.
    """
    if path.suffix.lower() == ".bag":
        raise SourceError(f"{path} is a ROS 1 bag: convert it with rosbags-convert --src {path} --dst {path.stem}")
    if path.is_dir() and not (path / "metadata.yaml").exists():
        raise SourceError(f"{path} holds bag files but no metadata.yaml: give one of its files, or ros2 bag reindex it")
    try:
        from rosbags.rosbag2 import Reader
    except ImportError:
        raise SourceError("playing a bag needs the package rosbags: pip install rosbags") from None
    with in_one_line(path):
        if path.is_dir():
            read_yaml(path / "metadata.yaml", _MOST_METADATA)
        for file in sorted(path.glob("*.db3")) if path.is_dir() else [path]:
            _check_tables(file)
        _bound_decompression()
        with _in_small_letters(path) as known, Reader(known) as reader:
            yield reader, _typestore(reader, kinds)


def camera_info(data: bytes) -> Any:
    """The sensor_msgs/CameraInfo of `Recorded.camera_info`, which every bag has in the same layout."""
    return _jazzy().deserialize_cdr(data, "sensor_msgs/msg/CameraInfo")


@contextmanager
def in_one_line(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a bag's content inside becomes a SourceError of one line."""
    try:
        yield
    except SourceError:
        raise
    except FileRefused as error:
        raise SourceError(f"the bag {path} cannot be read: its metadata.yaml {error}") from None
    except Exception as error:  # rosbags raises nearly every type for a damaged bag
        reason = one_line(" ".join(str(error).split()) or type(error).__name__)
        raise SourceError(f"the bag {path} cannot be read: {reason} {_MENDS}") from None


@contextmanager
def _in_small_letters(path: Path) -> Iterator[Path]:
    """The same bag under a name whose ending rosbags knows: a camera's card may hold X.MCAP."""
    if path.is_dir() or path.suffix.islower():
        yield path
        return
    with TemporaryDirectory() as folder:
        link = Path(folder) / f"bag{path.suffix.lower()}"
        link.symlink_to(path.resolve())
        yield link


def _check_tables(file: Path) -> None:
    """Refuse an sqlite file whose tables are made up while they are read: a view's rows need not end."""
    with file.open("rb") as opened:
        if opened.read(15) != b"SQLite format 3":
            return
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as base:
        rows = base.execute("SELECT name, type, rootpage FROM sqlite_master").fetchmany(1000)
    for name, kind, page in rows:
        if kind in ("view", "trigger") or (kind == "table" and not page):
            raise SourceError(f"the bag {file} has a {kind} {one_line(name)!r}, which no recorder writes")


def _bound_decompression() -> None:
    """Let rosbags unpack a chunk to the size that the chunk tells, and no further: it asks for everything otherwise."""
    from rosbags.rosbag2 import storage_mcap

    table = getattr(storage_mcap, "DECOMPRESSORS", {})  # other versions have another way
    for name in ("lz4", "zstd"):
        if name in table and not isinstance(table[name], partial):
            table[name] = partial(_unpacked, name)


def _unpacked(compression: str, data: bytes, size: int) -> bytes:
    if size > _LARGEST_CHUNK:
        raise ValueError(f"a chunk of {size >> 20} MiB")
    if compression == "lz4":
        from lz4.frame import LZ4FrameDecompressor as Decompressor
    else:
        from rosbags.rosbag2.storage_mcap import zstd

        Decompressor = zstd.ZstdDecompressor
    return Decompressor().decompress(data, max_length=size + 1)


@cache
def _jazzy() -> Any:
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


def _typestore(reader: Any, kinds: tuple[str, ...]) -> Any:
    """Jazzy's messages, or the bag's where it tells another layout of one of these kinds."""
    from rosbags.interfaces import MessageDefinitionFormat
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    jazzy, own = _jazzy(), {}
    for one in reader.connections:
        definition = one.msgdef
        if one.msgtype in kinds and definition.data and definition.format == MessageDefinitionFormat.MSG:
            if len(definition.data) > _LONGEST_DEFINITION:
                raise ValueError(f"the definition of {one.msgtype} has {len(definition.data)} characters")
            own |= get_types_from_msg(definition.data, one.msgtype)
    layouts = {name: ([], fields) for name, (_, fields) in own.items()}  # constants are of no use here
    if all(fields == jazzy.fielddefs[name][1] for name, (_, fields) in layouts.items() if name in jazzy.fielddefs):
        return jazzy
    for name, (_, fields) in layouts.items():  # rosbags writes program text of them
        names = [field for field, _ in fields]
        if not _TYPE_NAME.fullmatch(name) or any(keyword.iskeyword(f) or not _FIELD_NAME.fullmatch(f) for f in names):
            raise ValueError("a message definition has names that none can have")
    store = get_typestore(Stores.EMPTY)
    store.register(layouts)
    return store
