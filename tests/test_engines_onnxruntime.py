"""The ONNX Runtime stage: what it refuses and how it says so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ofer_models.runtime.onnxruntime_backend import OnnxStage, StageError
from ofer_models.workshop.networks.onnx_graph import Graph, save_model

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
