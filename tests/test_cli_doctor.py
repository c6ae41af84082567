"""`ofer doctor`: what it finds out about bundles and machine, and that its exit code follows from trying."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from official_inputs import SMALL, flame_arrays, write_flame
from typer.testing import CliRunner

from ofer_models.bundle.manifest import HEAD, MANIFEST, STAGES, BundleError
from ofer_models.cli import examination, host
from ofer_models.cli.doctor import show
from ofer_models.cli.examination import examine, report_on, try_out
from ofer_models.cli.main import app
from ofer_models.files.hashing import sha256_of
from ofer_models.runtime import engine_cache
from ofer_models.runtime.engine_cache import EngineKey
from ofer_models.workshop.bundle_writer import Provenance, write_manifest
from ofer_models.workshop.official.flame import read_model

OPEN = Path(__file__).resolve().parents[1] / "engines" / "open"
FREE = Provenance("made here", "Apache-2.0", True)


def write_bundle(folder: Path, **licences: Provenance) -> Path:
    """A bundle that is complete by its manifest; its graphs are no graphs. licences: by file stem."""
    folder.mkdir(parents=True)
    arrays = read_model(write_flame(folder / "flame.pkl", flame_arrays(SMALL.head.n_directions)), SMALL.head)
    (folder / "flame.pkl").unlink()
    np.savez(folder / HEAD, **arrays)
    stages = {}
    for name in STAGES:
        parts = ("cond", "step") if name.endswith("gen") else ("graph",)
        files = {part: f"{name}_{part}.onnx" for part in parts}
        for file in files.values():
            (folder / file).write_text(file)
        stages[name] = {"kind": "sampler" if len(parts) == 2 else "graph", "files": files, "inputs": {}, "outputs": {},
                        "solver": "ddim", "spacing": "uniform", "steps": 3,
                        "coefficients": {"mean": [0.0], "deviation": [1.0]}}  # fmt: skip
    header = {"name": "toy", "version": "7", "n_shape": 6, "n_expression": 4, "candidates": 2, "hypotheses": 2}
    provenance = {"*": FREE} | {f"{stem}.npz" if stem == "head" else f"{stem}.onnx": p for stem, p in licences.items()}
    write_manifest(folder, header, stages, provenance)
    return folder


@pytest.fixture
def neighbours(tmp_path, monkeypatch) -> Path:
    """An engines folder of one's own: the shipped bundle is elsewhere."""
    monkeypatch.setenv("OFER_BUNDLE", str(tmp_path / "engines" / "toy"))
    return tmp_path / "engines"


def test_a_whole_bundle_is_reported_with_the_licence_of_every_file(neighbours):
    closed = Provenance("FLAME", "non-commercial research only", False)
    report = report_on(write_bundle(neighbours / "toy", head=closed))
    assert (report.title, report.error, len(report.files)) == ("toy 7", "", 8)
    assert report.files["head.npz"] == {
        "origin": "FLAME", "licence": "non-commercial research only", "commercial_use": False}  # fmt: skip
    assert not report.commercial
    assert report_on(write_bundle(neighbours / "free")).commercial


def damage_byte(folder: Path) -> None:
    path = folder / "idrank_graph.onnx"
    path.write_bytes(b"X" + path.read_bytes()[1:])


@pytest.mark.parametrize("damage, message", [
    (damage_byte, "idrank_graph.onnx is damaged or changed"),
    (lambda folder: (folder / "idgen_step.onnx").unlink(), "idgen_step.onnx is missing"),
    (lambda folder: (folder / MANIFEST).unlink(), "manifest.yaml is missing"),
    (lambda folder: (folder / MANIFEST).write_text("format: 1\nfiles: 3"), "not a complete manifest"),
    (lambda folder: (folder / MANIFEST).write_text("{]"), "not readable YAML"),
])  # fmt: skip
def test_damaged_bundles_are_named_with_a_remedy(neighbours, damage, message):
    folder = write_bundle(neighbours / "toy")
    damage(folder)
    report = report_on(folder)
    assert message in report.error and "\n" not in report.error
    assert f"ofer train --out {folder}" in report.remedy
    examination = examine()
    assert not examination.runs and message in examination.verdict


@pytest.mark.parametrize(
    ("taken", "left", "said"),
    [
        ("landmarks68", None, "no 68 landmarks;"),
        ("landmarks68", 67, "no 68 landmarks but 67"),
        ("face", None, "no mask of the face"),
        ("face", 0, "no mask of the face"),
    ],
)
def test_a_head_without_what_the_nodes_show_is_told_before_they_start(open_bundle, tmp_path, taken, left, said):
    """left: rows of the arrays that stay; None: not even the arrays."""
    folder = shutil.copytree(open_bundle, tmp_path / "open")
    with np.load(folder / "head.npz") as stored:
        gone = (f"{taken}_triangle", f"{taken}_bary", f"mask_{taken}")
        kept = {name: array[:left] if name in gone else array for name, array in stored.items()}
    if left is None:
        kept = {name: array for name, array in kept.items() if name not in gone}
    np.savez(folder / "head.npz", **kept)
    manifest = folder / MANIFEST
    before, after = (sha256_of(path / "head.npz") for path in (open_bundle, folder))
    manifest.write_text(manifest.read_text().replace(before, after))
    assert said in try_out(folder)
    load_bundle = pytest.importorskip("ofer_ros.base.bundles", reason="source .venv/ofer_env.sh").load_bundle
    with pytest.raises(BundleError, match=said):
        load_bundle(str(folder))


def test_the_remedy_is_the_command_for_that_bundle(neighbours):
    assert report_on(neighbours / "official").remedy.endswith(f"--out {neighbours / 'official'}")
    assert report_on(neighbours / "official").remedy.startswith("ofer import --idgen")
    assert report_on(OPEN.parent / "gone").remedy == f"git checkout -- {OPEN.parent / 'gone'}"


def test_an_installed_package_names_the_bundle_it_brought(tmp_path, monkeypatch):
    monkeypatch.setattr(examination, "share_folder", lambda: tmp_path)  # share/ofer_ros of a prefix, no checkout
    assert report_on(tmp_path / "engines" / "open").remedy == "install ofer_ros again"
    assert report_on(Path("/nowhere")).remedy.endswith(f"--bundle {tmp_path / 'engines' / 'open'}")


def test_matching_hashes_are_not_enough_to_run(neighbours):
    examination = examine(write_bundle(neighbours / "toy"))
    assert examination.bundles[0].error == "" and not examination.runs
    assert "toy 7 cannot run" in examination.verdict


def test_engines_that_do_not_belong_to_their_graphs_are_named(neighbours):
    folder = write_bundle(neighbours / "toy")

    def compiled(graph: str, sha256: str) -> Path:
        key = EngineKey(graph, sha256, "tensorrt_rtx", "1.2", ("sm86",), "fp16", {"F": (1, 1, 4)})
        return engine_cache.write(folder, key, b"plan", {}, 1.0)

    compiled("idrank_graph.onnx", sha256_of(folder / "idrank_graph.onnx"))
    assert (report_on(folder).stale_engines, report_on(folder).remedy) == ((), "")
    old = compiled("idgen_step.onnx", 64 * "0")
    report = report_on(folder)
    assert report.engines == 2
    assert report.stale_engines == (f"{old.name} is stale: it was built from another idgen_step.onnx",)
    assert report.remedy.startswith(f"ofer build --bundle {folder}: {old.name} is stale")
    key = EngineKey("idrank_graph.onnx", 64 * "0", "onnxruntime", "1.0", ("x86_64",), "int8", {})
    engine_cache.write(folder, key, b"graph", {}, 1.0)
    assert report_on(folder).remedy.startswith(f"ofer build --prune --bundle {folder}: ")


def test_neighbouring_bundles_are_listed_and_a_missing_official_one_is_explained(neighbours):
    write_bundle(neighbours / "toy"), write_bundle(neighbours / "other")
    examination = examine()
    assert [report.path.name for report in examination.bundles] == ["toy", "other"]
    assert any("FLAME website" in line and "ofer import --idgen" in line for line in examination.remedies)


@pytest.mark.parametrize("versions, expected", [
    ({"mediapipe": "0.10.21", "numpy": "1.26.4", "protobuf": "4.25.3"}, []),
    ({"mediapipe": "0.10.21", "numpy": "2.1.0"}, ["numpy 2.1.0"]),
    ({"mediapipe": "0.10.21", "protobuf": "5.29.1"}, ["protobuf 5.29.1"]),
    ({"mediapipe": "0.10.30", "numpy": "2.1.0", "protobuf": "6.0"}, ["mediapipe 0.10.30"]),
    ({"mediapipe": "1.0", "numpy": "1.26"}, ["mediapipe 1.0"]),
    ({"opencv-python": "4.9", "opencv-contrib-python": "4.11"}, ["opencv-contrib-python and opencv-python"]),
    ({"onnxruntime": "1.20", "onnxruntime-gpu": "1.20"}, ["onnxruntime and onnxruntime-gpu"]),
    ({}, []),
])  # fmt: skip
def test_known_clashes(versions, expected):
    found = host.clashes(versions, cv_bridge=False)
    assert [finding.name for finding in found] == expected
    fragile = {"opencv-contrib-python and opencv-python", "onnxruntime and onnxruntime-gpu"}
    assert all(finding.state == ("note" if finding.name in fragile else "problem") for finding in found)
    assert all(finding.remedy.startswith("pip ") for finding in found)


def test_cv_bridge_clashes_with_numpy_2_only():
    assert host.clashes({"numpy": "1.26.4"}, cv_bridge=True) == []
    (found,) = host.clashes({"numpy": "2.0.1"}, cv_bridge=True)
    assert "cv_bridge" in found.detail and found.remedy == 'pip install "numpy<2"'


def test_a_gpu_is_found_by_the_drivers_own_tool(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA Test 9000, 555.42, 8192 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (gpu,) = [finding for finding in host.examine() if finding.name == "GPU"]
    assert gpu.state == "ok" and "NVIDIA Test 9000" in gpu.detail
    tool.write_text("#!/bin/sh\nexit 9\n")
    (gpu,) = [finding for finding in host.examine() if finding.name == "GPU"]
    assert gpu.state == "note" and "driver" in gpu.remedy


def test_missing_packages_are_problems_with_the_command(monkeypatch):
    monkeypatch.setitem(host.REQUIRED, "nosuchpackage", ("nosuchpackage", "testing"))
    (found,) = [finding for finding in host.examine() if finding.name == "nosuchpackage"]
    assert found.state == "problem" and "requirements/run.txt" in found.remedy


@pytest.fixture
def open_bundle() -> Path:
    return OPEN


def no_network(*_, **__):
    raise AssertionError("the doctor opened a connection")


def test_the_shipped_bundle_runs_without_a_network(open_bundle, tmp_path, monkeypatch):
    monkeypatch.delenv("OFER_BUNDLE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    result = CliRunner().invoke(app, ["doctor", "--json", str(tmp_path / "report.json")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["runs"] is True and "can run here" in report["verdict"]
    assert report["bundles"][0]["commercial_use"] is True
    assert {finding["name"] for finding in report["machine"]} >= {"Python", "ROS 2", "GPU", "TensorRT", "ONNX Runtime"}


def test_the_exit_code_is_one_for_a_bundle_that_cannot_run(open_bundle, tmp_path):
    folder = tmp_path / "open"
    shutil.copytree(open_bundle, folder)
    stage = next(folder.glob("expgen_step.onnx"))
    stage.write_bytes(stage.read_bytes()[:-100])
    result = CliRunner().invoke(app, ["doctor", "--bundle", str(folder)])
    assert result.exit_code == 1
    assert "expgen_step.onnxisdamagedorchanged" in "".join(result.output.split())


def test_the_report_is_one_screen(open_bundle, capsys):
    show(examine(open_bundle))
    assert 8 <= len(capsys.readouterr().out.splitlines()) <= 40
