"""python -m tools.archives.kills: drivers, workers, nodes and heads of a Ray cluster killed while they work.

An archive is reconstructed without disturbance. Then the same command is run, and at moments that a seed draws one of
its processes is killed, and the command given again where it has ended. Before each kill the workers are stopped for an
instant and looked at: it counts only while those who are about to lose it have a part open, rows being written or a
video being read, which the manifest does not name. Each dataset that becomes complete has to have the rows of the
undisturbed one. All of it in namespaces of its own (enclosure.py).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import psutil
import typer

from tools.archives.enclosure import enclose
from tools.archives.material import make_archive, reconstruct, rows_of
from tools.archives.nodes import Nodes, kill_all

DRIVER, WORKER, NODE, HEAD = "driver", "worker", "node", "head"
_OPTIONS = ("--workers", "2", "--hypotheses", "2", "--candidates", "4")
_PICTURES, _FRAMES = 80, [40 + 5 * number for number in range(6)]
_LONGEST = 6.0  # s from the moment that a part is open to the kill
_FOR_THE_BROKEN_ONE = 1  # exit code of a complete run


class Kills:
    """The kills that are still to be made, and the processes that they are made of."""

    def __init__(self, folder: Path, nodes: Nodes | None, victims: list[str], chance: random.Random, until: float):
        """nodes: None for clusters that the command starts for itself. until: of time.monotonic()."""
        self._folder, self._nodes, self._victims, self._chance, self._until = folder, nodes, victims, chance, until
        self._archive = make_archive(folder / "archive", _PICTURES, _FRAMES)
        self._sources = sum(1 for one in self._archive.rglob("*") if one.is_file())
        self.made: Counter[str] = Counter()

    @property
    def left(self) -> int:
        """Kills to come."""
        return len(self._victims)

    def undisturbed(self) -> Path:
        """A dataset that nothing happens to."""
        out = self._folder / "undisturbed"
        driver = self._driver(out)
        if driver.wait(self._left()) != _FOR_THE_BROKEN_ONE or len(self._done(out)) != self._sources:
            raise SystemExit(f"a run without kills ended with {driver.returncode}: {self._log(out)}")
        return out

    def disturbed(self, out: Path) -> None:
        """A dataset whose command is given until it is complete, while there are kills left."""
        while len(self._done(out)) < self._sources:
            if self._nodes:
                self._nodes.mend()
            driver, before = self._driver(out), sum(self.made.values())
            while driver.poll() is None and self._victims:
                victim = self._victims[0]
                if self._kill(victim, driver, out):
                    self._victims.pop(0)
                    if victim == NODE and self._nodes:
                        self._nodes.mend()
            driver.wait(self._left())
            if sum(self.made.values()) == before and len(self._done(out)) < self._sources:
                raise SystemExit(f"a run without kills ended with {driver.returncode}: {self._log(out)}")
            self._wait_for_workers()

    def _kill(self, victim: str, driver: subprocess.Popen, out: Path) -> bool:
        """Kill once a part is open, after a while; whether one still was."""
        while not any(self._open(one, out) for one in self._workers(victim, driver)):
            if driver.poll() is not None:
                return False
            self._left()
            time.sleep(0.05)
        time.sleep(self._chance.uniform(0, _LONGEST))
        workers = self._workers(victim, driver)
        with _stopped(workers):
            losing = [one for one in workers if self._open(one, out)]
            if driver.poll() is not None or not losing:
                return False
            if victim == WORKER:
                losing = [self._chance.choice(losing)]
            lost = [name for one in losing for name in self._open(one, out)]
            done = len(self._done(out))
            if victim == WORKER:
                losing[0].kill()
            elif victim == DRIVER:
                driver.kill()
            else:
                kill_all(self._nodes.node if victim == NODE else self._nodes.head)
        self.made[victim] += 1
        print(
            f"{sum(self.made.values()):3} {victim:6} {done:3} of {self._sources} sources done, open: {', '.join(lost)}",
            flush=True,
        )
        return True

    def _workers(self, victim: str, driver: subprocess.Popen) -> list[psutil.Process]:
        """Those whose work is lost with the victim."""
        above, nodes = [driver], self._nodes
        if nodes is not None:
            above = {NODE: [nodes.node], HEAD: [nodes.head]}.get(victim, [nodes.head, nodes.node])
        found = []
        for one in above:
            with suppress(psutil.Error):
                found += psutil.Process(one.pid).children(recursive=True)
        return sorted(filter(_is_worker, found), key=lambda one: one.pid)

    def _open(self, worker: psutil.Process, out: Path) -> list[str]:
        """Files of parts that are not done: rows that it writes, a video that it reads."""
        found, tmp, folder = [], f"{out}/tmp/", Path(f"/proc/{worker.pid}/fd")
        with suppress(OSError):
            for handle in os.listdir(folder):
                with suppress(OSError):
                    name = os.readlink(folder / handle)
                    video = name.startswith(f"{self._archive}/") and name not in self._done(out)
                    if not name.endswith(" (deleted)") and (video or name.startswith(tmp)):
                        found.append(name.removeprefix(tmp).removeprefix(f"{self._archive}/"))
        return sorted(found)

    def _done(self, out: Path) -> set[str]:
        """Sources that the manifest names. Its last line may be on its way."""
        done: set[str] = set()
        with suppress(FileNotFoundError, json.JSONDecodeError):
            for line in (out / "manifest.jsonl").read_text().splitlines():
                done |= json.loads(line)["sources"].keys()
        return done

    def _driver(self, out: Path) -> subprocess.Popen:
        address = self._nodes.address if self._nodes else "local"
        environment = self._nodes.environment if self._nodes else None
        with out.with_suffix(".log").open("a") as log:
            return subprocess.Popen(
                reconstruct(self._archive, out, f"--ray={address}", *_OPTIONS), env=environment, stdout=log,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def _wait_for_workers(self) -> None:
        """Until none of a driver that is gone is left, nor the cluster that it started for itself."""
        while any(_is_worker(one) or (self._nodes is None and _is_ray(one)) for one in psutil.process_iter()):
            self._left()
            time.sleep(0.2)

    def _log(self, out: Path) -> str:
        return out.with_suffix(".log").read_text(errors="replace")[-2000:]

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise SystemExit(f"not done in time: {dict(self.made)} killed")
        return left


def _is_worker(process: psutil.Process) -> bool:
    return "PartWorker" in _title(process)


def _is_ray(process: psutil.Process) -> bool:
    return any(name in _title(process) for name in ("ray::", "raylet", "gcs_server"))


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            return "".join(process.cmdline()[:1])
    return ""


@contextmanager
def _stopped(processes: list[psutil.Process]) -> Iterator[None]:
    try:
        for one in processes:
            with suppress(psutil.NoSuchProcess):
                one.suspend()
        yield
    finally:
        for one in processes:
            with suppress(psutil.NoSuchProcess):
                one.resume()


def main(
    kills: Annotated[int, typer.Option(min=1, help="how many")] = 20,
    seed: Annotated[int, typer.Option(help="of whom and when")] = 19,
    minutes: Annotated[float, typer.Option(min=1, help="after which it is given up")] = 40.0,
    local: Annotated[bool, typer.Option("--local", help="without nodes: the cluster that the command starts")] = False,
) -> None:
    """Rows of killed runs beside those of an undisturbed one; fails where they differ."""
    chance = random.Random(seed)
    among = (DRIVER, WORKER) if local else (DRIVER, WORKER, NODE, HEAD)
    victims = [among[number % len(among)] for number in range(kills)]
    chance.shuffle(victims)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ofer_", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if local:
            rows, complete = _through(Kills(folder, None, victims, chance, began + 60 * minutes))
        else:
            with Nodes(folder) as nodes:
                rows, complete = _through(Kills(folder, nodes, victims, chance, began + 60 * minutes))
    print(
        f"{kills} kills, {complete} datasets complete, each of {rows} rows, equal to the undisturbed one's; "
        f"{(time.monotonic() - began) / 60:.0f} minutes"
    )


def _through(trial: Kills) -> tuple[int, int]:
    """Rows of a dataset, and datasets that became complete through all kills."""
    expected = trial.undisturbed()
    complete = 0
    while trial.left:
        out = expected.with_name(f"disturbed{complete}")
        trial.disturbed(out)
        for kind in ("faces", "failures"):
            if rows_of(out, kind) != rows_of(expected, kind):
                raise SystemExit(f"the {kind} of dataset {complete} are others than without kills")
        shutil.rmtree(out)
        complete += 1
    return len(rows_of(expected)), complete


if __name__ == "__main__":
    enclose("tools.archives.kills")
    typer.run(main)
