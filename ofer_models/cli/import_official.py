"""`ofer import`: a bar over the steps, then where everything came from and how exact the graphs are."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ofer_models.cli.console import console, require, say

if TYPE_CHECKING:
    from ofer_models.workshop.official.importer import ImportReport


def import_official(
    idgen: Annotated[Path | None, typer.Option(help="model_idgen_flame20.tar of the OFER release; needed.")] = None,
    idrank: Annotated[Path | None, typer.Option(help="model_idrank.tar of the OFER release; needed.")] = None,
    expgen: Annotated[Path | None, typer.Option(help="model_expgen_flame20.tar of the OFER release; needed.")] = None,
    flame: Annotated[Path | None, typer.Option(help="generic_model.pkl of FLAME 2020; needed.")] = None,
    landmarks: Annotated[
        Path | None, typer.Option(help="landmark_embedding.npy (release: data/FLAME2023/); found beside the others.")
    ] = None,
    front_indices: Annotated[
        Path | None, typer.Option(help="frontindices.npy (release: pretrained/); found beside the others.")
    ] = None,
    mediapipe: Annotated[
        Path | None, typer.Option(help="mediapipe_landmark_embedding.npz of the FLAME site, if you have it.")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="FLAME_masks.pkl of the FLAME site, if you have it.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the bundle to write.")] = Path("engines/official"),
    qkv: Annotated[
        str | None, typer.Option(help="training or demo: query/key/value maps, where the files do not tell.")
    ] = None,
    released_quirks: Annotated[
        bool, typer.Option("--released-quirks", help="Repeat the release's output, its samplers and noise included.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse tensors that a network does not know (otherwise: skipped).")
    ] = False,
) -> None:
    """Make a bundle of the released OFER checkpoints and FLAME; runs no code from them. Needs `make train-env`."""
    given = {"--idgen": idgen, "--idrank": idrank, "--expgen": expgen, "--flame": flame}
    if missing := [option for option, path in given.items() if path is None]:
        raise typer.BadParameter("a bundle is made of all four of these files", param_hint=", ".join(missing))
    require("run `make train-env`", "torch", "onnx", "onnxscript")
    from ofer_models.workshop.official import importer
    from ofer_models.workshop.official.files import OfficialFiles, OfficialImportError

    if qkv not in (None, "training", "demo"):
        raise OfficialImportError(f"--qkv is {qkv!r}, should be training or demo")
    files = OfficialFiles(idgen, idrank, expgen, flame, front_indices, landmarks, mediapipe, masks)  # type: ignore
    files.present()  # before a bar is shown
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=console) as bars:
        bar, done = bars.add_task("starting", total=importer.STEPS), count()

        def step(text: str) -> None:
            bars.update(bar, description=text, completed=next(done))

        report = importer.import_official(
            files, out, qkv=qkv, released_quirks=released_quirks, strict=strict, step=step
        )
        bars.update(bar, description="done", completed=importer.STEPS)
    _show(report)


def _show(report: ImportReport) -> None:
    table = Table(title=escape(str(report.path)), show_header=False)
    for name, maps in report.maps.items():
        table.add_row(f"{name}: query/key/value maps", f"{maps.source} ({escape(maps.evidence)})")
    for name, difference in report.differences.items():
        table.add_row(f"{name}: graph against network", f"{difference:.1e} of the largest value")
    console.print(table)
    for remark in report.remarks:
        say(remark, "note:", "yellow")
    say(f"check it with `ofer doctor --bundle {report.path}`")
