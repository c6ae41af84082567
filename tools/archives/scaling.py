"""python -m tools.archives.scaling: one archive with 1, 2 and 4 workers of this machine: wall and processor time."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tools.archives.enclosure import enclose
from tools.archives.material import make_archive, reconstruct

_PATIENCE = 3600.0  # s for a run


@dataclass(frozen=True)
class Run:
    """seconds: of the whole command; processor: of the workers on their parts, s; bytes of the dataset."""

    frames: int
    faces: int
    seconds: float
    processor: float
    bytes: int


def run(archive: Path, out: Path, workers: int) -> Run:
    """One dataset with so many workers. Ends the program where Ray makes none of it."""
    began = time.monotonic()
    done = subprocess.run(
        reconstruct(archive, out, "--ray=local", f"--workers={workers}"),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=_PATIENCE,
    )  # fmt: skip
    took = time.monotonic() - began
    if not (out / "manifest.jsonl").exists():
        raise SystemExit(f"{workers} workers: {(done.stderr.strip().splitlines() or ['ended without a word'])[-1]}")
    parts = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    frames, faces, processor = (sum(part[name] for part in parts) for name in ("frames", "faces", "seconds"))
    return Run(frames, faces, took, processor, sum(one.stat().st_size for one in out.rglob("*.parquet")))


def main(
    videos: Annotated[int, typer.Option(min=1, help="of the archive")] = 8,
    frames: Annotated[int, typer.Option(min=1, help="of each video")] = 150,
    workers: Annotated[str, typer.Option(help="numbers of them, one run each; the first is compared with")] = "1,2,4",
) -> None:
    """A table of runs over one archive."""
    print("| workers | frames | wall, s | frames/s | processor, ms a frame | efficiency by it | bytes a row |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="ofer_", ignore_cleanup_errors=True) as name:
        archive = make_archive(Path(name) / "archive", 1, [frames] * videos)
        one = None
        for count in map(int, workers.split(",")):
            found = run(archive, Path(name) / f"with{count}", count)
            cost = 1000 * found.processor / found.frames
            one = one or cost
            print(
                f"| {count} | {found.frames} | {found.seconds:.1f} | {found.frames / found.seconds:.1f} | {cost:.1f} | "
                f"{one / cost:.2f} | {found.bytes / max(found.faces, 1):.0f} |", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    enclose("tools.archives.scaling")
    typer.run(main)
