"""`ofer evaluate`: a bundle on Open-545, on held-out renderings, or on a licensed set. Heavy imports wait."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

console = Console()
OPEN, HELD_OUT = "open545", "held_out"
LICENSED = ("now", "now-metrical", "co545", "aflw2000")
Progress = Callable[..., Any]


def register(app: typer.Typer, progress: Progress, require: Callable[[str, str, str], None]) -> None:
    """Add `evaluate`. progress wraps loops in a bar; require(module, what, how) exits with a line if one is missing."""

    @app.command()
    def evaluate(
        bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle; the shipped one by default.")] = None,
        which: Annotated[
            str, typer.Option("--set", help=f"{OPEN}, {HELD_OUT}, {', '.join(LICENSED)}.", metavar="SET")
        ] = OPEN,
        pictures: Annotated[
            int | None, typer.Option(min=20, help="Fewer pictures than the set has; figures are then not comparable.")
        ] = None,
        work: Annotated[Path, typer.Option(help="Where renderings and predictions are kept.")] = Path("out"),
        report: Annotated[
            Path | None, typer.Option(help=f"Folder for {OPEN}'s report: Markdown, plots and JSON, such as docs.")
        ] = None,
        data: Annotated[Path | None, typer.Option(help="Folder of a licensed set.")] = None,
        predictions: Annotated[
            Path | None, typer.Option(help="Predictions to measure on it; the bundle's own by default.")
        ] = None,
        json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    ) -> None:
        """Measure a bundle: by default on Open-545, 545 renderings with and without occluders. Needs `make train-env`.

        Keys of --json, on Open-545: identity_ratio, rank_gap_closed, cse_ratio_occluded, cse_ratio_visible,
        expression_ratio, spread_ratio, ode, coverage90, steps_error_loss, steps_spread_loss and more; the report says
        what each is.
        """
        if which not in (OPEN, HELD_OUT, *LICENSED):
            raise typer.BadParameter(f"{which!r} is none of {OPEN}, {HELD_OUT}, {', '.join(LICENSED)}",
                                     param_hint="--set")  # fmt: skip
        for module in ("scipy", *(("trimesh",) if which in LICENSED else ("numba",))):
            require(module, module, "run `make train-env`")
        if which == OPEN:
            figures = _open545(bundle, pictures, work, report, progress)
        elif which == HELD_OUT:
            figures = _held_out(bundle, pictures or 300, work, progress)
        else:
            figures = _licensed(bundle, which, data, predictions, work, progress)
        if json_file:
            json_file.write_text(json.dumps(_finite(figures), indent=2))


def _open545(bundle: Path | None, limit: int | None, work: Path, report: Path | None, progress: Progress) -> dict:
    from ofer_models.bundle.manifest import HEAD, Bundle, default_bundle
    from ofer_models.workshop.measure.open545 import pictures as open545
    from ofer_models.workshop.measure.open545 import protocol, regressor
    from ofer_models.workshop.measure.open545.report import GOALS, content, write_report

    loaded, threads = Bundle.load(bundle or default_bundle()), len(os.sched_getaffinity(0))
    folder, head = work / "open545", loaded.path / HEAD
    open545.require_head(head)
    open545.generate(head, folder, workers=threads, progress=progress)
    pictures = open545.load(folder)
    which = open545.check(open545.hashes(pictures, head))
    if limit and limit < len(pictures):
        pictures, which = pictures.first(limit), f"Only {limit} pictures of {which}"
    rival = regressor.get(loaded, work, workers=threads, progress=progress, log=_say)
    results = protocol.measure(loaded, pictures, rival, threads=threads, progress=progress)
    table = Table("figure", "value", "goal", title=f"bundle {loaded.name} {loaded.version}. {which}", box=None)
    for key, value in results.figures.items():
        _, goal, met = GOALS.get(key, ("", "", None))
        table.add_row(key, f"{value:.3g}", goal if met is None else f"{goal}: {'yes' if met(value) else 'no'}")
    console.print(table)
    command = " ".join(["ofer", *sys.argv[1:]])
    if report:
        for path in write_report(results, loaded, report, command, which):
            console.print(f"wrote {path}", highlight=False)
    return content(results, loaded, command, which)


def _held_out(bundle: Path | None, count: int, work: Path, progress: Progress) -> dict:
    from ofer_models.bundle.manifest import HEAD, Bundle, default_bundle
    from ofer_models.workshop.measure.open545.held_out import expression_errors, identity_errors
    from ofer_models.workshop.pictures import dataset

    loaded = Bundle.load(bundle or default_bundle())
    folder = work / "pictures" / "held_out"
    needed = -(-count // 900) * 1000  # a tenth of the pictures shows no face that MediaPipe finds
    dataset.generate(loaded.path / HEAD, folder, needed, seed=dataset.HELD_OUT_SEED, progress=progress)
    chosen = dataset.load(folder, count)
    figures = {f"identity_{name}": value for name, value in asdict(identity_errors(loaded, chosen)).items()}
    figures |= {f"expression_{name}": value for name, value in asdict(expression_errors(loaded, chosen)).items()}
    _show(f"bundle {loaded.name} {loaded.version} on {len(chosen)} held-out renderings (mm)", figures)
    return figures


def _licensed(
    bundle: Path | None, which: str, data: Path | None, predictions: Path | None, work: Path, progress: Progress
) -> dict:
    from ofer_models.bundle.manifest import Bundle, default_bundle
    from ofer_models.workshop.measure.licensed import predict
    from ofer_models.workshop.measure.licensed import runners as licensed

    if data is None:
        raise typer.BadParameter(f"--set {which} needs the folder of the set", param_hint="--data")
    if predictions is None:
        loaded = Bundle.load(bundle or default_bundle())
        predictions = work / "predictions" / f"{which.removesuffix('-metrical')}-{loaded.name}-{loaded.version}"
        if which == "aflw2000":
            predictions = predictions.with_suffix(predictions.suffix + ".npy")
            predict.predict_aflw2000(loaded, data, predictions, progress)
        elif which == "co545":
            predict.predict_co545(loaded, data, predictions, progress)
        else:
            predict.predict_now(loaded, data, predictions, progress)
    if which == "aflw2000":
        figures = licensed.evaluate_aflw2000(data, predictions)
    elif which == "co545":
        figures = licensed.evaluate_co545(data, predictions, progress=progress)
    else:
        figures = licensed.evaluate_now(data, predictions, metrical=which == "now-metrical", progress=progress)
    _show(f"{which}: {predictions}", figures)
    return figures


def _finite(figures: Any) -> Any:
    """JSON knows no NaN: what could not be measured is null."""
    if isinstance(figures, dict):
        return {key: _finite(value) for key, value in figures.items()}
    return None if isinstance(figures, float) and not math.isfinite(figures) else figures


def _show(title: str, figures: dict[str, Any]) -> None:
    table = Table(title=title, show_header=False)
    for name, value in figures.items():
        text = ", ".join(f"{key} {_text(part)}" for key, part in value.items()) if isinstance(value, dict) else None
        table.add_row(name.replace("_", " "), text or _text(value))
    console.print(table)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say(line: str) -> None:
    console.print(line, highlight=False)
