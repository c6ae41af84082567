"""Rosbag2 recordings."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hostile.parts import LAUGHS, Case, Kind, cut_short, raw


def bag(change: Callable[[Path], Any], storage: str = "mcap") -> Case:
    def make(folder: Path) -> Path:
        from bag_support import START, image, write_bag

        path = write_bag(folder / "bag", [("/image", START, image(START, np.zeros((8, 8, 3), np.uint8)))], storage)
        change(path)
        return path

    return make


def _changed(path: Path, seed: int, count: int) -> None:
    file = next(path.glob("*.mcap"))
    content = bytearray(file.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, len(content), count):
        content[at] = rng.integers(256)
    file.write_bytes(content)


def _view(path: Path) -> None:
    file = next(path.glob("*.db3"))
    with sqlite3.connect(file) as base:
        base.execute("ALTER TABLE messages RENAME TO kept")
        base.execute("CREATE VIEW messages AS WITH RECURSIVE r(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM r) "
                     "SELECT r.id, topic_id, timestamp, data FROM r, kept")  # fmt: skip


BAGS: dict[str, Case] = {
    "metadata of 20,000 brackets": bag(lambda p: (p / "metadata.yaml").write_text(20_000 * "[")),
    "metadata of laughs": bag(lambda p: (p / "metadata.yaml").write_text(LAUGHS)),
    "metadata of nothing": bag(lambda p: (p / "metadata.yaml").write_text("")),
    "metadata of 5 MB": bag(lambda p: (p / "metadata.yaml").write_text((5 << 20) * " ")),
    "metadata of bytes": bag(lambda p: (p / "metadata.yaml").write_bytes(b"\xff\xfe\x00")),
    "metadata of a number": bag(lambda p: (p / "metadata.yaml").write_text("rosbag2_bagfile_information: 3")),
    "cut short": bag(lambda p: cut_short(next(p.glob("*.mcap")), 0.5)),
    "empty": bag(lambda p: cut_short(next(p.glob("*.mcap")), 0)),
    "zeros": bag(lambda p: next(p.glob("*.mcap")).write_bytes(bytes(5000))),
    "an endless view": bag(_view, "sqlite3"), "no database": bag(
        lambda p: next(p.glob("*.db3")).write_bytes(b"SQLite format 3\0" + bytes(500)), "sqlite3"),
    "no bag": lambda folder: folder, "random": raw("a.mcap", np.random.default_rng(5).bytes(3000)),
    "a magic alone": raw("a.mcap", b"\x89MCAP0\r\n"),
    **{f"changed bytes {n}": bag(lambda p, n=n: _changed(p, n, 40 + 40 * n)) for n in range(8)},
}  # fmt: skip


def _bag(path: Path) -> Any:
    from ofer_ros.camera.sources import open_source

    return list(open_source(str(path), 30.0, 1.0, 1280))


KINDS: dict[str, Kind] = {"bag": (_bag, BAGS)}
