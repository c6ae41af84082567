"""The cache of compiled engines: which one is found, and how each unusable one is refused. Needs no TensorRT."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from ofer_models.bundle.tensors import StageError
from ofer_models.files.hashing import sha256_of
from ofer_models.runtime import engine_cache
from ofer_models.runtime.engine_cache import EngineKey, Runtime

HERE = Runtime("tensorrt_rtx", "1.7.1", ("sm86", "sm86 NVIDIA A10"))
PLAN = bytes(range(256)) * 40
COMMAND = "ofer build --bundle engines/open"


@pytest.fixture()
def graph(tmp_path):
    path = tmp_path / "expgen_step.onnx"
    path.write_bytes(b"a graph")
    return path


def key_of(graph, **changes):
    key = EngineKey(graph.name, sha256_of(graph), "tensorrt_rtx", "1.7.1", ("sm86",), "fp16", {"F": (1, 1, 8)})
    return dataclasses.replace(key, **changes)


def stored(graph, plan=PLAN, **changes):
    return engine_cache.write(graph.parent, key_of(graph, **changes), plan, {"inputs": {}, "outputs": {}}, 1.0)


def refusal(graph, here=HERE):
    with pytest.raises(StageError) as refused:
        engine_cache.find(graph.parent, graph, here, COMMAND)
    message = str(refused.value)
    assert "\n" not in message and message.endswith(f"run `{COMMAND}`")
    return message


def test_the_fitting_engine_is_found_half_precision_first(graph):
    for gpu, precision in (("sm120", "fp16"), ("sm86", "fp32")):
        stored(graph, gpus=(gpu,), precision=precision)
    assert engine_cache.find(graph.parent, graph, HERE, COMMAND).key.precision == "fp32"
    path = stored(graph, gpus=("sm120", "sm86"))
    found = engine_cache.find(graph.parent, graph, HERE, COMMAND)
    assert found.path == path and found.key == key_of(graph, gpus=("sm120", "sm86")) and path.read_bytes() == PLAN


def test_every_part_of_the_key_gives_another_file(graph):
    changes = [
        {}, {"graph_sha256": "0"}, {"flavour": "tensorrt"}, {"version": "2"}, {"gpus": ("sm89",)},
        {"precision": "fp32"}, {"profile": {"F": (1, 1, 4)}},
    ]  # fmt: skip
    names = {key_of(graph, **change).file_name for change in changes}
    assert len(names) == len(changes) and all(name.startswith("expgen_step.") for name in names)


def test_a_missing_engine_names_the_graph_and_the_gpu(graph):
    assert re.search(r"expgen_step\.onnx has no engine for sm86", refusal(graph))


def test_a_stale_engine_is_refused(graph):
    path = stored(graph)
    graph.write_bytes(b"a graph trained longer")
    assert f"{path.name} is stale: it was built from another expgen_step.onnx" in refusal(graph)


def test_an_engine_of_an_older_tensorrt_is_refused(graph):
    stored(graph, version="1.6.0")
    assert "is stale: built by tensorrt_rtx 1.6.0, this machine has 1.7.1" in refusal(graph)


@pytest.mark.parametrize("keep", [0, 1, len(PLAN) - 1])
def test_a_truncated_engine_is_refused(graph, keep):
    path = stored(graph)
    path.write_bytes(PLAN[:keep])
    assert f"cut short or changed: {keep} bytes, its record says {len(PLAN)}" in refusal(graph)


def test_a_changed_byte_is_refused(graph):
    path = stored(graph)
    path.write_bytes(PLAN[:-1] + b"x")
    assert "damaged: its sha256" in refusal(graph)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gpus": ("sm120",)}, "is foreign: built for sm120, this GPU is sm86"),
        ({"gpus": ("sm86 Orin",)}, "is foreign: built for sm86 Orin"),
        ({"flavour": "tensorrt"}, "is foreign: built by tensorrt, this machine has tensorrt_rtx"),
    ],
)
def test_a_foreign_engine_is_refused(graph, changes, said):
    stored(graph, **changes)
    assert said in refusal(graph)


def test_a_renamed_engine_is_refused(graph):
    """With its record or without: another stage's engine never runs under this stage's name."""
    other = graph.with_name("idrank.onnx")
    other.write_bytes(b"another graph")
    path = stored(other)
    renamed = path.rename(graph.with_name("expgen_step.0123456789ab.engine"))
    assert "was renamed or left unfinished" in refusal(graph)
    path.with_name(f"{path.name}.json").rename(renamed.with_name(f"{renamed.name}.json"))
    assert "was renamed: its record says it is idrank." in refusal(graph)


@pytest.mark.parametrize("record", [b"", b"{}", b"[]", b'{"format": 1, "key": {"graph": 3}}', b"\xff"])
def test_a_damaged_record_is_refused(graph, record):
    path = stored(graph)
    path.with_name(f"{path.name}.json").write_bytes(record)
    assert "has a damaged record" in refusal(graph)


def test_pruning_removes_what_no_graph_can_use_and_keeps_the_rest(graph):
    kept = [stored(graph), stored(graph, gpus=("sm120",))]
    old, cut = stored(graph, version="1.6.0"), stored(graph, precision="fp32")
    cut.write_bytes(b"short")
    gone = graph.with_name("gone.onnx")
    gone.write_bytes(b"x")
    orphan = stored(gone)
    lone = graph.with_name("idrank.0123456789ab.engine.json")
    lone.write_text("{}")
    unfinished = graph.with_name(".expgen_step.engine.tmp")
    unfinished.write_bytes(b"")
    removed = engine_cache.prune(graph.parent, {graph.name: graph}, [HERE])
    expected = {old, cut, orphan}
    expected |= {path.with_name(f"{path.name}.json") for path in expected} | {lone, unfinished}
    assert set(removed) == expected and not any(path.exists() for path in expected)
    assert [entry.path for entry in engine_cache.entries(graph.parent)] == sorted(kept)
    assert engine_cache.prune(graph.parent, {graph.name: graph}, [HERE]) == []


def test_without_a_gpu_the_files_alone_are_judged(graph):
    stored(graph, version="1.6.0", gpus=("sm120",))
    [entry] = engine_cache.entries(graph.parent)
    assert entry.refuse(graph) == "" and "stale" in entry.refuse(graph, HERE)


def test_a_failed_write_leaves_nothing_behind(graph, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine_cache.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        stored(graph)
    assert list(graph.parent.iterdir()) == [graph]


def test_writers_wait_for_each_other(graph):
    """A second process cannot write while the folder is held, and does so afterwards."""
    code = (
        "import sys; from pathlib import Path; from ofer_models.runtime import engine_cache as c\n"
        f"k = c.EngineKey.from_json({json.dumps(dataclasses.asdict(key_of(graph)))})\n"
        f"print('ready', flush=True); c.write(Path({str(graph.parent)!r}), k, b'plan', {{}}, 0)"
    )
    with engine_cache.locked(graph.parent):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert engine_cache.entries(graph.parent) == []
    assert process.wait(300) == 0 and len(engine_cache.entries(graph.parent)) == 1
