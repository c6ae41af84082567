"""`ofer train`: all of the bundle or a part of it, on renderings or photographs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ofer_models.cli.console import check_choice, progress, require, say

if TYPE_CHECKING:
    from ofer_models.workshop.train.cfr.stages import Sources

PARTS = ("all", "context", "idgen", "idrank", "expgen", "visibility", "eyes", "cfr", "regressor", "learner", "distil")
RANKS = ("posterior", "listnet", "listmle", "pairwise", "error")
OBJECTIVES = ("weighted", "mse", "l1")
LAYOUTS = ("ofer", "mica", "famos")
BACKBONES = ("resnet50", "small")


def train(
    part: Annotated[str, typer.Argument(help=f"{', '.join(PARTS)}; what a part needs is trained too.")] = "all",
    out: Annotated[Path, typer.Option(help="Folder of the bundle that `all` writes.")] = Path("engines/open"),
    head: Annotated[Path, typer.Option(help="The head model to train for.")] = Path("engines/open/head.npz"),
    work: Annotated[
        Path, typer.Option(help="Pictures, checkpoints, networks and curves; a stopped run goes on from here.")
    ] = Path("out"),
    pictures: Annotated[int, typer.Option(min=1000, help="Training pictures to render.")] = 90_000,
    wide: Annotated[
        bool, typer.Option("--wide", help="Also hats and yaw to 75 degrees; the shipped bundle saw neither.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Photographs to train on instead of renderings, with FLAME parameters; of `cfr` "
                                       "with landmarks (docs/regressors.md); of `learner` and `distil` any.")
    ] = None,
    layout: Annotated[str, typer.Option(help=f"Of --data: {', '.join(LAYOUTS)}.")] = "ofer",
    objective: Annotated[
        str, typer.Option(help="IdGen's and ExpGen's loss: weighted (the open bundle's), mse, or l1 (OFER's).")
    ] = "weighted",
    rank: Annotated[str, typer.Option(help=f"IdRank's method: {', '.join(RANKS)}; `listnet` is OFER's.")] = "posterior",
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Of `eyes` (10), `cfr` (50, 5), `regressor` (12; 30 with --uncovered) and "
                                 "`learner` (20): how many times each picture is seen, another one each time."),
    ] = None,
    photographs: Annotated[
        list[Path] | None, typer.Option(help="Of `eyes`: folders of annotated faces to watch the training on.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Of `cfr`: 1, or 2 with stage 1 as its teacher. Of `distil`: expgen or idgen.")
    ] = None,
    people: Annotated[
        Path | None, typer.Option(help="Of `cfr`: where `ofer train eyes` drew people, --work by default.")
    ] = None,
    bfm: Annotated[
        Path | None, typer.Option(help="Of `cfr`: the Basel Face Model, for CFR's own regressor on --data.")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Of `cfr`: the network's weights at the beginning.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0, help="Of `cfr`: learning rate (2e-6, 1e-6: fine-tuning).")
    ] = None,
    parsing: Annotated[
        Path | None, typer.Option(help="Of `cfr`, stage 1: a face parsing network (ONNX) that tells skin.")
    ] = None,
    recognition: Annotated[
        Path | None, typer.Option(help="Of `cfr`, stage 1: insightface's backbone.pth, for the term of identity.")
    ] = None,
    uncovered: Annotated[
        bool,
        typer.Option("--uncovered", help="Of `regressor`: all of it, from nothing, on uncovered faces alone: a teacher "
                                         "for `learner`."),
    ] = False,
    into: Annotated[
        Path | None, typer.Option(help="Of `eyes`, `regressor` and `learner`: the bundle that gets the result.")
    ] = None,
    teacher: Annotated[
        Path, typer.Option(help="Of `learner`: the bundle whose regressor is the teacher.")
    ] = Path("engines/open"),
    bundle: Annotated[
        Path | None, typer.Option(help="Of `distil`: the bundle whose stage gets the variant `distilled`.")
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="Of `learner`: resnet50, or small, upon the landmark network of `eyes`.")
    ] = "resnet50",
    seed: Annotated[int, typer.Option(min=0, help="Seed of pictures and networks.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that render.")] = 2,
    again: Annotated[
        bool, typer.Option("--again", help="Train the part anew; what was there is kept aside.")
    ] = False,
    smoke: Annotated[bool, typer.Option(help="Only see that every stage runs.")] = False,
) -> None:
    """Train encoders, IdGen, IdRank and ExpGen, then write the bundle. Needs `make train-env`.

    `eyes` trains the dense landmark network on pictures of people, which a bundle may have beside the rest
    (docs/eyes.md), `regressor` one answer a face upon it; `cfr` a regressor for hidden faces in two stages, `learner` a
    student that bears them (docs/regressors.md); `distil` a sampler that takes one step
    (ofer_models/workshop/train/README.md).

    The same command runs on the CPU, on a GPU, and under `accelerate launch -m ofer_models.cli train` on many.
    """
    check_choice("part", part, PARTS)
    check_choice("--objective", objective, OBJECTIVES)
    check_choice("--rank", rank, RANKS)
    check_choice("--layout", layout, LAYOUTS)
    check_choice("--backbone", backbone, BACKBONES)
    stages = {"cfr": ("1", "2"), "distil": ("expgen", "idgen")}.get(part, ())
    if stages:
        check_choice("--stage", stage or stages[0], stages)
    require("run `make train-env`", "torch", "accelerate")
    if part == "distil":
        from ofer_models.cli.train_distil import train_distil

        return train_distil(
            bundle, stage or stages[0], data, work, pictures, seed=seed, workers=workers, again=again,
            smoke=smoke,
        )  # fmt: skip
    if part == "regressor":
        from ofer_models.cli.train_regressors import train_open_regressor

        return train_open_regressor(
            head, work, pictures, epochs, into, clean=uncovered, seed=seed, workers=workers, again=again, smoke=smoke
        )
    if part == "learner":
        from ofer_models.cli.train_regressors import train_student

        return train_student(teacher, data, work, pictures, backbone, epochs or 20, into, seed=seed, smoke=smoke)
    from ofer_models.workshop.train.accelerator import Distributed

    if part == "eyes":
        from ofer_models.workshop.train.eyes import training as eyes

        plan = eyes.Plan.smoke() if smoke else eyes.Plan(pictures, epochs or eyes.Plan.epochs)
        accelerator = Distributed()
        network = eyes.train_eyes(
            head, work, plan, seed=seed, workers=workers, photographs=photographs or (), again=again,
            progress=progress, accelerator=accelerator, log=say,
        )  # fmt: skip
        if into and accelerator.main:
            from ofer_models.workshop.train.eyes.stage import put_into

            factor = put_into(into, network, eyes.draw_held_out(head, work, plan, workers, progress))
            say(f"written into {into} as the stage landmarks, its deviations times {factor:.2f}")
        say(f"measure it with `ofer evaluate --set {part} --work {work}`")
        return
    if part == "cfr":
        from ofer_models.workshop.train.cfr.stages import Sources

        sources = Sources(
            head, people or work, pictures, basel=bfm, start=start, data=data, parsing=parsing, recognition=recognition
        )
        return _cfr(int(stage or 1), sources, work, epochs, rate, seed, again, smoke)
    from ofer_models.head.model import HeadModel
    from ofer_models.workshop.train.open_bundle import OpenTraining, Plan
    from ofer_models.workshop.train.photographs import Photographs
    from ofer_models.workshop.train.sources import Rendered

    accelerator = Distributed()
    plan = Plan.smoke() if smoke else Plan.full(pictures)
    if data is None:
        source = Rendered(head, work / "pictures", plan.pictures, plan.held_out, seed, workers, wide)
    else:
        source = Photographs(HeadModel.load(head), data, layout, work / "photographs")
    training = OpenTraining(
        head, work, plan, source, seed=seed, objective=objective, rank=rank, accelerator=accelerator, log=say
    )
    training.run(progress, out, part, again)
    if part == "all" and accelerator.main:
        say(f"bundle written to {out}; measure it with `ofer evaluate --bundle {out}`")


def _cfr(
    stage: int, sources: Sources, work: Path, epochs: int | None, rate: float | None, seed: int, again: bool,
    smoke: bool,
) -> None:  # fmt: skip
    from dataclasses import replace

    from ofer_models.workshop.train.accelerator import Distributed
    from ofer_models.workshop.train.cfr.stages import train_cfr
    from ofer_models.workshop.train.cfr.training import Plan

    plan = Plan.of_stage(stage)
    plan = replace(plan, epochs=1 if smoke else epochs or plan.epochs, rate=plan.rate if rate is None else rate)
    accelerator = Distributed()
    result = train_cfr(stage, sources, work, plan, seed=seed, again=again, accelerator=accelerator, log=say)
    if accelerator.main:
        say(f"wrote {result}" + (f"; `ofer import --cfr {result} --bfm {sources.basel}`" if sources.basel else ""))
