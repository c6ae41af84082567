"""`ofer import`: a bar over the steps, then where everything came from and how exact the graphs are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    cfr: Annotated[
        Path | None, typer.Option(help="Instead: CFR-GAN's regressor (trained_weights_occ_3d.pth), with --bfm.")
    ] = None,
    bfm: Annotated[Path | None, typer.Option(help="BFM_model_80.mat or BFM_model_front.mat, for --cfr.")] = None,
    deca: Annotated[
        Path | None, typer.Option(help="Instead: DECA's deca_model.tar, whose regressor the bundle at --out then has.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the bundle to write: engines/official, or engines/cfr.")
    ] = None,
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
    """Make a bundle of the released OFER checkpoints and FLAME, or of CFR-GAN's regressor and the Basel Face Model, or
    give one DECA's regressor (docs/regressors.md); runs no code from them. Needs `make train-env`.
    """
    if deca:
        return _deca(deca, [idgen, idrank, expgen, flame, cfr, bfm], out or Path("engines/official"))
    if cfr or bfm:
        return _cfr(cfr, bfm, [idgen, idrank, expgen, flame], out or Path("engines/cfr"))
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
    with _steps(importer.STEPS) as step:
        report = importer.import_official(
            files, out or Path("engines/official"), qkv=qkv, released_quirks=released_quirks, strict=strict, step=step
        )
    _show(report)


def _cfr(cfr: Path | None, bfm: Path | None, others: list[Path | None], out: Path) -> None:
    if cfr is None or bfm is None or any(others):
        raise typer.BadParameter("that bundle is made of these two files alone", param_hint="--cfr, --bfm")
    require("run `make train-env`", "torch", "onnx", "onnxscript")
    from ofer_models.workshop.official import cfr_importer

    with _steps(cfr_importer.STEPS) as step:
        difference = cfr_importer.import_cfr(cfr, bfm, out, step=step)
    say(f"{out}: graph against network {difference:.1e} of the largest value")
    say(f"check it with `ofer doctor --bundle {out}`")


def _deca(deca: Path, others: list[Path | None], out: Path) -> None:
    if any(others):
        raise typer.BadParameter("it goes into a bundle that is there; the other files make one", param_hint="--deca")
    require("run `make train-env`", "torch", "onnx", "onnxscript")
    from ofer_models.workshop.official import deca_importer

    with _steps(deca_importer.STEPS) as step:
        difference = deca_importer.import_deca(deca, out, step=step)
    say(f"{out}: graph against network {difference:.1e} of the largest value")
    say(f"check it with `ofer doctor --bundle {out}`")


@contextmanager
def _steps(total: int) -> Iterator[Callable[[str], None]]:
    """A bar over `total` steps, and what to call with a line at the start of each."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=console) as bars:
        bar, done = bars.add_task("starting", total=total), count()
        yield lambda text: bars.update(bar, description=text, completed=next(done))
        bars.update(bar, description="done", completed=total)


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
