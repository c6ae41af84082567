"""What `ofer import` shows: a bar over the steps, then where everything came from and how exact the graphs are."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import cast, get_args

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ofer_models.workshop.networks.replay import Scenario
from ofer_models.workshop.official.files import OfficialFiles, OfficialImportError
from ofer_models.workshop.official.importer import STEPS, ImportReport, import_official


def run(files: OfficialFiles, out: Path, qkv: str | None, released_quirks: bool, console: Console) -> None:
    """Import with progress on the console. Raises OfficialImportError with one line."""
    if qkv not in (None, *get_args(Scenario)):
        raise OfficialImportError(f"--qkv is {qkv!r}, should be {' or '.join(get_args(Scenario))}")
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar, done = progress.add_task("starting", total=STEPS), count()

        def step(text: str) -> None:
            progress.update(bar, description=text, completed=next(done))

        report = import_official(
            files, out, qkv=cast("Scenario | None", qkv), released_quirks=released_quirks, step=step
        )
        progress.update(bar, description="done", completed=STEPS)
    _show(report, console)


def _show(report: ImportReport, console: Console) -> None:
    table = Table(title=escape(str(report.path)), show_header=False)
    for name, maps in report.maps.items():
        table.add_row(f"{name}: query/key/value maps", f"{maps.source} ({escape(maps.evidence)})")
    for name, difference in report.differences.items():
        table.add_row(f"{name}: graph against network", f"{difference:.1e} of the largest value")
    console.print(table)
    for remark in report.remarks:
        console.print(f"[yellow]note:[/yellow] {escape(remark)}", highlight=False, soft_wrap=True)
    console.print(f"check it with `ofer doctor --bundle {escape(str(report.path))}`", highlight=False, soft_wrap=True)
