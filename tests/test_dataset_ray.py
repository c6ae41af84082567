"""Archives on Ray: real workers and drivers, killed while they work; the rows are those of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
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


def command(archive: Path, out: Path, *more: str) -> list[str]:
    options = ["--ray", "--workers", "2", "--hypotheses", str(H), "--candidates", str(N)]
    return [sys.executable, "-m", "ofer_models.cli", "reconstruct", str(archive), "--out", str(out), *options, *more]


def workers_of(driver: int) -> list[int]:
    """Processes below a driver that run a PartWorker."""
    import psutil

    try:
        below = psutil.Process(driver).children(recursive=True)
        return [one.pid for one in below if "PartWorker" in "".join(one.cmdline()[:1])]
    except psutil.Error:
        return []


@pytest.mark.long
def test_twenty_kills_at_random_moments_change_no_row(tmp_path):
    """Drivers and workers by turns; a dataset that is complete before its driver is killed is begun anew."""
    pytest.importorskip("psutil")
    from ofer_ros.camera.scene import Scene

    cv2 = pytest.importorskip("cv2")
    archive, scene, chance = tmp_path / "archive", Scene(), random.Random(19)
    make_pictures(archive / "pictures", 80)
    for number in range(6):
        writer = cv2.VideoWriter(str(archive / f"{number}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (320, 240))
        for index in range(40 + 5 * number):
            writer.write(cv2.resize(cv2.cvtColor(scene(50 * number + index).rgb, cv2.COLOR_RGB2BGR), (320, 240)))
        writer.release()
    (archive / "broken.mp4").write_text("no video")
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
