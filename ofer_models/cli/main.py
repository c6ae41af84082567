"""The `ofer` command: one module for each of its commands, which import what is heavy when they run."""

from __future__ import annotations

import os

import typer

from ofer_models.cli.bench import bench
from ofer_models.cli.build import build
from ofer_models.cli.build_head import build_head
from ofer_models.cli.console import Commands
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
    help="OFER for ROS 2: several plausible 3D heads for every face in view. "
    "The nodes are started by `ros2 launch ofer_ros ofer.launch.py`.",
)  # fmt: skip
for command in (doctor, reconstruct, build, bench, sampling, evaluate, train, pictures):
    app.command()(command)
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
    app()


if __name__ == "__main__":
    main()
