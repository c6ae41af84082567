"""`ofer evaluate`: a bundle on Open-545, on held-out renderings, or on a licensed set; the landmark network."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ofer_models.cli.console import (
    BundleOption,
    JsonFile,
    check_choice,
    console,
    progress,
    require,
    say,
    show_figures,
    write_json,
)

OPEN, PLAIN, HELD_OUT, EYES, METHODS = "open545", "open545-plain", "held_out", "eyes", "methods"
POINTS = "open545-points"  # figures of OPEN from points that are as wrong as one wants
LICENSED = ("now", "now-metrical", "co545", "aflw2000")


def evaluate(
    bundle: BundleOption = None,
    which: Annotated[
        str,
        typer.Option(
            "--set", help=f"{', '.join((OPEN, PLAIN, POINTS, HELD_OUT, EYES, METHODS, *LICENSED))}.", metavar="SET"
        ),
    ] = OPEN,
    pictures: Annotated[
        int | None, typer.Option(min=20, help="Fewer pictures than the set has; figures are then not comparable.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Where renderings and predictions are kept.")] = Path("out"),
    report: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder for the report of {OPEN}, {PLAIN}, {POINTS} or {EYES}: plots, JSON and Markdown."
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of a licensed set.")] = None,
    photographs: Annotated[
        list[Path] | None, typer.Option(help=f"For {EYES}: folders of annotated faces (docs/eyes.md).")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Predictions to measure on it; the bundle's own by default.")
    ] = None,
    real: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of photographs to measure on instead; points.json in it holds annotations."),
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(help=f"With --real, {OPEN} or {PLAIN}: another bundle, in the same run and on the same pictures."),
    ] = None,
    peer: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False,
            help="With --real: MediaPipe's face_landmarker.task, to compare its blendshapes.",
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure a bundle: by default on Open-545, 545 renderings with and without occluders. Needs `make train-env`.

    Open-545 shows people with skin, hair and shadows (the first run fetches 89 MB of textures and meshes with npm);
    open545-plain is the set of before 0.3, in flat paint; open545-points tells what more exact points would be worth,
    from points made of the truth. --beside measures another bundle on the same pictures.

    --real FOLDER measures on photographs, without 3D truth and without those packages: how much of each movement comes
    through, errors against annotated points, spread where a drawn occluder hides the face. Pictures named mask* show
    covered mouths; people/NAME/ in the folder holds pictures of one person.

    Keys of --json, on Open-545: identity_ratio, rank_gap_closed, cse_ratio_occluded, cse_ratio_visible,
    expression_ratio, spread_ratio, ode, coverage90, steps_error_loss, steps_spread_loss and more; the report says
    what each is.
    """
    check_choice("--set", which, (OPEN, PLAIN, POINTS, HELD_OUT, EYES, METHODS, *LICENSED))
    if peer and not real:
        raise typer.BadParameter("goes with --real", param_hint="--peer")
    if beside and not real and which not in (OPEN, PLAIN):
        raise typer.BadParameter(f"goes with --real, {OPEN} and {PLAIN}", param_hint="--beside")
    if which in LICENSED and data is None and not real:
        raise typer.BadParameter(f"--set {which} needs the folder of the set", param_hint="--data")
    from ofer_models.bundle.manifest import Bundle, default_bundle

    if real:
        return write_json(json_file, _real(bundle, beside, real, peer, report))
    require("run `make train-env`", "scipy", "trimesh" if which in LICENSED else "numba")
    if which == EYES:
        write_json(json_file, _eyes(work, photographs or [], report))
        return
    if predictions is None:
        loaded = Bundle.load(bundle or default_bundle())
    if which == POINTS:
        figures = _points(loaded, pictures, work, report)
    elif which in (OPEN, PLAIN):
        figures = _open545(loaded, beside and Bundle.load(beside), which, pictures, work, report)
    elif which == METHODS:
        figures = _methods(loaded, pictures, work)
    elif which == HELD_OUT:
        figures = _held_out(loaded, pictures or 300, work)
    else:
        if predictions is None:
            predictions = _predict(loaded, which, data, work)
        figures = _licensed(which, data, predictions)
    write_json(json_file, figures)


def _real(
    bundle: Path | None, beside: Path | None, folders: list[Path], peer: Path | None, report: Path | None
) -> dict[str, Any]:
    from ofer_models.bundle.manifest import Bundle, default_bundle
    from ofer_models.workshop.measure.real.protocol import measure
    from ofer_models.workshop.measure.real.readings import find_photographs
    from ofer_models.workshop.measure.real.report import write_report

    photographs, threads, results = find_photographs(folders), len(os.sched_getaffinity(0)), {}
    for path in (beside, bundle or default_bundle()):
        if path is not None:
            loaded = Bundle.load(path)
            name = f"{loaded.name} {loaded.version}"
            results[name if name not in results else f"{name} ({path})"] = measure(
                loaded, photographs, folders=folders, peer=peer, threads=threads, progress=progress
            )
    table = Table("figure", *results, title=f"{len(photographs)} photographs", box=None)
    for key in list(results.values())[-1].figures:
        table.add_row(key, *(f"{result.figures.get(key, float('nan')):.3g}" for result in results.values()))
    console.print(table)
    if report:
        for path in write_report(results, report, " ".join(["ofer", *sys.argv[1:]])):
            say(f"wrote {path}")
    return {name: result.figures for name, result in results.items()}


def _pictures545(bundle: Any, beside: Any, which: str, limit: int | None, work: Path) -> tuple[Any, str]:
    """A set of Open-545, drawn where it is not there, and the line on how its hash compares."""
    from ofer_models.bundle.manifest import HEAD
    from ofer_models.workshop.measure.open545 import pictures as open545

    head, folder = bundle.path / HEAD, work / which
    for one in (head, *([beside.path / HEAD] if beside else [])):
        open545.require_head(one, which)
    open545.generate(
        head, folder, assets=None if which == PLAIN else work, workers=len(os.sched_getaffinity(0)), progress=progress
    )
    pictures = open545.load(folder)
    compared = open545.check(open545.hashes(pictures, head), which)
    if limit and limit < len(pictures):
        pictures, compared = pictures.first(limit), f"Only {limit} pictures of {compared}"
    return pictures, compared


def _points(bundle: Any, limit: int | None, work: Path, report: Path | None) -> dict[str, Any]:
    from ofer_models.workshop.measure.open545 import regressor
    from ofer_models.workshop.measure.open545.points import measure_points
    from ofer_models.workshop.measure.open545.points_report import write_points_report

    threads = len(os.sched_getaffinity(0))
    pictures, compared = _pictures545(bundle, None, OPEN, limit, work)
    rival = regressor.get(bundle, work, workers=threads, progress=progress, log=say)
    levels = measure_points(bundle, pictures, rival, threads=threads, progress=progress)
    for level in levels:
        show_figures(f"{level.kind}: {level.error:.2f} % of the eyes' distance", level.figures)
    if report:
        for path in write_points_report(levels, bundle, report, " ".join(["ofer", *sys.argv[1:]]), compared):
            say(f"wrote {path}")
    return {"levels": [asdict(level) for level in levels]}


def _open545(
    bundle: Any, beside: Any, which: str, limit: int | None, work: Path, report: Path | None
) -> dict[str, Any]:
    from ofer_models.workshop.measure.open545 import protocol, regressor
    from ofer_models.workshop.measure.open545.report import GOALS, content, write_report

    threads = len(os.sched_getaffinity(0))
    pictures, compared = _pictures545(bundle, beside, which, limit, work)

    def measured(one: Any) -> protocol.Results:
        rival = regressor.get(one, work, workers=threads, progress=progress, log=say)
        return protocol.measure(one, pictures, rival, threads=threads, progress=progress)

    results = measured(bundle)
    other = (beside, measured(beside)) if beside else None
    names = [f"{one.name} {one.version}" for one in (bundle, *([beside] if beside else []))]
    table = Table("figure", *names, "goal", title=compared, box=None)
    for key, value in results.figures.items():
        _, goal, met = GOALS.get(key, ("", "", None))
        values = [value, *([other[1].figures[key]] if other else [])]
        met_by = "" if met is None else f": {'yes' if met(value) else 'no'}"
        table.add_row(key, *(f"{one:.3g}" for one in values), f"{goal}{met_by}")
    console.print(table)
    command = " ".join(["ofer", *sys.argv[1:]])
    if report:
        for path in write_report(results, bundle, which, report, command, compared, other):
            say(f"wrote {path}")
    return content(results, bundle, command, compared, other)


def _held_out(bundle: Any, count: int, work: Path) -> dict[str, Any]:
    from ofer_models.bundle.manifest import HEAD
    from ofer_models.workshop.measure.open545.held_out import expression_errors, identity_errors
    from ofer_models.workshop.pictures import dataset

    folder = work / "pictures" / "held_out"
    needed = -(-count // 900) * 1000  # a tenth of the pictures shows no face that MediaPipe finds
    dataset.generate(bundle.path / HEAD, folder, needed, seed=dataset.HELD_OUT_SEED, progress=progress)
    chosen = dataset.load(folder, count)
    figures = {f"identity_{name}": value for name, value in asdict(identity_errors(bundle, chosen)).items()}
    figures |= {f"expression_{name}": value for name, value in asdict(expression_errors(bundle, chosen)).items()}
    show_figures(f"bundle {bundle.name} {bundle.version} on {len(chosen)} held-out renderings (mm)", figures)
    return figures


def _methods(bundle: Any, count: int | None, work: Path) -> dict[str, Any]:
    """OFER, the regressor and MediaPipe's points alone, on clean and covered people and on Open-545."""
    from ofer_models.bundle.manifest import HEAD, REGRESSOR
    from ofer_models.workshop.errors import EvaluationError
    from ofer_models.workshop.measure.methods.heads import measure_heads
    from ofer_models.workshop.measure.methods.people import measure_people
    from ofer_models.workshop.measure.methods.table import HEADS, PEOPLE, tables
    from ofer_models.workshop.measure.open545 import pictures as open545
    from ofer_models.workshop.pictures.people import dataset

    if REGRESSOR not in bundle.stages:
        raise EvaluationError(f"bundle {bundle.name} has no regressor to compare with")
    head, folder, people = bundle.path / HEAD, work / OPEN, work / HELD_OUT
    open545.require_head(head, OPEN)
    count = min(count or PEOPLE, PEOPLE)
    if dataset.drawn(people) < count:
        dataset.generate(head, work, people, count, seed=dataset.HELD_OUT_SEED, progress=progress)
    open545.generate(head, folder, assets=work, progress=progress)
    figures = {
        "people": measure_people(bundle, people, count, progress),
        "open545": measure_heads(bundle, open545.load(folder).first(min(HEADS, count)), progress=progress),
    }
    for title, columns, rows in tables(figures):
        table = Table("method", *columns, title=title, box=None)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    return figures


def _eyes(work: Path, photographs: list[Path], report: Path | None) -> dict[str, Any]:
    """The landmark network that `ofer train eyes` left in a working folder."""
    from ofer_models.workshop.measure.eyes.figures import measure
    from ofer_models.workshop.measure.eyes.report import write_report

    results = measure(work, photographs)
    names = list(results.figures)
    table = Table("figure", *names, title=f"landmark network, {results.about}", box=None)
    for key in results.figures["fp32"]:
        values = (results.figures[name].get(key) for name in names)
        table.add_row(key, *("" if value is None else f"{value:.3g}" for value in values))
    console.print(table)
    if report:
        for path in write_report(results, work, report, " ".join(["ofer", *sys.argv[1:]])):
            say(f"wrote {path}")
    return results.figures


def _predict(bundle: Any, which: str, data: Path, work: Path) -> Path:
    """The bundle's own predictions for a licensed set, made where they are missing."""
    from ofer_models.workshop.measure.licensed import predict

    folder = work / "predictions" / f"{which.removesuffix('-metrical')}-{bundle.name}-{bundle.version}"
    if which == "aflw2000":
        folder = folder.with_suffix(folder.suffix + ".npy")
        predict.predict_aflw2000(bundle, data, folder, progress)
    elif which == "co545":
        predict.predict_co545(bundle, data, folder, progress)
    else:
        predict.predict_now(bundle, data, folder, progress)
    return folder


def _licensed(which: str, data: Path, predictions: Path) -> dict[str, Any]:
    from ofer_models.workshop.measure.licensed import runners

    if which == "aflw2000":
        figures = runners.evaluate_aflw2000(data, predictions)
    elif which == "co545":
        figures = runners.evaluate_co545(data, predictions, progress=progress)
    else:
        figures = runners.evaluate_now(data, predictions, metrical=which == "now-metrical", progress=progress)
    show_figures(f"{which}: {predictions}", figures)
    return figures
