"""`make view`: camera_node, ofer_node and view_node as three processes, and the address of the page.

    python -m ofer_ros.demo.view [scene | folder | video | number of a webcam | bag] [--port 8080]

Goes on until Ctrl-C. For a node that runs already, start view_node alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from ofer_ros.demo.demo import DemoError, DemoOptions, check, last_words
from ofer_ros.demo.processes import Processes

_START_LIMIT = 90.0  # seconds until the page is served: an interpreter and a head model on a slow machine
_PICTURES = 15.0  # overlays a second, view_node's own rate: to draw more would only slow the node down
_LOGS = Path("out/view")
_SERVED = "view of /ofer_node at "


def run_view(source: str, bundle: str, port: int, logs: Path) -> None:
    """Start everything, print the address and stay. Raises DemoError when a process ends or does not start."""
    check(DemoOptions(source=source, bundle=bundle))
    # A domain of its own keeps it apart from demos and other views of this machine.
    environment = {"ROS_DOMAIN_ID": str(1 + os.getpid() % 100), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    with Processes(logs, environment) as processes:
        processes.start("view_node", "ofer_ros.nodes.view_node", {"bundle": bundle, "port": port})
        node = {"bundle": bundle, "autostart": True, "overlay_rate": _PICTURES}
        processes.start("ofer_node", "ofer_ros.nodes.ofer_node", node)
        processes.start("camera_node", "ofer_ros.nodes.camera_node", {"source": source, "wait_for_subscribers": 1})
        print(f"open {_address(processes)} in a browser; Ctrl-C ends it (logs in {logs})", flush=True)
        while True:
            _check_alive(processes)
            time.sleep(0.25)


def _address(processes: Processes) -> str:
    """Address of the page, once view_node serves it."""
    end = time.monotonic() + _START_LIMIT
    while time.monotonic() < end:
        _check_alive(processes)
        for line in processes.problems("view_node", _SERVED):
            return line.partition(_SERVED)[2].strip()
        time.sleep(0.1)
    raise DemoError(f"no page after {_START_LIMIT:.0f} s: {last_words(processes, 'view_node')}")


def _check_alive(processes: Processes) -> None:
    for name in ("view_node", "ofer_node", "camera_node"):
        if processes.status(name) is not None:
            raise DemoError(f"{name} ended: {last_words(processes, name)}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="view", description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="scene", help="as of `ofer demo` (default: %(default)s)")
    parser.add_argument("--bundle", default="open", help="name in engines/ or folder (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="of the page; 0: any (default: %(default)s)")
    arguments = parser.parse_args(argv)
    # Ended from outside, the children must go as well: leave through the `with` block.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run_view(arguments.source, arguments.bundle, arguments.port, _LOGS.resolve())
    except DemoError as error:
        print(f"view: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nview: ended", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
