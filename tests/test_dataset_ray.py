"""Archives on Ray: real workers and drivers, killed while they work; the rows are those of an undisturbed run."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("pyarrow")
from dataset_support import SEED, H, N, make_pictures, rows_of
from typer.testing import CliRunner

from ofer_models.cli.archive import RayCommand
from ofer_models.cli.main import app
from ofer_models.dataset.cluster import Cluster, Progress
from ofer_models.dataset.parts import into_parts
from ofer_models.dataset.sources import find_sources
from ofer_models.dataset.store import DatasetError, DatasetStore
from ofer_models.dataset.work import Job, PartWorker

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300  # s, for what takes seconds on a quiet machine


@pytest.fixture
def archive(tmp_path) -> Path:
    folder = tmp_path / "archive"
    make_pictures(folder / "pictures", 2)
    for name in ("a.mp4", "once.mp4", "always.mp4"):
        (folder / name).write_text("3")
    (folder / "broken.mp4").write_text("3 0")
    return folder


def undisturbed(job: Job, sources: list, out: Path) -> Path:
    """The same rows by one worker in this process."""
    worker = PartWorker(job)
    with DatasetStore(out, job.about()) as store:
        for part in into_parts(store.pending(sources)):
            store.commit(part, worker.do(part, str(store.tmp)))
    return out


@pytest.fixture
def readers_here(monkeypatch) -> None:
    """Workers find the readers of the tests."""
    folders = (ROOT, ROOT / "tests", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))


def test_a_worker_that_dies_is_replaced_and_what_is_done_is_not_done_again(
    archive, open_bundle, readers_here, tmp_path
):
    deadly = Job(str(open_bundle.path), H, N, SEED, "dataset_support:deadly")
    mild = Job(str(open_bundle.path), H, N, SEED, "dataset_support:moving_face")
    told: list[Progress] = []
    out, sources = tmp_path / "d", find_sources([str(archive)])
    with Cluster(workers=1) as cluster:
        with DatasetStore(out, deadly.about()) as store:
            cluster.run(into_parts(store.pending(sources)), store, deadly, told.append)
        lines = (out / "manifest.jsonl").read_text()
        with DatasetStore(out, deadly.about()) as store:
            assert store.pending(sources) == []
            cluster.run(into_parts(store.pending(sources)), store, deadly)
    assert (out / "manifest.jsonl").read_text() == lines
    tried = {path.stem: len(path.read_text()) for path in archive.glob("*.tried")}
    assert tried == {"a": 1, "once": 2, "always": 3, "broken": 1}
    assert {os.path.basename(row["source"]) for row in rows_of(out, "failures")} == {"always.mp4", "broken.mp4"}
    expected = undisturbed(mild, [one for one in sources if "always" not in one.address], tmp_path / "expected")
    assert rows_of(out) == rows_of(expected) and len(rows_of(out)) == 8
    last = told[-1]
    assert (last.sources, last.of_sources, last.frames, last.faces, last.failures) == (6, 6, 8, 8, 2)
    assert last.size == last.of_size > 0


def test_workers_that_cannot_start_end_the_run_in_one_line(archive, open_bundle, tmp_path):
    job = Job(str(open_bundle.path), H, N, SEED, "no_such_module:frames")
    with Cluster(workers=1) as cluster, DatasetStore(tmp_path / "d", job.about()) as store:
        with pytest.raises(DatasetError, match="no_such_module") as told:
            cluster.run(into_parts(find_sources([str(archive)])), store, job)
        assert "\n" not in str(told.value) and store.totals()["sources"] == 0


def test_a_cluster_that_is_not_there_is_told_in_one_line():
    with pytest.raises(DatasetError) as told, Cluster("127.0.0.1:1"):
        pass
    assert "\n" not in str(told.value) and "127.0.0.1:1" in str(told.value)


@pytest.mark.parametrize(
    "arguments, address",
    [
        (["a", "--out", "d", "--ray"], "local"), (["--ray", "a.mp4", "--out", "d"], "local"),
        (["a", "--ray", "10.0.0.1:6379", "--out", "d"], "10.0.0.1:6379"), (["a", "--out", "d", "--ray=auto"], "auto"),
        (["a", "--out", "d", "--ray", "ray://head:10001"], "ray://head:10001"), (["a", "--out", "d"], None),
    ],
)  # fmt: skip
def test_ray_stands_with_or_without_an_address(arguments, address):
    import typer

    command = typer.main.get_command(app).commands["reconstruct"]
    assert isinstance(command, RayCommand)
    parsed = command.make_context("reconstruct", list(arguments)).params
    assert parsed["ray"] == address and parsed["images"] == [arguments[1 if arguments[0] == "--ray" else 0]]


def test_options_of_meshes_do_not_go_with_a_dataset():
    result = CliRunner().invoke(app, ["reconstruct", "a.png", "--out", "d", "--ray", "--format", "obj"])
    assert result.exit_code == 2 and not Path("d").exists()


def command(archive: Path, out: Path, ray: str = "--ray") -> list[str]:
    options = [ray, "--workers", "2", "--hypotheses", str(H), "--candidates", str(N)]
    return [sys.executable, "-m", "ofer_models.cli", "reconstruct", str(archive), "--out", str(out), *options]


def make_archive(folder: Path, pictures: int, frames: list[int]) -> Path:
    """Pictures, videos of so many frames, and one that is none."""
    from ofer_ros.camera.scene import Scene

    cv2, scene = pytest.importorskip("cv2"), Scene()
    make_pictures(folder / "pictures", pictures)
    for number, count in enumerate(frames):
        writer = cv2.VideoWriter(str(folder / f"{number}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (320, 240))
        for index in range(count):
            writer.write(cv2.resize(cv2.cvtColor(scene(50 * number + index).rgb, cv2.COLOR_RGB2BGR), (320, 240)))
        writer.release()
    (folder / "broken.mp4").write_text("no video")
    return folder


def workers_of(process: int) -> list[int]:
    """Processes below a driver or a node that run a PartWorker."""
    import psutil

    try:
        below = psutil.Process(process).children(recursive=True)
        return [one.pid for one in below if "PartWorker" in "".join(one.cmdline()[:1])]
    except psutil.Error:
        return []


@pytest.mark.long
def test_twenty_kills_at_random_moments_change_no_row(tmp_path):
    """Drivers and workers by turns; a dataset that is complete before its driver is killed is begun anew."""
    pytest.importorskip("psutil")
    chance = random.Random(19)
    archive = make_archive(tmp_path / "archive", 80, [40 + 5 * number for number in range(6)])
    expected = tmp_path / "expected"
    assert subprocess.run(command(archive, expected), timeout=PATIENCE).returncode == 1  # for the broken one
    kills, done, out = {"driver": 0, "worker": 0}, 0, tmp_path / "d0"
    while sum(kills.values()) < 20 or not done:
        driver = subprocess.Popen(command(archive, out), stdout=subprocess.DEVNULL, start_new_session=True)
        while driver.poll() is None:
            if sum(kills.values()) >= 20:
                driver.wait(PATIENCE)
                break
            while driver.poll() is None and not (below := workers_of(driver.pid)):
                time.sleep(0.1)
            time.sleep(chance.uniform(0, 6))  # of the time in which it works
            if below and kills["worker"] < kills["driver"]:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(below), signal.SIGKILL)
                    kills["worker"] += 1
            else:
                driver.kill()
                kills["driver"] += driver.wait() == -signal.SIGKILL
        if driver.returncode == -signal.SIGKILL:
            continue
        assert driver.returncode == 1  # complete, but for the broken one
        done += 1
        assert rows_of(out) == rows_of(expected)
        assert rows_of(out, "failures") == rows_of(expected, "failures")
        out = tmp_path / f"d{done}"
    print(f"kills {kills}, {done} datasets complete, each of {len(rows_of(expected))} rows")


class RayNodes:
    """A Ray cluster on the loopback: `ray start` for its head and for one more node, each with one CPU.

    Calls are signed with a token of its own: a head asks for one wherever Ray has left one for this user.
    """

    def __init__(self, folder: Path) -> None:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment = {**os.environ, **token}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._log = (folder / "nodes.log").open("w")
        self._session = tempfile.mkdtemp(prefix="ray_")  # paths of sockets are short
        self.node = self._head = None

    def __enter__(self) -> RayNodes:
        port, dashboard = ["--port", self.address.partition(":")[2]], ["--include-dashboard", "false"]
        try:
            self._head = self._start("--head", *port, *dashboard, "--temp-dir", self._session)
            self._wait(1)
            self.join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in (self.node, self._head):
            if node is not None and node.poll() is None:
                self.kill(node)
        self._log.close()
        shutil.rmtree(self._session, ignore_errors=True)

    def join(self) -> None:
        """Another node, beside the head."""
        ports = ["--min-worker-port", "20000", "--max-worker-port", "20999"]
        self.node = self._start("--address", self.address, *ports)
        self._wait(2)

    def kill(self, node: subprocess.Popen) -> None:
        """All of its processes at once, as when its power fails."""
        import psutil

        for process in [*psutil.Process(node.pid).children(recursive=True), node]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        node.wait(PATIENCE)

    def _start(self, *arguments: str) -> subprocess.Popen:
        options = ["--node-ip-address", "127.0.0.1", "--num-cpus", "1", "--object-store-memory", str(80 << 20)]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        return subprocess.Popen(
            [*ray, *options, *arguments], env=self.environment, stdout=self._log, stderr=subprocess.STDOUT
        )

    def _wait(self, count: int) -> None:
        """Until so many nodes are alive."""
        look = "import ray, sys; ray.init(sys.argv[1]); print(sum(n['Alive'] for n in ray.nodes()))"
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and (self.node or self._head).poll() is None:
            asked = [sys.executable, "-c", look, self.address]
            told = subprocess.run(asked, env=self.environment, capture_output=True, text=True, timeout=PATIENCE)
            if told.returncode == 0 and int(told.stdout.split()[-1]) == count:
                return
        raise AssertionError(f"no {count} nodes: {Path(self._log.name).read_text()[-2000:]}")


@pytest.mark.long
def test_a_cluster_of_two_nodes_loses_one_ten_times_and_no_row(tmp_path):
    pytest.importorskip("psutil")
    archive, chance = make_archive(tmp_path / "archive", 40, [60, 50, 40, 30]), random.Random(7)
    expected = tmp_path / "expected"
    assert subprocess.run(command(archive, expected), timeout=PATIENCE).returncode == 1  # for the broken one
    kills = went_on = 0
    with RayNodes(tmp_path) as nodes:
        while kills < 10:
            out = tmp_path / f"d{kills}"
            ordered = command(archive, out, f"--ray={nodes.address}")
            driver = subprocess.Popen(ordered, env=nodes.environment, stdout=subprocess.DEVNULL)
            while driver.poll() is None and not workers_of(nodes.node.pid):
                time.sleep(0.1)
            time.sleep(chance.uniform(0, 3))
            killed = driver.poll() is None and bool(workers_of(nodes.node.pid))
            if killed:
                nodes.kill(nodes.node)
            driver.wait(PATIENCE)  # with the other node alone; or it ended, if it had joined by the one that is gone
            went_on += killed and rows_of(out) == rows_of(expected)
            if killed:
                kills += 1
                nodes.join()
            again = subprocess.run(ordered, env=nodes.environment, stdout=subprocess.DEVNULL, timeout=PATIENCE)
            assert again.returncode == 1
            assert rows_of(out) == rows_of(expected)
            assert rows_of(out, "failures") == rows_of(expected, "failures")
            shutil.rmtree(out)
    print(f"{kills} nodes killed; {went_on} runs went on without, the others were gone on with")
    assert went_on
