"""Encoders in 8 bits for ONNX Runtime: from pictures, kept only where good and faster, used, refused when stale."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from ofer_models.bundle.manifest import Bundle, BundleError
from ofer_models.bundle.tensors import GraphSpec, StageError
from ofer_models.files.hashing import sha256_of
from ofer_models.runtime import engine_cache
from ofer_models.runtime.backend import open_backend
from ofer_models.runtime.engine_cache import Runtime
from ofer_models.runtime.onnxruntime_backend import OnnxRuntimeBackend, here, sums_exactly
from ofer_models.runtime.stages import StageSet
from ofer_models.workshop.compile import int8, quantize
from ofer_models.workshop.compile.quantize import Verdict, lost_variation

STAGE = "expression_context"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """One face under eight turns, sizes and lights."""
    from skimage.data import astronaut

    folder, rgb = tmp_path_factory.mktemp("pictures"), astronaut()[:320, 60:400]
    for i in range(int8.LEAST_FACES):
        turn = cv2.getRotationMatrix2D((164, 124), 6 * i - 20, 0.8 + 0.06 * i)
        turned = cv2.warpAffine(rgb, turn, rgb.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        light = np.clip(turned * (0.7 + 0.06 * i), 0, 255).astype(np.uint8)
        assert cv2.imwrite(str(folder / f"{i}.png"), cv2.cvtColor(light, cv2.COLOR_RGB2BGR))
    return folder


@pytest.fixture(scope="module")
def full_bundle(open_bundle, tmp_path_factory):
    """The open bundle with an encoder whose file holds float32 weights, as those of `ofer import` do."""
    folder = tmp_path_factory.mktemp("bundle") / "open"
    shutil.copytree(open_bundle.path, folder, ignore=shutil.ignore_patterns("*.engine*", "*.int8*"))
    path = folder / f"{STAGE}.onnx"
    model = onnx.load(path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in stored]
    for node in casts:
        weights = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, node.output[0]))
        model.graph.node.remove(node)
    before = sha256_of(path)
    onnx.save(model, path)
    manifest = folder / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace(before, sha256_of(path)))
    return Bundle.load(folder)


@pytest.fixture(scope="module")
def faces(full_bundle, pictures):
    return int8.find_faces(full_bundle, [str(pictures)], set(int8.encoder_graphs(full_bundle)[STAGE].inputs))


@pytest.fixture(scope="module")
def content(full_bundle, faces):
    """The quantized graph as a file's content."""
    return quantize.quantized(int8.encoder_graphs(full_bundle)[STAGE].path, faces[::2], sums_exactly())


@pytest.fixture()
def bundle(full_bundle, tmp_path):
    return Bundle.load(shutil.copytree(full_bundle.path, tmp_path / "open"))


@pytest.fixture()
def ready(bundle, content, faces, monkeypatch):
    """The bundle's quantized graph in its place, whatever its speed here and with faces of one person only."""
    monkeypatch.setattr(quantize, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(quantize, "MOST_LOST", 10.0)
    monkeypatch.setattr(int8, "find_faces", lambda *_: faces)
    monkeypatch.setattr(int8, "quantized", lambda *_: content)
    [built] = int8.build(bundle, [], [STAGE])
    assert built.path and built.verdict.refused == ""
    return built.path


def test_encoders_are_quantized_and_the_landmark_network_is_already(open_bundle):
    assert int8.encoder_graphs(open_bundle).keys() == {"identity_context", "expression_context"}
    landmarks = onnx.load(open_bundle.path / "landmarks.onnx")
    rounded = [node.input[0] for node in landmarks.graph.node if node.op_type == "DequantizeLinear"]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in landmarks.graph.initializer}
    weights = [stored[name] for name in rounded if name in stored and stored[name].dtype == np.int8]
    # Seven bits: on processors whose 8-bit sums saturate it says the same.
    assert len(weights) == 15 and all(np.abs(values.astype(int)).max() <= 64 for values in weights)


def retrained(path):
    model = onnx.load(path)
    model.doc_string = "of another day"
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("processor", "exact"),
    [("x86_64", False), ("x86_64 avx_vnni", True), ("x86_64 amx_int8 avx512_vnni", True), ("aarch64", True)],
)
def test_weights_have_a_bit_less_where_sums_saturate(full_bundle, faces, processor, exact):
    """An x86 processor without VNNI adds pairs of 8-bit products in 16 bits: full weights would be cut off."""
    assert sums_exactly(processor) == exact
    graph = int8.encoder_graphs(full_bundle)[STAGE].path
    model = onnx.load_from_string(quantize.quantized(graph, faces[:2], exact))
    weights = [
        numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8
    ]
    large = [int(np.abs(values.astype(int)).max()) for values in weights if values.ndim > 1]
    assert len(large) >= 8 and all(value <= 64 for value in large) != exact


def test_a_quantized_encoder_is_close_smaller_and_used(bundle, ready, faces):
    graph = int8.encoder_graphs(bundle)[STAGE]
    assert ready.stat().st_size < 0.6 * graph.path.stat().st_size
    stages = StageSet(bundle, backend="onnxruntime")
    assert stages.backend == "onnxruntime int8" and StageSet(bundle).backend == "onnxruntime int8"
    row = {name: faces[1][name] for name in graph.inputs}
    found, exact = stages.expression_context(**row)["context"], OnnxRuntimeBackend().load(graph)(**row)["context"]
    difference = np.abs(found - exact).max() / np.abs(exact).max()
    assert 0 < difference < 0.1
    batch = {name: np.concatenate([face[name] for face in faces[:3]]) for name in graph.inputs}
    np.testing.assert_allclose(
        stages.expression_context(**batch)["context"][1], found[0], atol=0.1 * np.abs(exact).max()
    )
    [entry] = engine_cache.entries(bundle.path)
    assert entry.refuse(graph.path, here()) == "" and entry.key.precision == "int8"
    assert list(entry.bindings["inputs"]) == list(graph.inputs)


def test_what_is_not_good_or_not_faster_is_not_kept(bundle, ready, monkeypatch):
    for limit, value, said in (("MOST_LOST", 0.0, "of what tells faces apart"), ("LEAST_GAIN", 1e6, "ms here, fp32")):
        with monkeypatch.context() as strict:
            strict.setattr(quantize, limit, value)
            [built] = int8.build(bundle, [], [STAGE])
            assert built.path is None and said in built.verdict.refused
        assert engine_cache.entries(bundle.path) == []  # nor is the earlier one
        assert StageSet(bundle).backend == "onnxruntime"
        assert int8.build(bundle, [], [STAGE])[0].path == ready


def test_the_bounds():
    good = {"lost": 0.01, "cosine": 1.0, "ms": 2.0, "ms_int8": 1.0}
    assert Verdict(**good).refused == ""
    for change in ({"lost": 0.03}, {"lost": float("nan")}, {"ms_int8": 1.9}):
        assert Verdict(**good | change).refused


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path, graph: retrained(graph), "is stale: it was built from another"),
        (lambda path, graph: path.write_bytes(path.read_bytes()[:1000]), "is cut short or changed"),
        (lambda path, graph: path.rename(path.with_name(f"{STAGE}.0123456789ab.int8")), "was renamed"),
    ],
)
def test_a_stale_truncated_or_renamed_one_is_refused(bundle, ready, spoil, said):
    graph = int8.encoder_graphs(bundle)[STAGE].path
    spoil(ready, graph)
    with pytest.raises(BundleError) as refused:
        StageSet(bundle, backend="onnxruntime")
    message = str(refused.value)
    assert said in message and f"run `ofer build --prune --bundle {bundle.path}` for fp32" in message
    assert message.endswith(f"--precision int8 --pictures FOLDER --bundle {bundle.path}`") and "\n" not in message
    removed = engine_cache.prune(bundle.path, {graph.name: graph}, [here()])
    assert {path.suffix for path in removed} == {".json", ".int8"} or said == "was renamed"
    if said.startswith("is stale"):  # the graph is not the one that was hashed when the bundle was loaded
        with pytest.raises(BundleError, match="changed while the bundle was being loaded"):
            StageSet(bundle, backend="onnxruntime")
    else:
        assert StageSet(bundle, backend="onnxruntime").backend == "onnxruntime"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "1.0"}, "is stale: built by onnxruntime .*, this machine has 1.0"),
        ({"gpus": ("z80",)}, "is foreign: built for .*, this processor is z80"),
    ],
)
def test_one_of_another_machine_is_refused_or_left_aside(bundle, ready, changes, said, monkeypatch, caplog):
    current = here()
    other = Runtime(**{"flavour": current.flavour, "version": current.version, "gpus": current.gpus} | changes)
    monkeypatch.setattr("ofer_models.runtime.onnxruntime_backend.here", lambda: other)
    with pytest.raises(BundleError, match=said):
        StageSet(bundle, backend="onnxruntime")
    assert StageSet(bundle).backend == "onnxruntime", "auto goes on in fp32"
    (warning,) = caplog.messages
    assert warning.startswith(f"{STAGE}.onnx in fp32 meanwhile: ") and re.search(said, warning)


def _recorded(path: Path, graph: Path, content: bytes) -> None:
    """A quantized graph with a record that fits it, whatever is in it."""
    key = dataclasses.replace(engine_cache.entries(path.parent)[0].key, graph_sha256=sha256_of(graph))
    path.unlink()
    engine_cache.write(path.parent, key, content, {"inputs": {}, "outputs": {}}, 1.0)


def _of_another_shape(path: Path, graph: Path) -> None:
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[-1].dim_value = 7
    _recorded(path, graph, model.SerializeToString())


def _of_another_onnxruntime(path: Path, graph: Path) -> None:
    model = onnx.load(path)
    model.graph.node[0].domain, model.graph.node[0].op_type = "com.microsoft", "QNothingThatIsKnownHere"
    _recorded(path, graph, model.SerializeToString())


def _weights_elsewhere(path: Path, graph: Path) -> None:
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    _recorded(path, graph, path.read_bytes())


def _a_link_to_nowhere(path: Path, graph: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _a_folder(path: Path, graph: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(_of_another_shape, "the manifest says", id="another-shape"),
        pytest.param(_of_another_onnxruntime, "ONNX Runtime cannot load it", id="unknown-operator"),
        pytest.param(lambda path, graph: _recorded(path, graph, b"no graph at all"), "int8 ", id="no-graph"),
        pytest.param(lambda path, graph: _recorded(path, graph, b""), "int8 is empty", id="empty"),
        pytest.param(_weights_elsewhere, "takes weights from", id="weights-elsewhere"),
        pytest.param(_a_link_to_nowhere, "is no file", id="link"),
        pytest.param(_a_folder, "is no file", id="folder"),
        pytest.param(lambda path, graph: path.with_name(f"{path.name}.json").write_text("{"), "record", id="record"),
    ],
)
def test_one_that_cannot_be_used_is_refused_where_it_was_asked_for_and_left_aside_by_auto(
    bundle, ready, spoil, said, caplog
):
    spoil(ready, int8.encoder_graphs(bundle)[STAGE].path)
    with pytest.raises(BundleError, match=said) as refused:
        StageSet(bundle, backend="onnxruntime")
    assert "\n" not in str(refused.value)
    assert StageSet(bundle).backend == "onnxruntime", "auto goes on in fp32"
    (warning,) = caplog.messages
    assert warning.startswith(f"{STAGE}.onnx in fp32 meanwhile: ") and "\n" not in warning


def test_tensorrt_and_other_providers_do_not_mind_it(bundle, ready, monkeypatch):
    graph = int8.encoder_graphs(bundle)[STAGE]
    with pytest.raises(StageError, match="has no engine for sm86"):
        engine_cache.find(bundle.path, graph.path, Runtime("tensorrt_rtx", "1", ("sm86",)), "ofer build")
    monkeypatch.setattr("ofer_models.runtime.tensorrt.api.installed", lambda: "tensorrt_rtx")
    monkeypatch.setattr("ofer_models.runtime.tensorrt.cuda_driver.gpu_present", lambda: True)
    assert open_backend("auto", bundle).name == "onnxruntime"
    both = ("OpenVINOExecutionProvider", "CPUExecutionProvider")
    backend = OnnxRuntimeBackend(1, both, int8_from=bundle.path)
    assert backend._int8_from is None


def test_the_bench_times_it_beside_fp32(bundle, ready, full_bundle, monkeypatch):
    from ofer_models.workshop.measure.speed import bench

    assert "onnxruntime int8" not in {runtime.name for runtime in bench.runtimes(full_bundle)}
    chosen = [runtime for runtime in bench.runtimes(bundle) if runtime.name.startswith("onnxruntime")]
    monkeypatch.setattr(bench, "runtimes", lambda bundle: [dataclasses.replace(r, threads=(1,)) for r in chosen])
    *_, figures = bench.stages(bundle, 3, say=lambda line: None)
    assert figures["stages"][STAGE].keys() == {"onnxruntime", "onnxruntime int8"}
    assert figures["differences"]["onnxruntime int8"][STAGE] > 1e-3
    assert figures["differences"]["onnxruntime int8"]["identity_context"] == 0


def test_what_a_face_loses_is_measured_encoder_by_encoder(open_bundle, tmp_path, faces):
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((50, 40)) + 10
    assert lost_variation(expected, expected) == 0
    assert lost_variation(expected, np.full_like(expected, 10)) == pytest.approx(1, rel=0.1)
    assert lost_variation(expected, expected + 0.1 * rng.standard_normal((50, 40))) == pytest.approx(0.01, rel=0.2)
    # A graph that joins a large and a small encoder; noise in the small one must show.
    from ofer_models.workshop.networks.onnx_graph import Graph, save_model

    paths = []
    for noise in (0.0, 1.0):
        g = Graph("joined")
        x = g.input("x", ("F", 3))
        weights = rng.standard_normal((2, 4, 3)) if not paths else weights  # noqa: F821
        large = g.linear(x, 100 * weights[0])
        small = g.linear(x, weights[1] + noise * np.random.default_rng(1).standard_normal((4, 3)))
        g.op("Concat", large, small, name="context", axis=-1)
        g.output("context", ("F", 8))
        paths.append(tmp_path / f"{noise}.onnx")
        save_model(g.model(), paths[-1])
    rows = [{"x": rng.standard_normal((1, 3)).astype(np.float32)} for _ in range(6)]
    verdict = quantize.judge(GraphSpec(paths[0]), GraphSpec(paths[1]), rows)
    assert verdict.lost > 0.3 and verdict.cosine > 0.999


def test_bad_orders_are_refused_in_one_line(bundle, pictures, tmp_path):
    with pytest.raises(StageError, match="no encoder idgen; int8 is for identity_context"):
        int8.build(bundle, [str(pictures)], ["idgen"])
    with pytest.raises(StageError, match="8 faces or more, of several people: 1 found in 1 pictures"):
        int8.build(bundle, [str(pictures / "3.png")])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(StageError, match=r"broken\.png: not a picture"):
        int8.build(bundle, [str(tmp_path / "broken.png")])
    with pytest.raises(StageError, match="does not exist"):
        int8.build(bundle, [str(tmp_path / "gone")])
    (tmp_path / "no.onnx").write_bytes(b"no graph")
    with pytest.raises(StageError, match=r"no\.onnx: cannot be read as ONNX"):
        quantize.quantized(tmp_path / "no.onnx", [])


def test_the_command_tells_what_is_kept(bundle, pictures, tmp_path):
    from ofer_models.cli.main import app

    report = tmp_path / "report.json"
    arguments = ["build", "--bundle", str(bundle.path), "--backend", "onnxruntime", "--precision", "int8"]
    result = CliRunner().invoke(
        app, [*arguments, "--pictures", str(pictures), "--stage", STAGE, "--json", str(report)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    [row] = json.loads(report.read_text())["engines"]
    assert row["graph"] == f"{STAGE}.onnx" and row["ms"] > 0 and row["lost"] > 0
    stored = [entry.path.name for entry in engine_cache.entries(bundle.path)]
    assert stored == ([row["engine"]] if row["engine"] else [])
    assert ("stays in fp32" in result.output) == (row["engine"] is None)
