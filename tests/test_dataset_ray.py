"""Archives on Ray: real workers and drivers, killed while they work; the rows are those of an undisturbed run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("ray") is None:  # not imported: it decides then where its servers listen
    pytest.skip("Ray is of the extra `scale`", allow_module_level=True)
pytest.importorskip("pyarrow")
from dataset_support import SEED, H, N, make_pictures
from typer.testing import CliRunner

from ofer_models.cli.archive import RayCommand
from ofer_models.cli.main import app
from ofer_models.dataset.cluster import Cluster
from ofer_models.dataset.distribution import Progress
from ofer_models.dataset.parts import into_parts
from ofer_models.dataset.sources import find_sources
from ofer_models.dataset.store import DatasetError, DatasetStore
from ofer_models.dataset.work import Job, PartWorker
from tools.archives.material import rows_of

os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: hours, beside anything else that works
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


def test_a_cluster_of_this_machine_listens_on_the_loopback_alone_and_leaves_no_settings_behind():
    psutil = pytest.importorskip("psutil")
    look = (
        "from ofer_models.dataset.cluster import Cluster; import psutil\n"
        "import os\n"
        "before = dict(os.environ)\n"
        "with Cluster(workers=1):\n"
        "    import ray\n"
        "    ray.get(ray.remote(lambda: 0).remote())\n"
        "    me = psutil.Process()\n"
        "    for one in [me, *me.children(recursive=True)]:\n"
        "        for socket in one.net_connections():\n"
        f"            socket.status == {psutil.CONN_LISTEN!r} and print(one.name(), socket.laddr.ip)\n"
        "told = {name for name in os.environ if os.environ[name] != before.get(name)}\n"
        "assert not [name for name in told if name.startswith('RAY_')], told\n"  # a later cluster may have nodes
    )
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=PATIENCE, check=True)
    heard = [line.split() for line in told.stdout.splitlines()]
    assert {"gcs_server", "raylet"} <= {line[0] for line in heard}
    assert {line[-1] for line in heard} <= {"127.0.0.1", "::ffff:127.0.0.1"}


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


@pytest.mark.long
@pytest.mark.parametrize("where", [[], ["--local"]])
def test_twenty_kills_at_random_moments_change_no_row(where):
    """Drivers, workers, nodes and heads; nothing outlives the command, however it ends."""
    pytest.importorskip("psutil")
    trial = [sys.executable, "-m", "tools.archives.kills", "--kills", "20", "--minutes", "60", *where]
    ran = subprocess.run(trial, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=3700)
    print(ran.stdout)
    assert ran.returncode == 0 and "20 kills" in ran.stdout.splitlines()[-1]
