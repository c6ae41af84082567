"""`ofer reconstruct --ray` and `ofer meshes`: archives to a dataset on Ray, and its rows to meshes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from typer.core import TyperCommand

from ofer_models.cli.console import BundleOption, check_choice, console, require, say

if TYPE_CHECKING:
    from ofer_models.dataset.distribution import Progress as Distributed

_EXTRA = "pip install 'ofer_ros[scale]', or ray, pyarrow and fsspec"
_READER = "ofer_ros.camera.archived:archived_frames"  # by name: ofer_models imports nothing of ofer_ros
_ADDRESS = re.compile(r"local|auto|(ray://)?[^/\s]+:\d{1,5}")


class RayCommand(TyperCommand):
    """A command whose `--ray` may stand without a value: `local` then, where what follows is no address."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        given = []
        for place, argument in enumerate(args, start=1):
            given.append(argument)
            if argument == "--ray" and not _ADDRESS.fullmatch("".join(args[place : place + 1])):
                given.append("local")
        return super().parse_args(ctx, given)


def check_address(address: str | None) -> str | None:
    """Refuse what is no address of a cluster."""
    if address is not None and not _ADDRESS.fullmatch(address):
        raise typer.BadParameter(f"{address!r} is no address of a Ray cluster: give its host:port, or nothing")
    return address


def reconstruct_archive(
    arguments: list[str], out: Path, bundle: Path | None, address: str, workers: int, gpus: float, hypotheses: int,
    candidates: int, seed: int,
) -> int:  # fmt: skip
    """Add to the dataset `out` what is not yet in it; the exit code: 1 where something could not be read."""
    require(_EXTRA, "ray", "pyarrow", "fsspec")
    require("run `make demo`", "cv2", "mediapipe", "onnxruntime")
    from ofer_models.bundle.manifest import default_bundle
    from ofer_models.dataset.cluster import Cluster
    from ofer_models.dataset.parts import into_parts
    from ofer_models.dataset.sources import find_sources
    from ofer_models.dataset.store import DatasetStore
    from ofer_models.dataset.work import Job

    job = Job(str(Path(bundle or default_bundle()).absolute()), hypotheses, candidates, seed, _READER)
    about = job.about()
    with DatasetStore(out.absolute(), about) as store:
        with console.status("looking for sources"):
            sources = find_sources(arguments, outside=str(out.absolute()))
            left = store.pending(sources)
        say(f"{len(sources)} sources, {len(sources) - len(left)} of them done before")
        if left:
            with Cluster(address, workers, gpus) as ray, _bar() as tell:
                ray.run(list(into_parts(left)), store, job, tell)
        totals = store.totals()
    say(f"{out}: {totals['faces']} faces in {totals['frames']} frames of {totals['sources']} sources")
    if totals["failures"]:
        say(f"{totals['failures']} rows in {out / 'failures'} tell what could not be read", "failed", "red")
    return 1 if totals["failures"] else 0


@contextmanager
def _bar() -> Iterator[Callable[[Distributed], None]]:
    """A line: sources, frames a second, faces, failures, time left by the bytes that are done."""
    columns = (BarColumn(20), TextColumn("{task.fields[line]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        task, started = bars.add_task("", total=1.0, line=""), time.monotonic()

        def tell(now: Distributed) -> None:
            passed = time.monotonic() - started
            share = now.size / now.of_size if now.of_size else now.sources / max(now.of_sources, 1)
            left = _clock(passed / share - passed) if share > 0 else "?"
            line = (
                f"{now.sources}/{now.of_sources} files, {now.frames / max(passed, 1e-3):.1f} frames/s, "
                f"{now.faces} faces, {now.failures} failures, {left} left"
            )
            bars.update(task, completed=share, line=line)

        yield tell


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def meshes(
    dataset: Annotated[Path, typer.Argument(help="Made by `ofer reconstruct --ray`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the meshes.")],
    where: Annotated[
        str, typer.Option(help="Which rows, such as 'frame < 10 and track == \"t1\"'; all by default.")
    ] = "",
    hypothesis: Annotated[str, typer.Option(help="selected, all, identity, or the number of one.")] = "selected",
    mesh_format: Annotated[str, typer.Option("--format", help="ply, obj or glb.")] = "ply",
    bundle: BundleOption = None,
) -> None:
    """Meshes of chosen faces of a dataset."""
    check_choice("--format", mesh_format, ("ply", "obj", "glb"))
    from ofer_models.bundle.manifest import Bundle, default_bundle
    from ofer_models.dataset.store import read_about

    used = Bundle.load(bundle or default_bundle())
    read_about(dataset)
    require(_EXTRA, "pyarrow")
    from ofer_models.dataset.meshes import write_meshes

    written = write_meshes(dataset, out, used, where, hypothesis, mesh_format)  # type: ignore[arg-type]
    count = sum(1 for _ in written)
    say(f"{count} meshes in {out}")
    raise SystemExit(0 if count else 1)
