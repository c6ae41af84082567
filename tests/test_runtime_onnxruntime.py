"""The ONNX Runtime stage: what it refuses and how it says so."""

from __future__ import annotations

import gc
import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ofer_models.bundle.graphs import graph_specs
from ofer_models.bundle.tensors import ANY, GraphSpec
from ofer_models.runtime import engine_cache, onnxruntime_backend
from ofer_models.runtime.memory import resident_megabytes
from ofer_models.runtime.onnxruntime_backend import (
    CPU,
    CUDA,
    OnnxDeviceSampler,
    OnnxRuntimeBackend,
    OnnxStage,
    StageError,
)
from ofer_models.runtime.sampler import Sampler
from ofer_models.runtime.solvers import solver_table
from ofer_models.workshop.networks.onnx_graph import Graph, save_model
from ofer_ros.base.heap import give_memory_back

SHAPES = {"x": ("F", "N", 4), "offset": ("F", 4)}


@pytest.fixture()
def path(tmp_path):
    g = Graph("toy")
    x, offset = g.input("x", SHAPES["x"]), g.input("offset", SHAPES["offset"])
    g.op("Add", x, g.op("Unsqueeze", offset, g.constant([1])), name="y")
    g.output("y", ("F", "N", 4))
    save_model(g.model(), tmp_path / "toy.onnx")
    return tmp_path / "toy.onnx"


def arrays(faces=2, samples=3, width=4):
    return {"x": np.ones((faces, samples, width), np.float32), "offset": np.ones((2, 4), np.float32)}


def test_it_runs_and_tells_its_shapes(path):
    stage = OnnxStage(path, threads=1, inputs=SHAPES, outputs={"y": ("F", "N", 4)})
    assert stage.inputs == SHAPES and stage.outputs == {"y": ("F", "N", 4)}
    result = stage(**arrays())
    assert list(result) == ["y"]
    np.testing.assert_array_equal(result["y"], np.full((2, 3, 4), 2, np.float32))


def test_what_a_run_needs_is_kept_by_no_session(tmp_path):
    """96 MB of steps between input and output, of two sessions, go back to where the next session can have them."""
    g = Graph("wide")
    x = g.input("x", ("F", 1))
    wide = g.op("Expand", x, g.constant([1, 2**20]))
    g.op("ReduceSum", g.op("Mul", g.op("Sin", wide), g.op("Cos", wide)), g.constant([1]), name="y")
    g.output("y", ("F", 1))
    save_model(g.model(), tmp_path / "wide.onnx")
    stages = [OnnxStage(tmp_path / "wide.onnx") for _ in range(2)]
    for faces in (1, 2):  # the C library learns how large blocks are
        stages[0](x=np.ones((faces, 1), np.float32))
    give_memory_back()
    before = resident_megabytes()
    for faces in (8, 7, 6):
        for stage in stages:
            stage(x=np.ones((faces, 1), np.float32))
    give_memory_back()
    assert resident_megabytes() - before < 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("offset"), "missing offset"),
        (lambda a: a.update(extra=a["x"]), "unknown extra"),
        (lambda a: a.update(x=a["x"].astype(np.float64)), "'x' is float64, should be float32"),
        (lambda a: a.update(x=a["x"][..., :3]), r"'x' is \(2, 3, 3\), should be \(F, N, 4\)"),
        (lambda a: a.update(x=a["x"][0]), r"'x' is \(3, 4\), should be \(F, N, 4\)"),
        (lambda a: a.update(offset=a["offset"][:1]), r"'offset' is \(1, 4\), should be \(F, 4\) \(F = 2"),
    ],
)
def test_a_wrong_call_names_the_tensor(path, change, message):
    given = arrays()
    change(given)
    with pytest.raises(StageError, match=message):
        OnnxStage(path)(**given)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"x": SHAPES["x"]}, None, "inputs do not match: unknown offset"),
        ({**SHAPES, "mask": ("F", 1)}, None, "inputs do not match: missing mask"),
        ({**SHAPES, "x": ("F", "N", 5)}, None, r"input 'x' is \(F, N, 4\), the manifest says \(F, N, 5\)"),
        ({**SHAPES, "x": (1, "N", 4)}, None, r"input 'x'"),
        (None, {"z": ("F", "N", 4)}, "outputs do not match: missing z; unknown y"),
        (None, {"y": ("F", 4)}, "output 'y'"),
    ],
)
def test_a_graph_that_differs_from_its_manifest_is_refused_at_load(path, inputs, outputs, message):
    with pytest.raises(StageError, match=message) as refused:
        OnnxStage(path, inputs=inputs, outputs=outputs)
    assert "\n" not in str(refused.value) and "toy.onnx" in str(refused.value)


def test_damaged_missing_and_integer_files_are_refused(path, tmp_path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StageError, match=r"toy\.onnx: ONNX Runtime cannot load it"):
        OnnxStage(path)
    with pytest.raises(StageError, match=r"gone\.onnx"):
        OnnxStage(tmp_path / "gone.onnx")
    node = helper.make_node("Identity", ["a"], ["b"])
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in "ab"]
    graph = helper.make_graph([node], "integers", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.raises(StageError, match="'a' is tensor"):
        OnnxStage(path)


def test_an_export_of_faces_before_steps_is_refused(open_bundle):
    """Rows of the older layout look alike, and would be read crosswise."""
    cond = graph_specs(open_bundle.stages["expgen"])["cond"]
    with pytest.raises(StageError, match=r"'modulation' is \(K, F, \d+\), the manifest says \(F, K, \*\)"):
        OnnxRuntimeBackend().load(GraphSpec(cond.path, cond.inputs, {"modulation": ("F", "K", ANY)}))


class TestOnADevice:
    """What runs where a GPU's provider is there, with the host as the device: the calls and their memory are real."""

    @pytest.fixture()
    def stages(self, open_bundle):
        return [OnnxRuntimeBackend().load(graph) for graph in graph_specs(open_bundle.stages["expgen"]).values()]

    @pytest.mark.parametrize(("solver", "steps"), [("dpmpp_2m", 8), ("ddim", 3), ("ddpm", 4)])
    def test_the_loop_stays_there_and_gives_the_same(self, stages, solver, steps):
        rng, table = np.random.default_rng(0), solver_table(solver, steps)
        for faces in (1, 3):
            context = rng.standard_normal((faces, 256)).astype(np.float32)
            noise = rng.standard_normal((faces, 15, 53)).astype(np.float32)
            kept = noise.copy()
            expected = Sampler(*stages).sample(context, noise, table, np.random.default_rng(1))
            found = OnnxDeviceSampler(*stages).sample(context, noise, table, np.random.default_rng(1))
            gc.collect()
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(noise, kept)

    def test_no_step_goes_through_the_host(self, stages, monkeypatch):
        monkeypatch.setattr(OnnxStage, "__call__", lambda *_, **__: pytest.fail("through the host"))
        context, noise = np.zeros((1, 256), np.float32), np.zeros((1, 2, 53), np.float32)
        assert OnnxDeviceSampler(*stages).sample(context, noise, solver_table("ddim", 3)).shape == noise.shape

    def test_wrong_inputs_are_named(self, stages):
        sampler, table = OnnxDeviceSampler(*stages), solver_table("ddim", 3)
        with pytest.raises(StageError, match="'context' is"):
            sampler.sample(np.zeros((1, 9), np.float32), np.zeros((1, 2, 53), np.float32), table)
        with pytest.raises(StageError, match="noise is float64"):
            sampler.sample(np.zeros((1, 256), np.float32), np.zeros((1, 2, 53)), table)


class TestProviders:
    @pytest.fixture()
    def taken(self, monkeypatch):
        """A build of ONNX Runtime with CUDA. Put into the list: providers that really start."""
        taken = [CPU]
        real = onnxruntime_backend.onnxruntime.InferenceSession

        class Session(real):
            def __init__(self, path, options, providers):
                super().__init__(path, options, providers=[CPU])

            def get_providers(self):
                return taken

        monkeypatch.setattr(onnxruntime_backend.onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(onnxruntime_backend.onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        return taken

    def test_one_that_was_not_taken_is_told_once(self, open_bundle, taken, caplog):
        backend = OnnxRuntimeBackend()
        for graph in graph_specs(open_bundle.stages["expgen"]).values():
            backend.load(graph)
        [said] = [record.getMessage() for record in caplog.records]
        assert f"has {CUDA} but could not start it: networks run on {CPU}" in said
        assert backend.name == "onnxruntime" and not backend.captures
        graphs = graph_specs(open_bundle.stages["expgen"])
        assert type(backend.sampler(graphs["cond"], graphs["step"])) is Sampler

    def test_one_that_was_is_named_and_warmed_up(self, open_bundle, taken, caplog):
        taken.insert(0, CUDA)
        backend, graphs = OnnxRuntimeBackend(), graph_specs(open_bundle.stages["expgen"])
        assert type(backend.sampler(graphs["cond"], graphs["step"])) is OnnxDeviceSampler
        assert backend.name == "onnxruntime CUDA" and backend.captures and not caplog.records

    def test_int8_that_is_not_used_is_told(self, open_bundle, taken, monkeypatch, caplog):
        taken.insert(0, CUDA)
        monkeypatch.setattr(engine_cache, "entries", lambda folder, suffixes: [1])
        backend = OnnxRuntimeBackend(int8_from=open_bundle.path)
        with caplog.at_level(logging.INFO):
            for graph in graph_specs(open_bundle.stages["expgen"]).values():
                backend.load(graph)
        [said] = [record.getMessage() for record in caplog.records]
        assert "8-bit encoders" in said and "not used with CUDA" in said
