"""The `ofer` command: one module for each of its commands, which import what is heavy when they run."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ofer_models.cli.archive import RayCommand, meshes
from ofer_models.cli.bench import bench
from ofer_models.cli.build import build
from ofer_models.cli.build_head import build_head
from ofer_models.cli.console import Commands, say
from ofer_models.cli.doctor import doctor
from ofer_models.cli.evaluate import evaluate
from ofer_models.cli.import_official import import_official
from ofer_models.cli.pictures import pictures
from ofer_models.cli.reconstruct import reconstruct
from ofer_models.cli.ros import animate, demo, view
from ofer_models.cli.sampling import sampling
from ofer_models.cli.train import train

app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _show_version(asked: bool) -> None:
    if asked:
        from ofer_models.bundle import share

        say(f"ofer {share.version()}")
        raise typer.Exit()


@app.callback()
def ofer(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """OFER for ROS 2: several plausible 3D heads for every face in view.

    The nodes are started by `ros2 launch ofer_ros ofer.launch.py`.
    """


for command in (doctor, meshes, build, bench, sampling, evaluate, train, pictures):
    app.command()(command)
app.command(cls=RayCommand)(reconstruct)
app.command("import")(import_official)
app.command("build-head")(build_head)
for command in (demo, view, animate):  # whose options ofer_ros knows
    app.command(
        add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
    )(command)


def main() -> None:
    """Entry point."""
    # As in ofer_ros, before numpy is imported: its BLAS spins on every core for matrices that are too small to share.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    app(prog_name="ofer")


if __name__ == "__main__":
    main()
