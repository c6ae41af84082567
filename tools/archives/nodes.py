"""A Ray cluster of two nodes on this machine, whose nodes can be killed and come back."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

_PATIENCE, _TRIES = 200.0, 5  # s, for what takes seconds on a quiet machine
_STARTED = "Ray runtime started"
_RECONNECT = "5"  # s after which a process gives a head up that is gone; Ray's own 60


class Nodes:
    """`head` and `node`, processes of `ray start` with one CPU each, at `address`; `environment` is for callers.

    In the `with` block only. Calls are signed with a token of its own: a head asks for one wherever Ray has left one
    for this user.
    """

    def __init__(self, folder: Path) -> None:
        self.environment = {
            **os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # a second node may join, whatever the caller's clusters may
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0",  # 15 by default
            "RAY_raylet_start_wait_time_s": f"{_PATIENCE:.0f}", "RAY_gcs_rpc_server_reconnect_timeout_s": _RECONNECT,
        }  # fmt: skip
        self._folder, self._count, self._log = folder, 0, Path()
        self.address = ""
        self.head: subprocess.Popen | None = None
        self.node: subprocess.Popen | None = None

    def __enter__(self) -> Nodes:
        try:
            self.mend()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self.node, self.head):
            self._end(one)

    def mend(self) -> None:
        """Start what is not there; without its head a cluster is begun anew. Raises RuntimeError."""
        for _ in range(_TRIES):  # on a machine that others use a node may miss one of Ray's own deadlines
            if self.head is None or self.head.poll() is not None:
                self._end(self.node)
                self.node, self.head = None, self._start_head()
            if self.head is not None and (self.node is None or self.node.poll() is not None):
                ports = ["--min-worker-port=20000", "--max-worker-port=20999"]
                self.node = self._start(f"--address={self.address}", *ports)
            if self.head is not None and self.node is not None:
                return
            self._end(self.head)
        raise RuntimeError(f"no Ray cluster started: {self._log.read_text(errors='replace')[-2000:]}")

    def _start_head(self) -> subprocess.Popen | None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        return self._start(
            "--head", f"--port={port}", "--include-dashboard=false", "--min-worker-port=21000",
            "--max-worker-port=21999", f"--temp-dir={tempfile.mkdtemp(prefix='ray_', dir=self._folder)}",
        )  # fmt: skip

    def _start(self, *arguments: str) -> subprocess.Popen | None:
        """A process of `ray start` once it works; None where it does not."""
        self._count += 1
        self._log, first = self._folder / f"node{self._count}.log", 22000 + 10 * self._count
        agents = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")
        # A raylet waits 15 s for agents to write down a port that is not given, and a busy machine needs longer.
        ports = [f"--{agent}-port={first + number}" for number, agent in enumerate(agents)]
        options = ["--block", "--node-ip-address=127.0.0.1", "--num-cpus=1", f"--object-store-memory={80 << 20}"]
        with self._log.open("w") as file:
            node = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *options, *ports, *arguments],
                env=self.environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        until = time.monotonic() + _PATIENCE
        while _STARTED not in self._log.read_text(errors="replace"):
            if node.poll() is not None or time.monotonic() > until:
                kill_all(node)
                return None
            time.sleep(0.2)
        return node

    @staticmethod
    def _end(one: subprocess.Popen | None) -> None:
        if one is not None:
            kill_all(one)


def kill_all(process: subprocess.Popen) -> None:
    """A process and all below it, as when their power fails."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(process.pid)
        first.suspend()  # it starts no others meanwhile
        while below := [one for one in first.children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]:
            for one in below:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
    process.kill()
    process.wait()
