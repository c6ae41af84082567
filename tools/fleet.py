"""python -m tools.fleet: cameras on one fleet_node, and the same on an ofer_node each, in one run: rate, fairness,
latency, processor time and memory, and the fleet's shares of what the separate nodes took."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import rclpy
import typer
from rclpy.node import Node
from sensor_msgs.msg import Image

from ofer_msgs.msg import FaceArray
from ofer_ros.base.domains import lent_domain
from ofer_ros.base.qos import FACES
from ofer_ros.camera.scene import Scene

WIDTH, HEIGHT = 320, 240
_START = 120.0  # s until every camera must have had its first answer, and as long again until it has a head
_SETTLE = 5.0  # s after that before anything is counted
_END = 60.0  # s for a process to end


@dataclass(frozen=True)
class Figures:
    """rate: answered frames a second and camera; fairness: least to most served; latencies from stamp to FaceArray
    (median and 95 %) and processor time a frame in ms; memory: proportional set sizes in MB."""

    rate: float
    fairness: float
    latency: float
    latency_95: float
    processor: float
    memory: float


class Cameras:
    """Sends the built-in scene, a face in each picture, as several cameras would, and counts the answers."""

    def __init__(self, names: list[str], rate: float) -> None:
        scene = Scene()
        self._frames = [cv2.resize(scene(index).rgb, (WIDTH, HEIGHT)).tobytes() for index in range(0, 150, 3)]
        self._node = Node("fleet_cameras")
        self._publishers = [self._node.create_publisher(Image, f"/{name}/image_raw", 5) for name in names]
        self._period, self._sent = 1.0 / rate, 0
        self.answers: Counter[str] = Counter()
        self.known: set[str] = set()  # cameras whose face has had a head drawn: costs that come once
        self.latencies: list[float] = []
        for name in names:
            self._node.create_subscription(
                FaceArray, f"/{name}/ofer_node/faces", lambda message, name=name: self._answered(name, message), FACES
            )

    def _answered(self, name: str, message: FaceArray) -> None:
        stamp = message.header.stamp
        self.answers[name] += 1
        if any(face.identity_revision and face.identity_blend >= 1 for face in message.faces):
            self.known.add(name)
        self.latencies.append(self._node.get_clock().now().nanoseconds * 1e-9 - stamp.sec - stamp.nanosec * 1e-9)

    def send(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Frames at the rate for so long, or until something is so."""
        due = time.monotonic()
        end = due + seconds
        while time.monotonic() < end and not until():
            for number, publisher in enumerate(self._publishers):
                image = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
                image.header.stamp = self._node.get_clock().now().to_msg()
                image.data = self._frames[(self._sent + 7 * number) % len(self._frames)]
                publisher.publish(image)
            self._sent += 1
            due = max(due + self._period, time.monotonic())
            while (left := due - time.monotonic()) > 0:
                rclpy.spin_once(self._node, timeout_sec=left)

    def close(self) -> None:
        self._node.destroy_node()


def measure(commands: list[list[str]], names: list[str], rate: float, seconds: float, log: Path) -> Figures:
    """Start the nodes, send them frames, and end them. Raises RuntimeError where a camera has no face."""
    cameras = Cameras(names, rate)
    with ExitStack() as stack:
        stack.callback(cameras.close)
        output = stack.enter_context(log.open("w"))
        nodes = []
        for command in commands:
            nodes.append(subprocess.Popen([sys.executable, "-m", *command], stdout=output, stderr=output))
            stack.callback(_end, nodes[-1])
        cameras.send(_START, until=lambda: len(cameras.answers) == len(names))
        cameras.send(_START, until=lambda: len(cameras.known) == len(names))
        if len(cameras.known) < len(names):
            raise RuntimeError(f"only {len(cameras.known)} of {len(names)} cameras have a face's head: see {log}")
        cameras.send(_SETTLE)
        cameras.answers.clear()
        cameras.latencies.clear()
        used, began = _processor_seconds(nodes), time.monotonic()
        cameras.send(seconds)
        used, took = _processor_seconds(nodes) - used, time.monotonic() - began
        memory = sum(_shared_fairly(node.pid) for node in nodes)
    counts = [cameras.answers[name] for name in names]
    median, late = 1000 * np.percentile(cameras.latencies, [50, 95])
    frames = sum(counts)
    return Figures(
        frames / len(names) / took, min(counts) / max(counts), median, late, 1000 * used / frames, memory
    )


def _processor_seconds(nodes: list[subprocess.Popen]) -> float:
    """User's and system's, as /proc/PID/stat counts them."""
    counts = [Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()[11:13] for node in nodes]
    return sum(int(count) for both in counts for count in both) / os.sysconf("SC_CLK_TCK")


def _shared_fairly(process: int) -> float:
    """Proportional set size in MB: what processes share counts in parts."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1.024e-3


def _end(node: subprocess.Popen) -> None:
    node.terminate()
    try:
        node.wait(_END)
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()


def main(
    cameras: Annotated[int, typer.Option(min=1, help="how many")] = 8,
    rate: Annotated[float, typer.Option(min=0.1, help="of each camera, Hz")] = 10.0,
    seconds: Annotated[float, typer.Option(min=1, help="that are counted")] = 20.0,
    out: Annotated[Path, typer.Option(help="folder of the nodes' logs")] = Path("out/fleet"),
) -> None:
    """A fleet of cameras beside as many separate nodes."""
    out.mkdir(parents=True, exist_ok=True)
    names = [f"camera{number}" for number in range(cameras)]
    ways = {
        "fleet": [["ofer_ros.nodes.fleet_node", "--ros-args", "-p", f"cameras:={','.join(names)}"]],
        "nodes": [
            ["ofer_ros.nodes.ofer_node", "--ros-args", "-r", f"__ns:=/{name}", "-p", "autostart:=true"]
            for name in names
        ],
    }  # fmt: skip
    figures: dict[str, Figures] = {}
    for way, commands in ways.items():
        with lent_domain() as domain:
            os.environ |= {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
            rclpy.init()
            try:
                found = figures[way] = measure(commands, names, rate, seconds, out / f"{way}.log")
            finally:
                rclpy.try_shutdown()
        print(
            f"{way}: {found.rate:.1f} frames/s a camera, least to most served {found.fairness:.2f}, "
            f"{found.latency:.0f} ms (95 %: {found.latency_95:.0f}), "
            f"{found.processor:.1f} ms of the processor a frame, {found.memory:.0f} MB", flush=True,
        )  # fmt: skip
    fleet, nodes = figures["fleet"], figures["nodes"]
    print(f"fleet / nodes: processor {fleet.processor / nodes.processor:.2f}, memory {fleet.memory / nodes.memory:.2f}")


if __name__ == "__main__":
    typer.run(main)
