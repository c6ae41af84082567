"""A Ray cluster to work on: one of this machine's cores, on the loopback alone, or one that runs already."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ofer_models.dataset.parts import Part
from ofer_models.dataset.store import DatasetError, DatasetStore
from ofer_models.dataset.work import Job
from ofer_models.files.refusal import one_line

if TYPE_CHECKING:
    from ofer_models.dataset.distribution import Progress

LOCAL = "local"
_ANSWER = 10.0  # s for a machine to accept a connection
_JOINED = 90.0  # s for a cluster to take a driver in: a few on an idle machine
_OBJECT_STORE = 80 << 20  # bytes; parts and results are small
# Ray reads these when it is imported. It reports to its makers unless it is told not to, takes GPUs from workers that
# ask for none, and gives a machine that is busy 30 s.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_raylet_start_wait_time_s": "120",
}  # fmt: skip
# Its servers listen on every interface, also where 127.0.0.1 is asked for, unless clusters are switched off, which its
# name keeps to other systems but its code does not.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_FEW_TRIES = {"RAY_NUM_REDIS_GET_RETRIES": "3"}  # a second each where the head says no; 20 by default
_JOIN = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); ray.shutdown()"
_VERSIONS = re.compile(r"Ray: *(\S+)\s+Python: *(\S+)")


class Cluster:
    """A Ray cluster for as long as the `with` block lasts. One kind a process: local ones, or running ones."""

    def __init__(self, address: str = LOCAL, workers: int = 0, gpus: float = 0.0) -> None:
        """address: `local`, or a running cluster's host:port. workers: at most; 0: one for each CPU. gpus: of each
        worker. Raises DatasetError."""
        self._options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "max_concurrency": 2}
        local = {
            "num_cpus": workers or None, "object_store_memory": _OBJECT_STORE, "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }  # fmt: skip
        with ExitStack() as half_way:
            half_way.enter_context(_environment(_ENVIRONMENT | (_LOOPBACK if address == LOCAL else {})))
            if address != LOCAL:
                _try(address)
            import ray

            half_way.callback(ray.shutdown)
            try:
                ray.init(
                    address, log_to_driver=False, logging_level=logging.ERROR, **(local if address == LOCAL else {})
                )
            except Exception as error:  # OSError, ValueError, RuntimeError: each version its own
                raise DatasetError(f"no Ray cluster at {address}: {one_line(error)}") from None
            cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
            self._leave = half_way.pop_all().close
        self._workers = min(workers or cores, cores)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def run(
        self, parts: Iterable[Part], store: DatasetStore, job: Job, tell: Callable[[Progress], None] = lambda _: None
    ) -> None:
        """Do the parts and commit each as it is done. A part whose worker dies is done again, in halves, so that a file
        that kills its reader is found; after three deaths it is a failure.

        Raises OSError when rows cannot be written, and DatasetError when no worker can start.
        """
        from ofer_models.dataset.distribution import Distribution

        Distribution(deque(parts), store, job, self._options, tell).work(self._workers)


@contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    """These variables where they are not set, for this process and those that it starts meanwhile: a cluster of several
    nodes that is started later must not be told to stay alone."""
    new = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _try(address: str) -> None:
    """Raise DatasetError, in one line that says what to do, where a process of its own cannot join the cluster.

    Ray tries for a quarter of an hour where something else answers, and tells why on the terminal alone.
    """
    if ":" in address:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _ANSWER).close()
        except (OSError, OverflowError) as error:
            raise DatasetError(
                f"no Ray cluster at {address}: {one_line(error)}; `ray start --head` tells its address"
            ) from None
    try:
        joined = subprocess.run(
            [sys.executable, "-c", _JOIN, address], env={**os.environ, **_FEW_TRIES}, capture_output=True, text=True,
            errors="replace", timeout=_JOINED,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace")
    else:
        if joined.returncode == 0:
            return
        said = joined.stderr
    raise DatasetError(f"no Ray cluster at {address}: {refusal(said)}")


def refusal(said: str) -> str:
    """Why Ray does not let a driver in, and what to do, in one line out of what it `said` on the terminal."""
    if "InvalidAuthToken" in said or "AuthenticationError" in said:
        return (
            "its head asks for a token, and there is none here or another: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN "
            "to what `ray get-auth-token` prints on the head, on every node"
        )
    versions = _VERSIONS.findall(said)
    if "ersion mismatch" in said and len(versions) > 1:
        (its_ray, its_python), (ray, python) = versions[:2]
        return (
            f"it runs Ray {its_ray} on Python {its_python}, this is Ray {ray} on Python {python}: they have to be the "
            "same on every node"
        )
    if "Failed to connect to GCS" in said or not said.strip():
        return "what answers there is no Ray head: `ray start --head` tells its address"
    return one_line(said.strip().splitlines()[-1])
