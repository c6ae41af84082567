"""An archive out of the built-in scene, the command that reconstructs it, and the rows that it made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import pyarrow.parquet as pq

from ofer_ros.camera.scene import Scene

WIDTH, HEIGHT = 320, 240


def make_archive(folder: Path, pictures: int, frames: Sequence[int]) -> Path:
    """Pictures in a folder of it, videos of so many frames each, and one that is none."""
    scene = Scene()
    (folder / "pictures").mkdir(parents=True)
    for number in range(pictures):
        cv2.imwrite(str(folder / "pictures" / f"p{number}.png"), _picture(scene, 3 * number))
    for number, count in enumerate(frames):
        writer = cv2.VideoWriter(str(folder / f"{number}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (WIDTH, HEIGHT))
        for index in range(count):
            writer.write(_picture(scene, 50 * number + index))
        writer.release()
    (folder / "broken.mp4").write_text("no video")
    return folder


def reconstruct(archive: Path, out: Path, *options: str) -> list[str]:
    """`ofer reconstruct ARCHIVE --out OUT` with options, for subprocess."""
    return [sys.executable, "-m", "ofer_models.cli", "reconstruct", str(archive), "--out", str(out), *options]


def rows_of(dataset: Path, kind: str = "faces") -> list[dict[str, Any]]:
    """Every row, without the part it lies in, in an order that does not depend on it."""
    rows = [row for file in sorted((dataset / kind).glob("*/*")) for row in pq.ParquetFile(file).read().to_pylist()]
    return sorted(rows, key=lambda row: (row["source"], row["frame"] or 0, row.get("track", "")))


def _picture(scene: Scene, index: int) -> cv2.typing.MatLike:
    return cv2.resize(cv2.cvtColor(scene(index).rgb, cv2.COLOR_RGB2BGR), (WIDTH, HEIGHT))
