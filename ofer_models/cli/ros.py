"""`ofer demo`, `view` and `animate`: commands of ofer_ros, looked up by name. The first two start ROS 2 nodes."""

from __future__ import annotations

import importlib

import typer

from ofer_models.cli.console import require

_ROS = "source a ROS 2 installation, or use `make demo`, which brings its own"


def demo(context: typer.Context) -> None:
    """Camera, face node and recorder as three ROS 2 processes; pictures and figures at the end."""
    require(_ROS, "rclpy")
    _run("demo", context.args)


def view(context: typer.Context) -> None:
    """Camera, face node and a local page that shows what they find, until Ctrl-C."""
    require(_ROS, "rclpy")
    _run("view", context.args)


def animate(context: typer.Context) -> None:
    """One face of a video, a folder of pictures, a bag or a dataset as an animated head: a GLB with morph targets."""
    _run("animate", context.args)


def _run(name: str, arguments: list[str]) -> None:
    command = typer.main.get_command(importlib.import_module(f"ofer_ros.demo.{name}").app)
    raise SystemExit(command.main(arguments, prog_name=f"ofer {name}", standalone_mode=False) or 0)
