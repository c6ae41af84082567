"""`ofer build` with the real TensorRT-RTX, which builds without a GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from ofer_models.bundle.graphs import all_graphs, graph_specs
from ofer_models.bundle.manifest import Bundle
from ofer_models.bundle.tensors import GraphSpec, StageError
from ofer_models.runtime import engine_cache
from ofer_models.runtime.mixed_precision import half_products
from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.runtime.stored_weights import unpacked
from ofer_models.runtime.tensorrt import cuda_driver
from ofer_models.runtime.torch.backend import TorchStage
from ofer_models.workshop.compile import build, tensorrt_builder
from ofer_models.workshop.compile.build import Order
from ofer_models.workshop.compile.tensorrt_graph import simplified

ROOT = Path(__file__).resolve().parents[1]
HAS_TENSORRT = importlib.util.find_spec("tensorrt_rtx") is not None
with_tensorrt = [
    pytest.mark.build,
    pytest.mark.skipif(not HAS_TENSORRT, reason="tensorrt_rtx is not installed (requirements/test.txt)"),
]


@pytest.fixture()
def bundle(open_bundle, tmp_path):
    """A copy of the open bundle without engines."""
    ignored = shutil.ignore_patterns("*.engine*")
    return Bundle.load(shutil.copytree(open_bundle.path, tmp_path / "open", ignore=ignored))


def run(*arguments, code=0):
    result = subprocess.run(
        [sys.executable, "-m", "ofer_models.cli", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
        check=False, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def check_bindings(bundle, stage, entry):
    """An engine's tensors are the manifest's: names, ranks, fixed sizes."""
    graph = all_graphs(bundle.stages[stage])[entry.key.graph]
    free = {
        kind: {name: [size if size >= 0 else "free" for size in shape] for name, shape in tensors.items()}
        for kind, tensors in entry.bindings.items()
    }
    graph.compare(entry.path.name, free["inputs"], free["outputs"])


class TestOneStage:
    pytestmark = with_tensorrt

    def test_the_command_builds_lists_and_reuses(self, bundle, tmp_path):
        report = tmp_path / "report.json"
        arguments = ("build", "--bundle", bundle.path, "--stage", "idrank", "--gpu", "sm86,sm120", "--json", report)
        run(*arguments)
        [first] = json.loads(report.read_text())["engines"]
        [entry] = engine_cache.entries(bundle.path)
        assert first["graph"] == "idrank.onnx" and first["seconds"] > 0 and first["bytes"] > 1e5
        assert entry.key.gpus == ("sm120", "sm86") and entry.key.precision == "fp16"
        assert dict(entry.key.profile) == {"F": (1, 8, 8), "N": (1, bundle.candidates, 512)}
        assert entry.refuse(bundle.stages["idrank"].files["graph"]) == ""
        check_bindings(bundle, "idrank", entry)
        before = entry.path.stat().st_mtime_ns
        run(*arguments)
        assert json.loads(report.read_text())["engines"][0]["seconds"] == 0
        assert entry.path.stat().st_mtime_ns == before
        assert entry.path.name in run("build", "--bundle", bundle.path, "--list")
        assert {p.suffix for p in bundle.path.iterdir()} == {".onnx", ".npz", ".yaml", ".engine", ".json"}
        bundle.stages["idrank"].files["graph"].write_bytes(b"retrained")
        assert "is stale: it was built from another idrank.onnx" in entry.refuse(bundle.stages["idrank"].files["graph"])

    @pytest.mark.parametrize("batch", ["1..1", "3..3"])
    def test_one_number_of_faces(self, bundle, batch):
        order = Order(bundle, faces=build.parse_faces(batch), gpus=("sm86",), stages=("idrank",))
        [built] = build.build(order)
        assert built.path.is_file()

    def test_a_step_has_few_layers(self, bundle):
        """Of the network, before TensorRT fuses: 842 as the parser makes them of the bundle's own file."""
        built = build.build(Order(bundle, gpus=("sm86", "sm89", "sm120"), stages=("expgen",)))
        layers = {one.graph: one.layers for one in built}
        assert layers["expgen_step.onnx"] <= 670 and layers["expgen_cond.onnx"] <= 45

    def test_progress_comes_from_inside_the_build(self, bundle):
        told = []
        build.build(Order(bundle, gpus=("sm86",), stages=("idrank",)), lambda *line: told.append(line))
        assert {graph for graph, _, _ in told} == {"idrank.onnx"} and told[-1][2] == 1.0
        assert any("Building engine" in doing for _, doing, _ in told)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"inputs": {"betas": ("F", "N", 9), "context": ("F", 256)}}, r"idrank\.onnx: input 'betas'"),
            ({"inputs": {"betas": ("F", "N", 132)}}, "unknown context"),
            ({"outputs": {"scores": ("F", "N")}}, "missing scores; unknown score"),
        ],
    )
    def test_a_graph_with_a_wrong_input_is_refused_by_name(self, bundle, changes, said):
        stage = bundle.stages["idrank"]
        changed = dataclasses.replace(bundle, stages=bundle.stages | {"idrank": dataclasses.replace(stage, **changes)})
        with pytest.raises(StageError, match=said) as refused:
            build.build(Order(changed, gpus=("sm86",), stages=("idrank",)))
        assert "\n" not in str(refused.value)
        assert engine_cache.entries(bundle.path) == []

    def test_a_file_that_is_no_graph_and_a_gpu_that_is_not_known(self, bundle):
        with pytest.raises(StageError, match="does not build for sm90, only for sm75"):
            build.build(Order(bundle, gpus=("sm90",), stages=("idrank",)))
        bundle.stages["idrank"].files["graph"].write_bytes(b"no graph")
        with pytest.raises(StageError, match=r"idrank\.onnx: TensorRT cannot parse it"):
            build.build(Order(bundle, precision="fp32", gpus=("sm86",), stages=("idrank",)))

    def test_where_there_is_no_gpu_current_is_refused(self, bundle):
        from ofer_models.runtime.tensorrt.cuda_driver import gpu_present

        if gpu_present():
            pytest.skip("there is a GPU")
        assert "no NVIDIA GPU here: use --gpu sm86" in run("build", "--bundle", bundle.path, code=1)


def test_orders_that_make_no_sense_are_refused(bundle):
    assert build.parse_faces("2..4") == (2, 4) and build.parse_faces("8") == (1, 8)
    for text in ("0..4", "4..2", "a", "1..", "1..65"):
        with pytest.raises(StageError, match="no range of faces"):
            build.parse_faces(text)
    with pytest.raises(StageError, match="unknown precision 'int4'"):
        build.build(Order(bundle, precision="int4"))
    with pytest.raises(StageError, match="no stage expgan; there are identity_context"):
        build.build(Order(bundle, stages=("expgan",)))


def test_half_precision_is_close_where_it_is_used_and_absent_where_it_hurts(open_bundle, tmp_path):
    """The typed graphs, evaluated in torch, against the same graphs in float32."""
    rng = np.random.default_rng(0)
    for stage in open_bundle.stages.values():
        for part, graph in graph_specs(stage).items():
            typed = half_products(onnx.load(graph.path))
            onnx.checker.check_model(typed, full_check=True)
            onnx.save(typed, tmp_path / graph.path.name)
            full = TorchStage(graph)
            half = TorchStage(GraphSpec(tmp_path / graph.path.name, graph.inputs, graph.outputs))
            sizes = {"F": 2, "N": 5, "K": 4}
            arrays = {
                name: rng.standard_normal([sizes.get(d, d) for d in dims]).astype(np.float32)
                for name, dims in full.inputs.items()
            }
            if part == "cond":
                arrays["timesteps"] = np.array([999, 500, 30, 0], np.float32)
            if part == "step":  # x0 is then the predicted noise itself
                arrays["coefficients"] = np.array([0, -1, 0, 1, 0], np.float32)
            expected, found = full(**arrays), half(**arrays)
            for name, array in expected.items():
                difference = np.abs(found[name] - array).max() / np.abs(array).max()
                assert 0 < difference < 3e-3, (graph.path.name, name, difference)
            kinds = {}
            for value in onnx.shape_inference.infer_shapes(typed).graph.value_info:
                kinds[value.name] = value.type.tensor_type.elem_type
            for node in typed.graph.node:
                halved = kinds.get(node.output[0]) == onnx.TensorProto.FLOAT16
                if node.op_type in ("LayerNormalization", "Softmax", "ReduceL2", "Div", "Sin", "Erf"):
                    assert not halved, (graph.path.name, node.op_type)
                if node.op_type == "Add":  # a product's bias, which a kernel adds before it writes; no residual sum
                    assert halved == adds_bias(typed, node), (graph.path.name, node.name)


def adds_bias(model, node):
    """Whether a node adds a stored tensor to the result of a halved product."""
    stored = {tensor.name for tensor in model.graph.initializer}
    products = [n.output[0] for n in model.graph.node if n.op_type in ("MatMul", "Gemm", "Conv")]
    products = {name for name in products if name.endswith("_half")}
    return any(name in products for name in node.input) and any(name in stored for name in node.input)


def test_fewer_layers_and_the_same_function(open_bundle, tmp_path):
    """Of both precisions, on ONNX Runtime: stored tensors are converted and brought to rank beforehand."""
    rng = np.random.default_rng(0)
    for stage in open_bundle.stages.values():
        for graph in graph_specs(stage).values():
            model = onnx.load(graph.path)
            simple = simplified(model)
            onnx.checker.check_model(simple, full_check=True)
            # A file that calculates in 8 bits is built from its floats: to those the function is the same.
            for name, made in (("simple.onnx", simple), ("plain.onnx", unpacked(model))):
                onnx.save(made, tmp_path / name)
            ours, expected = (OnnxStage(tmp_path / name) for name in ("simple.onnx", "plain.onnx"))
            assert (ours.inputs, ours.outputs) == (expected.inputs, expected.outputs)
            sizes = {"F": 2, "N": 5, "K": 4}
            arrays = {
                name: rng.standard_normal([sizes.get(d, d) for d in dims]).astype(np.float32)
                for name, dims in expected.inputs.items()
            }
            for name, array in expected(**arrays).items():
                np.testing.assert_allclose(ours(**arrays)[name], array, rtol=1e-4, atol=1e-5)
            stored = {tensor.name for tensor in simple.graph.initializer}
            assert not [node for node in simple.graph.node if node.op_type == "Cast" and node.input[0] in stored]


def test_a_profile_for_what_occurs_all_the_time_and_one_for_the_rest():
    sizes = {"F": (1, 8, 8), "N": (1, 15, 64), "K": (1, 8, 1000)}
    assert build.profiles_of(sizes) == [{"F": (1, 1, 1), "N": (1, 15, 15), "K": (1, 8, 8)}, sizes]
    assert build.profiles_of({"F": (2, 4, 4)}) == [{"F": (2, 2, 2)}, {"F": (2, 4, 4)}]
    assert build.profiles_of({"F": (3, 3, 3)}) == [{"F": (3, 3, 3)}]  # equal bounds are one profile, and a profile


class TestNativeTensorRt:
    """What only native TensorRT does, with a stand-in for its configuration."""

    @pytest.fixture()
    def native(self):
        class Cache:
            def __init__(self, content):
                self.entries = set(content.split())

            def combine(self, other, ignore_mismatch):
                self.entries |= other.entries

            def serialize(self):
                return b" ".join(sorted(self.entries))

        class Config:
            def create_timing_cache(self, content):
                return Cache(content)

            def set_timing_cache(self, cache, ignore_mismatch):
                self.cache = cache
                return True

            def get_timing_cache(self):
                return self.cache

        return SimpleNamespace(__name__="tensorrt", __version__="10.3.0"), Config

    def test_timing_caches_are_combined(self, native, tmp_path):
        """Two builds begin with the same cache, and each ends with kernels of its own."""
        trt, config = native
        path = tmp_path / ".timing"
        first, second = config(), config()
        with tensorrt_builder._timing_cache(trt, first, path):
            first.cache.entries.add(b"convolution")
            with tensorrt_builder._timing_cache(trt, second, path):
                second.cache.entries.add(b"product")
        assert path.read_bytes() == b"convolution product"

    def test_graphs_are_built_one_after_the_other(self, native, bundle):
        trt, _ = native
        assert build.jobs_of(Order(bundle, jobs=8), trt) == 1
        rtx = SimpleNamespace(__name__="tensorrt_rtx", ComputeCapability=SimpleNamespace(SM86=1, SM120=2))
        assert build.jobs_of(Order(bundle, jobs=8, gpus=("sm86",)), rtx) == 8
        assert build.jobs_of(Order(bundle, jobs=8, gpus=("current",)), rtx) == 1

    def test_two_commands_take_turns_on_a_gpu(self, native, monkeypatch, tmp_path):
        trt, _ = native
        monkeypatch.setattr(tensorrt_builder.tempfile, "gettempdir", lambda: str(tmp_path))
        order, started = [], threading.Event()

        def second():
            started.set()
            with tensorrt_builder._gpu_alone(trt, ["current"]):
                order.append("second")

        with tensorrt_builder._gpu_alone(trt, ["current"]):
            thread = threading.Thread(target=second)
            thread.start()
            started.wait()
            order.append("first")
        thread.join(300)
        assert order == ["first", "second"]

    def test_current_is_checked(self, native, monkeypatch):
        """A Jetson or a Hopper GPU with TensorRT-RTX, which knows neither."""
        rtx = SimpleNamespace(
            __name__="tensorrt_rtx", __version__="1.7.1", ComputeCapability=SimpleNamespace(SM86=1, SM120=2)
        )
        for capability, instead in (("sm87", "JetPack's `tensorrt`"), ("sm90", "NVIDIA's `tensorrt`")):
            monkeypatch.setattr(cuda_driver, "current_gpu", lambda found=capability: cuda_driver.Gpu("a GPU", found))
            with pytest.raises(StageError, match=f"does not build for {capability}.*takes {instead}"):
                build.filed_gpus(("current",), rtx)
            assert build.filed_gpus(("current",), native[0]) == (f"{capability} a GPU",)


def test_a_weight_beyond_half_precision_is_refused():
    from ofer_models.workshop.networks.onnx_graph import Graph

    g = Graph("large")
    g.linear(g.input("x", ("F", 2)), np.array([[1e5, 0], [0, 1]]), name="y")
    g.output("y", ("F", 2))
    with pytest.raises(ValueError, match="does not fit float16: build with --precision fp32"):
        half_products(g.model())


@pytest.mark.long
class TestEveryStage:
    pytestmark = with_tensorrt

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_of_the_open_bundle(self, bundle, precision):
        built = build.build(Order(bundle, precision, gpus=("sm86", "sm89", "sm120"), jobs=2))
        self.check(bundle, built, precision)

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_of_an_official_size_bundle(self, official_size, precision):
        started = time.monotonic()
        built = build.build(Order(official_size, precision, gpus=("sm86", "sm89", "sm120"), jobs=1))
        print({one.graph: (round(one.seconds, 1), round(one.size / 1e6, 1), one.layers) for one in built})
        self.check(official_size, built, precision)
        assert max(one.seconds for one in built) < 300 and time.monotonic() - started < 1500

    @staticmethod
    def check(bundle, built, precision):
        assert {one.graph for one in built} == build.graphs_of(bundle).keys()
        entries = {entry.path: entry for entry in engine_cache.entries(bundle.path)}
        for one in built:
            entry = entries[one.path]
            assert entry.key.precision == precision and entry.refuse(bundle.path / one.graph) == ""
            stage = next(name for name, spec in bundle.stages.items() if one.graph in all_graphs(spec))
            check_bindings(bundle, stage, entry)


@pytest.fixture(scope="module")
def official_size(tmp_path_factory, open_bundle):
    """Official dimensions with random weights, written as `ofer import` writes them."""
    from ofer_models.workshop.measure.speed.random_bundle import write_official_size

    return write_official_size(tmp_path_factory.mktemp("official"), open_bundle.path / "head.npz")
