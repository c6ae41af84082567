"""Sources behind s3://, on a server of that protocol on the loopback."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
from dataset_support import SEED, H, N, make_pictures

from ofer_models.dataset import work
from ofer_models.dataset.parts import into_parts
from ofer_models.dataset.sources import PICTURE, STREAM, find_sources
from ofer_models.dataset.store import DatasetStore
from ofer_models.dataset.work import Job, PartWorker
from tools.archives.material import make_archive, reconstruct, rows_of

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300  # s, for what takes seconds on a quiet machine
READER = "ofer_ros.camera.archived:archived_frames"


@pytest.fixture
def bucket(monkeypatch):
    """A file system of fsspec with an empty bucket `lab`."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "lab"), ("AWS_SECRET_ACCESS_KEY", "lab"),
        ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_EC2_METADATA_DISABLED", "true"), ("RAY_worker_niceness", "0"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    type(system).clear_instance_cache()  # what others made has another endpoint
    system.mkdir("lab")
    yield system
    system.rm("lab", recursive=True)  # servers of one process share what they hold
    type(system).clear_instance_cache()
    server.stop()


def fill(bucket, folder: Path) -> Path:
    """Two pictures, a video, one that is none, and a bag of two files, here and in the bucket."""
    make_pictures(folder / "pictures", 2)
    (folder / "pictures" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "a.mp4").write_text("3")
    (folder / "run").mkdir()
    for name in ("metadata.yaml", "run_0.mcap", "run_1.mcap"):
        (folder / "run" / name).write_text("x")
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.pipe_file(f"lab/archive/{path.relative_to(folder)}", path.read_bytes())
    return folder


def test_folders_patterns_and_bags_of_a_bucket_are_sources(bucket, tmp_path):
    fill(bucket, tmp_path / "archive")
    kinds = {source.address: source.kind for source in find_sources(["s3://lab/archive"])}
    assert kinds == {
        "s3://lab/archive/a.mp4": STREAM, "s3://lab/archive/pictures/broken.jpg": PICTURE,
        "s3://lab/archive/pictures/p0.png": PICTURE, "s3://lab/archive/pictures/p1.png": PICTURE,
        "s3://lab/archive/run": STREAM,
    }  # fmt: skip
    matched = find_sources(["s3://lab/*/pictures/*.png"])
    assert [source.address for source in matched] == [f"s3://lab/archive/pictures/p{n}.png" for n in range(2)]
    (topic,) = find_sources(["s3://lab/archive/run#/camera/image_raw"])
    assert (topic.address, topic.size, topic.problem) == ("s3://lab/archive/run#/camera/image_raw", 2, "")


def test_pictures_and_videos_of_a_bucket_become_rows(bucket, open_bundle, tmp_path):
    fill(bucket, tmp_path / "archive")
    job = Job(str(open_bundle.path), H, N, SEED, "dataset_support:moving_face")
    worker = PartWorker(job)
    with DatasetStore(tmp_path / "d", job.about()) as store:
        for part in into_parts(store.pending(find_sources(["s3://lab/archive/pictures", "s3://lab/archive/a.mp4"]))):
            store.commit(part, worker.do(part, str(store.tmp)))
    rows = [(os.path.basename(row["source"]), row["frame"]) for row in rows_of(tmp_path / "d")]
    assert rows == [("a.mp4", 0), ("a.mp4", 1), ("a.mp4", 2), ("p0.png", 0), ("p1.png", 0)]
    (failure,) = rows_of(tmp_path / "d", "failures")
    assert failure["source"] == "s3://lab/archive/pictures/broken.jpg"


def test_an_object_that_is_written_anew_is_done_again(bucket, open_bundle, tmp_path):
    fill(bucket, tmp_path / "archive")
    job = Job(str(open_bundle.path), H, N, SEED, "dataset_support:moving_face")
    video = ["s3://lab/archive/a.mp4"]
    worker = PartWorker(job)
    with DatasetStore(tmp_path / "d", job.about()) as store:
        (part,) = into_parts(store.pending(find_sources(video)))
        store.commit(part, worker.do(part, str(store.tmp)))
        assert store.pending(find_sources(video)) == []
        bucket.pipe_file("lab/archive/a.mp4", b"2")
        assert [source.address for source in store.pending(find_sources(video))] == video


def test_what_is_not_in_a_bucket_is_told_in_one_line(bucket):
    for address in ("s3://lab/nothing.mp4", "s3://nowhere/a.mp4", "s3://lab/none/*.png"):
        (source,) = find_sources([address])
        assert source.problem and "\n" not in source.problem, address


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is of the extra `scale`")
def test_the_command_makes_the_rows_of_a_bucket_that_it_makes_of_its_files(bucket, open_bundle, tmp_path, monkeypatch):
    """Pictures, a video and a file that is none. Noise goes by the address: the files are given that of the objects."""
    archive, there = make_archive(tmp_path / "archive", 3, [6]), "s3://lab/archive"
    bucket.put(f"{archive}/", "lab/archive/", recursive=True)
    options = ["--ray", "--workers", "1", "--hypotheses", str(H), "--candidates", str(N), "--seed", str(SEED)]
    command = reconstruct(archive, tmp_path / "d", *options)
    command[command.index(str(archive))] = there
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 1, ran.stdout + ran.stderr  # for the broken one
    assert "9 faces in 9 frames of 5 sources" in ran.stdout

    monkeypatch.setattr(
        work, "seed_of", lambda seed, address, own=work.seed_of: own(seed, address.replace(str(archive), there))
    )
    job = Job(str(open_bundle.path), H, N, SEED, READER)
    worker = PartWorker(job)
    with DatasetStore(tmp_path / "e", job.about()) as store:
        for part in into_parts(store.pending(find_sources([str(archive)]))):
            store.commit(part, worker.do(part, str(store.tmp)))
    expected = rows_of(tmp_path / "e")
    assert len(expected) == 9
    assert rows_of(tmp_path / "d") == [row | {"source": row["source"].replace(str(archive), there)} for row in expected]
    (failure,) = rows_of(tmp_path / "d", "failures")
    assert failure["source"] == f"{there}/broken.mp4" and failure["frame"] is None and failure["reason"]
