"""`ofer sampling`: what fewer sampling steps cost, as docs/sampling.md shows it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ofer_models.cli.console import BundleOption, check_choice, progress, require, say


def sampling(
    bundle: BundleOption = None,
    out: Annotated[Path, typer.Option(help="Folder for sampling.md, its plot and the figures as JSON.")] = Path("docs"),
    stage: Annotated[list[str] | None, typer.Option(help="expgen or idgen; both by default.")] = None,
    pictures: Annotated[int, typer.Option(min=4, help="Held-out renderings to measure ExpGen on.")] = 100,
    threads: Annotated[int, typer.Option(min=1, help="Threads for drawing; times are always of one.")] = len(
        os.sched_getaffinity(0)
    ),
    work: Annotated[Path, typer.Option(help="Where the renderings are kept (those of `ofer evaluate`).")] = Path("out"),
) -> None:
    """Error, spread and time against the number of steps, for each solver and spacing, and which is the cheapest."""
    stages = stage or ["expgen", "idgen"]
    for name in stages:
        check_choice("--stage", name, ("expgen", "idgen"))
    from ofer_models.bundle.manifest import HEAD, Bundle, default_bundle

    loaded = Bundle.load(bundle or default_bundle())
    require("run `make train-env`", "numba", "matplotlib")
    from ofer_models.workshop.measure.speed import step_curve
    from ofer_models.workshop.measure.speed.sampling_report import write_report
    from ofer_models.workshop.pictures import dataset

    folder = work / "pictures" / "held_out"
    if not list(folder.glob("[0-9]*.npz")):
        dataset.generate(loaded.path / HEAD, folder, 1000, seed=dataset.HELD_OUT_SEED, progress=progress)
    # A head shape has more coefficients and a larger network: fewer pictures in about the same time.
    sizes = {"expgen": (pictures, 15), "idgen": (max(4, pictures // 3), 30)}
    curves = [
        step_curve.measure(loaded, name, dataset.load(folder, sizes[name][0]), sizes[name][1], threads=threads,
                           progress=progress)
        for name in stages
    ]  # fmt: skip
    for one in curves:
        for yardstick in (one.reference, one.limit):
            for solver in (None, "ddim"):
                found = one.cheapest(solver, yardstick)
                text = f"{found.solver}, {found.spacing}, {found.steps} steps" if found else "none of those tried"
                what = f"{one.stage}, quality of {yardstick.steps}-step {yardstick.solver}"
                say(f"{what}, cheapest {solver or 'of all'}: {text}")
    for path in write_report(curves, loaded, out, "ofer sampling"):
        say(path)
