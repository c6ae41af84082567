"""`ofer pictures`: look at what the networks are trained on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ofer_models.cli.console import progress, require, say


def pictures(
    out: Annotated[Path, typer.Option(help="The contact sheet to write.")] = Path("out/pictures.png"),
    head: Annotated[Path, typer.Option(help="The head model to render.")] = Path("engines/open/head.npz"),
    count: Annotated[int, typer.Option(min=1, help="Pictures on the sheet.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the pictures; `ofer train` uses 1.")] = 1,
    wide: Annotated[bool, typer.Option("--wide", help="Also hats and yaw to 75 degrees.")] = False,
    people: Annotated[
        Path | None, typer.Option(help="Those of `ofer train eyes` instead; the folder to keep MakeHuman's assets in.")
    ] = None,
) -> None:
    """Training pictures with what MediaPipe sees in them, the truth, and the crop. Needs `make train-env`."""
    from ofer_models.head.model import HeadModel

    model = HeadModel.load(head)
    require("run `make train-env`", "numba")
    from ofer_models.perception.pictures import write_picture
    from ofer_models.workshop.pictures.pictures import PictureSource
    from ofer_models.workshop.pictures.sheets import people_tile, picture_tile, sheet

    out.parent.mkdir(parents=True, exist_ok=True)
    if people is not None:
        from ofer_models.workshop.pictures.people.assets import load_library
        from ofer_models.workshop.pictures.people.source import PeopleSource

        drawn = PeopleSource(model, load_library(people), seed)
        shown = [people_tile(drawn.picture(index)) for index in progress(range(count), "drawing people", count)]
        write_picture(out, sheet(shown))
        say(f"wrote {out}")
        return
    source = PictureSource(model, seed, wide=wide)
    source.sample(0)  # compiles the renderer
    tiles, found, spent = [], 0, 0.0
    for index in progress(range(count), "drawing pictures", count):
        started = time.perf_counter()
        sample = source.sample(index)
        spent += time.perf_counter() - started
        found += sample is not None
        tiles.append(picture_tile(source.picture(index)[0], sample))
    write_picture(out, sheet(tiles))
    say(f"wrote {out}; {found} of {count} faces found, {count / spent:.1f} pictures a second in one process")
