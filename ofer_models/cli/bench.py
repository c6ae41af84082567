"""`ofer bench`: what the runs of `workshop.measure.speed.bench` measured, in a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ofer_models.cli.console import BundleOption, JsonFile, check_choice, console, require, say, write_json

PARTS = ("all", "frame_pipeline")


def bench(
    part: Annotated[
        str, typer.Argument(help="all, or frame_pipeline: frames a second end to end, without ROS, of 1 to 8 faces.")
    ] = "all",
    bundle: BundleOption = None,
    backend: Annotated[str, typer.Option(help="Runtime of the frames: auto, tensorrt, onnxruntime or torch.")] = "auto",
    repeats: Annotated[int, typer.Option(min=3, help="Calls of which the median is taken.")] = 15,
    reference: Annotated[
        bool, typer.Option(help="Also run the plain 1000-step samplers (two minutes; needs torch).")
    ] = True,
    official_size: Annotated[
        bool, typer.Option("--official-size", help="A bundle of official size with random weights, made in out/.")
    ] = False,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Every way onto an NVIDIA GPU instead: torch, TensorRT, ONNX Runtime's CUDA.")
    ] = False,
    beside: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Of frame_pipeline: another checkout, run by turns."),
    ] = None,
    regressor: Annotated[
        bool, typer.Option("--regressor", help="Of frame_pipeline: also the method regressor, by turns.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Time samplers, stages and frames, against a plain implementation of the paper; compares results first."""
    check_choice("part", part, PARTS)
    for name, given in (("--beside", beside), ("--regressor", regressor)):
        if given and part != "frame_pipeline":
            raise typer.BadParameter("it goes with frame_pipeline", param_hint=name)
    if part == "frame_pipeline":
        _frame_pipeline(beside, regressor, json_file)
        return
    from ofer_models.bundle.manifest import Bundle, default_bundle
    from ofer_models.workshop.measure.speed import bench

    loaded = _official_size(build_engines=not gpu) if official_size else Bundle.load(bundle or default_bundle())
    if gpu:
        _on_gpu(loaded, repeats, json_file)
        return
    with console.status("frames") as status:

        def tell(line: str) -> None:
            status.update(line)
            if line.startswith(" "):
                say(line)

        figures = bench.run(
            loaded, backend, repeats, reference, say=tell, keep=lambda so_far: write_json(json_file, so_far)
        )
    say(", ".join(f"{name} {value}" for name, value in figures["machine"].items()))
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
    console.print(table)
    write_json(json_file, figures)


def _frame_pipeline(beside: Path | None, regressor: bool, json_file: Path | None) -> None:
    from ofer_models.workshop.measure.speed import frame_pipeline

    require('pip install "ofer[demo]"', "skimage")
    with console.status("frames") as status:
        figures = frame_pipeline.run(beside, say=status.update, regressor=regressor)
    say(", ".join(f"{name} {value}" for name, value in figures["machine"].items()))
    sides = figures["frame_pipeline"]
    table = Table("faces", "", *sides, box=None)
    for count, row in sides["here"].items():
        for key in row:
            values = [side[count].get(key, "") for side in sides.values()]
            table.add_row(count, key, *(f"{value:.3g}" if value != "" else "" for value in values))
    console.print(table)
    write_json(json_file, figures)


def _on_gpu(bundle: Any, repeats: int, json_file: Path | None) -> None:
    from ofer_models.workshop.measure.speed import gpu

    with console.status("fp32 on the CPU") as status:
        figures = gpu.run(bundle, repeats, status.update, lambda so_far: write_json(json_file, so_far))
    say(", ".join(f"{name} {value}" for name, value in figures["machine"].items()))
    table = Table("", *figures["runtimes"], title=f"bundle {figures['bundle']}, ms", box=None)
    rows: dict[str, dict[str, str]] = {}
    for name, one in figures["runtimes"].items():
        if "not_run" in one:
            say(f"without {name}: {one['not_run']}")
            continue
        for title, value in _flat(one):
            rows.setdefault(title, {})[name] = f"{value:.3g}"
    for title, values in rows.items():
        table.add_row(title, *(values.get(name, "") for name in figures["runtimes"]))
    console.print(table)
    write_json(json_file, figures)


def _flat(figures: dict[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of nested figures with the names that lead to them."""
    for name, value in figures.items():
        title = f"{above}, {name}" if above else name
        if isinstance(value, dict):
            yield from _flat(value, title)
        elif not isinstance(value, str):
            yield title, value


def _official_size(build_engines: bool) -> Any:
    """The random bundle in out/official_size, made when it is not there, with engines where a GPU could run them."""
    from ofer_models.bundle.manifest import HEAD, Bundle, default_bundle
    from ofer_models.runtime.tensorrt import api, cuda_driver
    from ofer_models.workshop.compile import build
    from ofer_models.workshop.measure.speed.random_bundle import write_official_size

    folder = Path("out/official_size")
    if not (folder / "manifest.yaml").is_file():
        say("writing a bundle of official size with random weights (a minute)")
        write_official_size(folder, default_bundle() / HEAD)
    bundle = Bundle.load(folder)
    if build_engines and cuda_driver.gpu_present() and api.installed():
        say("building its engines")
        build.build(build.Order(bundle))
    return bundle
