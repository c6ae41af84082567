"""The view: camera_node, ofer_node and view_node as three processes, and the address of the page.

    python -m ofer_ros.demo.view [scene | folder | video | number of a webcam | bag] [--port 8080]

Goes on until Ctrl-C. For a node that runs already, start view_node alone.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ofer_ros.demo.demo import DemoOptions, check
from ofer_ros.demo.processes import HELP, START_LIMIT, DemoError, Processes, own_domain, reported

_PICTURES = 15.0  # overlays a second, view_node's own rate: to draw more would only slow the node down
_LOGS = Path("out/view")
_SERVED = "view of /ofer_node at "


def run_view(source: str, bundle: str, port: int, logs: Path, method: str = DemoOptions.method) -> None:
    """Start everything, print the address and stay. Raises DemoError when a process ends or does not start."""
    check(DemoOptions(source=source, bundle=bundle, method=method))
    with own_domain() as domain, Processes(logs, domain) as processes:
        processes.start("view_node", "ofer_ros.nodes.view_node", {"bundle": bundle, "port": port})
        node = {"bundle": bundle, "method": method, "autostart": True, "overlay_rate": _PICTURES}
        processes.start("ofer_node", "ofer_ros.nodes.ofer_node", node)
        processes.start("camera_node", "ofer_ros.nodes.camera_node", {"source": source, "wait_for_subscribers": 1})
        print(f"open {_address(processes)} in a browser; Ctrl-C ends it (logs in {logs})", flush=True)
        while True:
            _check_alive(processes)
            time.sleep(0.25)


def _address(processes: Processes) -> str:
    """Address of the page, once view_node serves it."""
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        _check_alive(processes)
        for line in processes.problems("view_node", _SERVED):
            return line.partition(_SERVED)[2].strip()
        time.sleep(0.1)
    raise DemoError(f"no page after {START_LIMIT:.0f} s: {processes.last_words('view_node')}")


def _check_alive(processes: Processes) -> None:
    for name in ("view_node", "ofer_node", "camera_node"):
        if processes.status(name) is not None:
            raise DemoError(f"{name} ended: {processes.last_words(name)}")


app = typer.Typer(add_completion=False)


@app.command(help=__doc__.splitlines()[0], context_settings=HELP)
def view(
    source: Annotated[str, typer.Argument(help="As of `ofer demo`.")] = "scene",
    bundle: Annotated[str, typer.Option(help="Name in engines/ or folder.")] = "open",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: any that is free.")] = 8080,
    method: Annotated[str, typer.Option(help="As of `ofer demo`.")] = DemoOptions.method,
) -> None:
    with reported("view"):
        try:
            run_view(source, bundle, port, _LOGS.resolve(), method)
        except KeyboardInterrupt:  # how it is meant to end
            typer.echo("\nview: ended", err=True)


if __name__ == "__main__":
    app(prog_name="ofer view")
