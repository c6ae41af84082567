"""What every command shares: one console, bars, options, figures as a table and a file, and how a refusal is told."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from ofer_models.files.refusal import one_line

console = Console(highlight=False)

BundleOption = Annotated[Path | None, typer.Option(help="Folder of the bundle; the shipped one by default.")]


def _writable(file: Path | None) -> Path | None:
    """Refuse a file that cannot be written before the work of which it tells."""
    if file and (file.is_dir() or not os.access(file if file.exists() else file.absolute().parent, os.W_OK)):
        raise typer.BadParameter(f"{file} cannot be written: give a file in a folder that is there and is yours")
    return file


JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Also write the figures to this file.", callback=_writable)
]


def say(text: object, mark: str = "", style: str = "") -> None:
    """A line for people: whole however narrow the console is, brackets as they stand. mark: a coloured word before."""
    console.print(Text.assemble((f"{mark} ", style) if mark else "", str(text)), soft_wrap=True)


def refuse(reason: object) -> NoReturn:
    """End with one line that says why, and exit code 1."""
    say(reason, "ofer:", "red")
    raise SystemExit(1)


def require(how: str, *modules: str) -> None:
    """End with what to do (`how`) where one of the modules, which a command cannot do without, is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            refuse(f"this command needs {module}: {how}")


def check_choice(option: str, value: str, known: Iterable[str]) -> None:
    """Refuse a value that an option or argument does not know."""
    if value not in known:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(known)}", param_hint=option)


def progress(iterable: Iterable, text: str, total: int | None = None) -> Iterable:
    """Wrap a loop in a bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as bars:
        yield from bars.track(iterable, total=total, description=text)


def show_figures(title: str, figures: dict[str, Any]) -> None:
    """Figures by name, a row each; those that hold figures themselves in one row."""
    table = Table(title=title, show_header=False)
    for name, value in figures.items():
        parts = ", ".join(f"{key} {_text(part)}" for key, part in value.items()) if isinstance(value, dict) else None
        table.add_row(name.replace("_", " "), parts or _text(value))
    console.print(table)


def write_json(file: Path | None, content: Any) -> None:
    """Write to the file that --json names, if it does. JSON knows no NaN: what could not be measured is null."""
    if file:
        try:
            file.write_text(json.dumps(_finite(content), indent=2, default=str))
        except OSError as error:  # a full disk; that the folder is there was looked at before
            refuse(f"{file} cannot be written: {error.strerror}")


class Commands(TyperGroup):
    """The commands' group: a wrong use, and an error that a user can mend, become one line, from any of them."""

    def main(self, *arguments: Any, standalone_mode: bool = True, **options: Any) -> Any:
        if not standalone_mode:
            return super().main(*arguments, standalone_mode=False, **options)
        try:
            code = super().main(*arguments, standalone_mode=False, **options)
        except KeyboardInterrupt:
            code = 130
        except Exception as error:  # typer brings a click of its own or uses the installed one
            if not hasattr(error, "format_message"):
                raise
            code = _tell_wrong_use(error)
        raise SystemExit(code if isinstance(code, int) else 0)

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except (ValueError, OSError) as error:
            if not isinstance(error, _mendable()):
                raise
            refuse(one_line(error))
        except Exception as error:
            name = context.invoked_subcommand
            if name and getattr(error, "ctx", self) is None:  # click's parser does not say whose option it is about
                error.ctx = type(context)(self.get_command(context, name), parent=context, info_name=name)
            raise


def _tell_wrong_use(error: Any) -> int:
    """One line on what is wrong with a command line, and where its options are told; returns the exit code."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "ofer"
    message = " ".join(error.format_message().split())
    if type(error).__name__ == "NoArgsIsHelpError":
        console.print(context.get_help())
    else:
        say(f"{message.removesuffix('.')}; see `{command} --help`", f"{command}:", "red")
    return int(error.exit_code)


def _mendable() -> tuple[type[Exception], ...]:
    """Errors whose text says what to do. Imported when there is one: `--help` needs none of this."""
    from ofer_models.bundle.manifest import BundleError
    from ofer_models.bundle.tensors import StageError
    from ofer_models.dataset.store import DatasetError
    from ofer_models.files.refusal import FileRefused
    from ofer_models.head.model import HeadModelError
    from ofer_models.reconstruction.reconstruct import ReconstructError
    from ofer_models.workshop.errors import DataError, EvaluationError

    return (BundleError, StageError, HeadModelError, FileRefused, ReconstructError, DatasetError, DataError,
            EvaluationError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError,
            PermissionError)  # fmt: skip


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
