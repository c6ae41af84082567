"""`ofer doctor`: one screen about this machine and its bundles, and an exit code that follows from trying one out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ofer_models.cli.console import JsonFile, console, require, say, write_json

if TYPE_CHECKING:
    from ofer_models.cli.examination import BundleReport, Examination

_MARKS = {"ok": "[green]ok[/green]", "note": "[yellow]-[/yellow]", "problem": "[red]no[/red]"}


def doctor(
    bundle: Annotated[Path | None, typer.Option(help="The bundle that must run; the shipped one by default.")] = None,
    json_file: JsonFile = None,
) -> None:
    """What works on this machine, what does not, and how to get it. Exit code 0 only if the bundle can run."""
    require("run `make demo`", "numpy", "yaml")  # what the doctor itself needs
    from ofer_models.cli.examination import examine

    examination = examine(bundle)
    show(examination)
    write_json(json_file, _plain(examination))
    raise SystemExit(0 if examination.runs else 1)


def show(examination: Examination) -> None:
    """Print the report."""
    table = _table("this machine")
    for finding in examination.machine:
        table.add_row(_MARKS[finding.state], finding.name, escape(finding.detail))
    console.print(table)
    table = _table("bundles")
    for report in examination.bundles:
        state = _MARKS["problem" if report.error else "ok"]
        table.add_row(state, escape(report.title), escape(report.error or _whole(report)))
        for licence, commercial, names in _licences(report):
            use = "commercial use" if commercial else "[yellow]no commercial use[/yellow]"
            table.add_row("", f"  {use}", escape(f"{licence}: {names}"))
    console.print(table)
    for remedy in examination.remedies:
        say(remedy, "to do", "yellow")
    say(examination.verdict, *(("yes:", "green") if examination.runs else ("no:", "red")))


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 1))


def _whole(report: BundleReport) -> str:
    engines = f"{report.engines} compiled engines" if report.engines else "no compiled engines"
    if report.stale_engines:
        engines += f", {len(report.stale_engines)} of them not of these graphs"
    return f"{report.path}: {len(report.files)} files, hashes right, {engines}"


def _licences(report: BundleReport) -> Iterable[tuple[str, bool, str]]:
    """Files by licence: licence, commercial use, names."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for name, file in report.files.items():
        groups.setdefault((file["licence"], file["commercial_use"]), []).append(name)
    return [(licence, commercial, ", ".join(names)) for (licence, commercial), names in groups.items()]


def _plain(examination: Examination) -> dict[str, Any]:
    content = asdict(examination)
    for entry, report in zip(content["bundles"], examination.bundles, strict=True):
        entry["commercial_use"] = report.commercial
    return content
