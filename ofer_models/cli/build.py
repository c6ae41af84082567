"""`ofer build`: a bundle's graphs compiled by TensorRT, or its encoders in 8 bits, and the files that this leaves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from ofer_models.cli.console import BundleOption, JsonFile, console, say, write_json


def build(
    bundle: BundleOption = None,
    backend: Annotated[
        str, typer.Option(help="tensorrt: the installed `tensorrt` or `tensorrt_rtx`; onnxruntime: for int8.")
    ] = "tensorrt",
    precision: Annotated[
        str,
        typer.Option(
            help="fp16 (products only; sensitive parts stay fp32) or fp32; int8 with --backend onnxruntime: encoders"
            " for the CPU, kept only where good and faster."
        ),
    ] = "fp16",
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            help="int8: pictures with 8 faces or more, of several people, as your camera shows them; repeatable."
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Faces in a batch, least..most.")] = "1..8",
    gpu: Annotated[
        str, typer.Option(help="current, or sm75, sm80, sm86, sm89, sm120, sm121; several with commas, in one engine.")
    ] = "current",
    stage: Annotated[list[str] | None, typer.Option(help="Only this stage; may be repeated.")] = None,
    all_stages: Annotated[bool, typer.Option("--all", help="Build all anew, also what is there and fits.")] = False,
    jobs: Annotated[
        int, typer.Option(min=1, help="Graphs built at the same time; always one where kernels are timed on a GPU.")
    ] = len(os.sched_getaffinity(0)),
    show: Annotated[bool, typer.Option("--list", help="List the engines that are there, build nothing.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove engines that no graph can use, or of another version.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Compile a bundle's stages with TensorRT, or quantize its encoders for the CPU. The node never does: it refuses a
    missing or stale engine.
    """
    from ofer_models.bundle.manifest import Bundle, default_bundle
    from ofer_models.bundle.tensors import StageError

    loaded = Bundle.load(bundle or default_bundle())
    int8 = (backend, precision) == ("onnxruntime", "int8")
    if precision == "int8" and backend == "tensorrt":
        raise StageError("--precision int8 needs --backend onnxruntime and --pictures FOLDER; tensorrt: fp16, fp32")
    if backend != "tensorrt" and not int8:
        raise StageError(f"backend {backend!r} needs no building, but for --backend onnxruntime --precision int8")
    if prune:
        _prune(loaded)
    if show:
        _list(loaded, json_file)
    if prune or show:
        return
    if int8:
        _quantize(loaded, pictures or [], stage or [], json_file)
    else:
        _compile(loaded, precision, batch, gpu, stage or [], all_stages, jobs, json_file)


def _compile(
    bundle: Any, precision: str, batch: str, gpu: str, stages: list[str], force: bool, jobs: int, json_file: Path | None
) -> None:
    from ofer_models.workshop.compile import build

    gpus = tuple(dict.fromkeys(part.strip() for part in gpu.split(",")))
    order = build.Order(bundle, precision, build.parse_faces(batch), gpus, tuple(stages), jobs, force)
    with _graph_bars() as progress:
        built = build.build(order, progress)
    table = Table("graph", "engine", "seconds", "MB", title=f"{bundle.name} {bundle.version}, {precision}, {gpu}")
    for one in built:
        seconds = f"{one.seconds:.1f}" if one.seconds else "was there"
        table.add_row(one.graph, one.path.name, seconds, f"{one.size / 1e6:.1f}")
    console.print(table)
    rows = [{"graph": one.graph, "engine": one.path.name, "seconds": one.seconds, "bytes": one.size} for one in built]
    write_json(json_file, {"bundle": str(bundle.path), "precision": precision, "engines": rows})


@contextmanager
def _graph_bars() -> Iterator[Callable[[str, str, float], None]]:
    """A bar for each graph: call what this yields with its name, what is being done, and the share 0..1 that is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[doing]}"))
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def progress(graph: str, doing: str, share: float) -> None:
            if graph not in tasks:
                tasks[graph] = bars.add_task(graph, total=1.0, doing=doing)
            bars.update(tasks[graph], completed=share, doing=doing[:40])

        yield progress


def _quantize(bundle: Any, pictures: list[str], stages: list[str], json_file: Path | None) -> None:
    from ofer_models.workshop.compile import int8

    with _graph_bars() as progress:
        built = int8.build(bundle, pictures, stages, progress)
    table = Table("graph", "in use", "lost", "cosine", "ms fp32", "ms int8", "MB", box=None)
    for one in built:
        verdict = one.verdict
        table.add_row(
            one.graph, "int8" if one.path else "fp32", f"{verdict.lost:.2%}", f"{verdict.cosine:.4f}",
            f"{verdict.ms:.1f}", f"{verdict.ms_int8:.1f}", f"{one.size / 1e6:.1f}",
        )  # fmt: skip
    console.print(table)
    for one in (one for one in built if not one.path):
        say(f"{one.graph} stays in fp32: {one.verdict.refused}")
    rows = [{"graph": one.graph, "engine": one.path and one.path.name, "refused": one.verdict.refused,
             "seconds": one.seconds, "bytes": one.size, **asdict(one.verdict)} for one in built]  # fmt: skip
    write_json(json_file, {"bundle": str(bundle.path), "precision": "int8", "engines": rows})


def _list(bundle: Any, json_file: Path | None) -> None:
    from ofer_models.runtime import engine_cache
    from ofer_models.workshop.compile import build

    here = _runtimes()
    graphs, rows = build.graphs_of(bundle), []
    for entry in engine_cache.entries(bundle.path):
        key = entry.key
        # Without a GPU only the files of an engine for one can be judged.
        runtime = here.get(engine_cache.ONNXRUNTIME if entry.path.suffix == engine_cache.INT8_SUFFIX else "GPU")
        problem = entry.refuse(graphs.get(key.graph, Path()) if key else Path(), runtime)
        rows.append({
            "engine": entry.path.name, "problem": problem, "bytes": entry.path.stat().st_size,
            "state": problem or ("fits" if runtime else "whole"),
            **({"graph": key.graph, "built_by": f"{key.flavour} {key.version}", "gpus": list(key.gpus),
                "precision": key.precision, "profile": dict(key.profile)} if key else {}),
        })  # fmt: skip
    name = Column("engine", no_wrap=True, overflow="fold")
    table = Table(name, "built by", "GPUs", "precision", "sizes", "MB", "state", box=None)
    for row in rows:
        sizes = ", ".join(f"{name} {low}..{high}" for name, (low, _, high) in row.get("profile", {}).items())
        state = f"[red]{escape(row['problem'])}[/red]" if row["problem"] else row["state"]
        table.add_row(
            row["engine"], row.get("built_by", ""), ", ".join(row.get("gpus", ())), row.get("precision", ""), sizes,
            f"{row['bytes'] / 1e6:.1f}", state,
        )  # fmt: skip
    if rows:
        console.print(table)
    else:
        say(f"{bundle.path} has no engines; `ofer build` makes them")
    write_json(json_file, rows)


def _prune(bundle: Any) -> None:
    from ofer_models.runtime import engine_cache
    from ofer_models.workshop.compile import build

    removed = engine_cache.prune(bundle.path, build.graphs_of(bundle), list(_runtimes().values()))
    for path in removed:
        say(f"removed {path}")
    say(f"{len(removed)} files removed")


def _runtimes() -> dict[str, Any]:
    """What engines must fit here: ONNX Runtime's, and TensorRT's under `GPU` where both are present."""
    from ofer_models.bundle.tensors import StageError
    from ofer_models.runtime import engine_cache, onnxruntime_backend
    from ofer_models.runtime.tensorrt.backend import here

    found = {engine_cache.ONNXRUNTIME: onnxruntime_backend.here()}
    try:
        return found | {"GPU": here()}
    except StageError:
        return found
