"""`ofer build`, `ofer bench` and `ofer sampling`. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

console = Console()
BundleOption = Annotated[Path | None, typer.Option(help="Folder of the bundle; the shipped one by default.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("build")(build_command)
    app.command("bench")(bench_command)
    app.command("sampling")(sampling_command)


def build_command(
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
    jobs: Annotated[int, typer.Option(min=1, help="Graphs built at the same time.")] = len(os.sched_getaffinity(0)),
    show: Annotated[bool, typer.Option("--list", help="List the engines that are there, build nothing.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove engines that no graph can use, or of another version.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Compile a bundle's stages with TensorRT, or quantise its encoders for the CPU. The node never does: it refuses a
    missing or stale engine.
    """
    from ofer_models.bundle.manifest import Bundle, BundleError, default_bundle
    from ofer_models.bundle.tensors import StageError

    loaded = Bundle.load(bundle or default_bundle())
    try:
        int8 = (backend, precision) == ("onnxruntime", "int8")
        if backend != "tensorrt" and not int8:
            raise StageError(f"backend {backend!r} needs no building, but for --backend onnxruntime --precision int8")
        if prune:
            _prune(loaded)
        elif show:
            _list(loaded, json_file)
        elif int8:
            _quantise(loaded, pictures or [], stage or [], json_file)
        else:
            _build(loaded, precision, batch, gpu, stage or [], all_stages, jobs, json_file)
    except StageError as error:
        raise BundleError(str(error)) from None


def _build(
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
    if json_file:
        rows = [{"graph": one.graph, "engine": one.path.name, "seconds": one.seconds, "bytes": one.size}
                for one in built]  # fmt: skip
        content = {"bundle": str(bundle.path), "precision": precision, "engines": rows}
        json_file.write_text(json.dumps(content, indent=2))


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


def _quantise(bundle: Any, pictures: list[str], stages: list[str], json_file: Path | None) -> None:
    from ofer_models.workshop.compile import int8 as build_int8

    with _graph_bars() as progress:
        built = build_int8.build(bundle, pictures, stages, progress)
    table = Table("graph", "in use", "lost", "cosine", "ms fp32", "ms int8", "MB", box=None)
    for one in built:
        verdict = one.verdict
        table.add_row(
            one.graph, "int8" if one.path else "fp32", f"{verdict.lost:.2%}", f"{verdict.cosine:.4f}",
            f"{verdict.ms:.1f}", f"{verdict.ms_int8:.1f}", f"{one.size / 1e6:.1f}",
        )  # fmt: skip
    console.print(table)
    for one in (one for one in built if not one.path):
        console.print(f"{one.graph} stays in fp32: {one.verdict.refused}", highlight=False, soft_wrap=True)
    if json_file:
        rows = [{"graph": one.graph, "engine": one.path and one.path.name, "refused": one.verdict.refused,
                 "seconds": one.seconds, "bytes": one.size, **asdict(one.verdict)} for one in built]  # fmt: skip
        json_file.write_text(json.dumps({"bundle": str(bundle.path), "precision": "int8", "engines": rows}, indent=2))


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
    console.print(table if rows else f"{bundle.path} has no engines; `ofer build` makes them")
    if json_file:
        json_file.write_text(json.dumps(rows, indent=2))


def _prune(bundle: Any) -> None:
    from ofer_models.runtime import engine_cache
    from ofer_models.workshop.compile import build

    removed = engine_cache.prune(bundle.path, build.graphs_of(bundle), list(_runtimes().values()))
    for path in removed:
        console.print(f"removed {path}", highlight=False, soft_wrap=True)
    console.print(f"{len(removed)} files removed")


def _runtimes() -> dict[str, Any]:
    """What engines must fit here: ONNX Runtime's, and TensorRT's under `GPU` where both are present."""
    from ofer_models.bundle.tensors import StageError
    from ofer_models.runtime import engine_cache, onnxruntime_backend
    from ofer_models.workshop.compile import build

    found = {engine_cache.ONNXRUNTIME: onnxruntime_backend.here()}
    try:
        return found | {"GPU": build.here()}
    except StageError:
        return found


def bench_command(
    bundle: BundleOption = None,
    backend: Annotated[str, typer.Option(help="Runtime of the frames: auto, tensorrt, onnxruntime or torch.")] = "auto",
    repeats: Annotated[int, typer.Option(min=3, help="Calls of which the median is taken.")] = 15,
    reference: Annotated[
        bool, typer.Option(help="Also run the plain 1000-step samplers (two minutes; needs torch).")
    ] = True,
    official_size: Annotated[
        bool, typer.Option("--official-size", help="A bundle of official size with random weights, made in out/.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Time samplers, stages and frames, against a plain implementation of the paper; compares results first."""
    from ofer_models.bundle.manifest import Bundle, BundleError, default_bundle
    from ofer_models.bundle.tensors import StageError
    from ofer_models.workshop.measure.speed import bench

    try:
        loaded = _official_size() if official_size else Bundle.load(bundle or default_bundle())
        with console.status("frames") as status:
            figures = bench.run(
                loaded, backend, repeats, reference, say=lambda line: _say(status, line),
                keep=lambda so_far: json_file.write_text(json.dumps(so_far, indent=2)) if json_file else None,
            )  # fmt: skip
    except StageError as error:
        raise BundleError(str(error)) from None
    console.print(", ".join(f"{name} {value}" for name, value in figures["machine"].items()), highlight=False)
    table = Table("", "ms", title=f"bundle {figures['bundle']}, frames on {figures['backend']}", box=None)
    for faces, value in figures["frame_ms"].items():
        by_cpu = figures["frame_cpu_ms"][faces]
        what = f"frame after detection, {faces} face{'s' * (faces != '1')} (processor time)"
        table.add_row(what, f"{value:.2f} ({by_cpu:.2f})")
    for name, value in figures["frame_stages_ms"].items():
        table.add_row(f"  of one face: {name}", f"{value:.2f}")
    for name, backends in figures["stages"].items():
        for used, threads in backends.items():
            for count, value in threads.items():
                table.add_row(f"{name} on {used}, threads {count}", f"{value:.2f}")
    for used, batches in figures["networks_ms_per_face"].items():
        for faces, value in batches.items():
            table.add_row(f"networks of a frame on {used}, a face of {faces}", f"{value:.2f}")
    for used, stages in figures["differences"].items():
        worst = max(value for name, value in stages.items() if name != "vertices_mm")
        what = f"results of {used}, largest difference (of the largest value; meshes in mm)"
        table.add_row(what, f"{worst:.1g} ({stages['vertices_mm']:.2g})")
    for name in (name for name in bench.OFFICIAL if f"{name}_ms" in figures):
        what = f"{name}, official size, {figures[f'{name}_samples']} samples"
        table.add_row(f"{what}, {figures[f'{name}_steps']} steps", f"{figures[f'{name}_ms']:.2f}")
        table.add_row("  1000 plain steps", f"{figures[f'{name}_reference_ms']:.0f}")
        by_cpu = figures[f"{name}_speedup_cpu"]
        table.add_row("  times faster (by processor time)", f"{figures[f'{name}_speedup']:.0f} ({by_cpu:.0f})")
    for name, value in figures["memory_mb"].items():
        table.add_row(f"memory, {name} (MB)", f"{value:.0f}")
    console.print(table, highlight=False)
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2))


def _official_size() -> Any:
    """The random bundle in out/official_size, made when it is not there, with engines where a GPU could run them."""
    from ofer_models.bundle.manifest import HEAD, Bundle, default_bundle
    from ofer_models.runtime.tensorrt import api as tensorrt_api
    from ofer_models.runtime.tensorrt import cuda_driver
    from ofer_models.workshop.compile import build
    from ofer_models.workshop.measure.speed.random_bundle import write_official_size

    folder = Path("out/official_size")
    if not (folder / "manifest.yaml").is_file():
        console.print("writing a bundle of official size with random weights (a minute)")
        write_official_size(folder, default_bundle() / HEAD)
    bundle = Bundle.load(folder)
    if cuda_driver.gpu_present() and tensorrt_api.installed():
        console.print("building its engines")
        build.build(build.Order(bundle, jobs=len(os.sched_getaffinity(0))))
    return bundle


def sampling_command(
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
    from ofer_models.bundle.manifest import HEAD, Bundle, BundleError, default_bundle
    from ofer_models.workshop.measure.speed import step_curve as curve
    from ofer_models.workshop.measure.speed.sampling_report import write_report
    from ofer_models.workshop.pictures import dataset

    loaded = Bundle.load(bundle or default_bundle())
    stages = stage or ["expgen", "idgen"]
    if set(stages) - {"expgen", "idgen"}:
        raise BundleError(f"--stage takes expgen or idgen, not {', '.join(stages)}")

    def progress(iterable: Any, text: str, total: int) -> Any:
        with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as bars:
            yield from bars.track(iterable, total=total, description=text)

    folder = work / "pictures" / "held_out"
    if not list(folder.glob("[0-9]*.npz")):
        dataset.generate(loaded.path / HEAD, folder, 1000, seed=dataset.HELD_OUT_SEED, progress=progress)
    # A head shape has more coefficients and a larger network: fewer pictures in about the same time.
    sizes = {"expgen": (pictures, 15), "idgen": (max(4, pictures // 3), 30)}
    curves = [
        curve.measure(loaded, name, dataset.load(folder, sizes[name][0]), sizes[name][1], threads=threads,
                      progress=progress)
        for name in stages
    ]  # fmt: skip
    for one in curves:
        for yardstick in (one.reference, one.limit):
            for solver in (None, "ddim"):
                found = one.cheapest(solver, yardstick)
                text = f"{found.solver}, {found.spacing}, {found.steps} steps" if found else "none of those tried"
                what = f"{one.stage}, quality of {yardstick.steps}-step {yardstick.solver}"
                console.print(f"{what}, cheapest {solver or 'of all'}: {text}", highlight=False)
    for path in write_report(curves, loaded, out, "ofer sampling"):
        console.print(str(path), highlight=False)


def _say(status: Any, line: str) -> None:
    status.update(line)
    if line.startswith(" "):
        console.print(line, highlight=False)
