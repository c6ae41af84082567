"""Encoders traced to ONNX against the torch modules."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from recipe import recipe_state, relative_error

from ofer_models.bundle.tensors import GraphSpec
from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.runtime.stored_weights import unpacked
from ofer_models.runtime.torch.backend import TorchStage
from ofer_models.workshop.compile.quantize import quantized
from ofer_models.workshop.compile.tensorrt_graph import simplified
from ofer_models.workshop.networks import trace
from ofer_models.workshop.networks.arcface import ArcFace
from ofer_models.workshop.networks.farl import Farl
from ofer_models.workshop.networks.official_stages import IdentityContext, JointContext, RankWithEncoders
from ofer_models.workshop.networks.onnx_graph import store_bytes
from ofer_models.workshop.networks.rank import RankNetwork
from ofer_models.workshop.networks.trace import export_module

torch.set_num_threads(1)
CROP112, CROP224 = ("F", 3, 32, 32), ("F", 3, 24, 24)


def small_stage(kind: str):
    arcface = ArcFace((1, 2, 1, 1), (8, 8, 16, 16), size=32, features=12)
    farl = Farl(size=24, patch=8, width=24, layers=2, heads=4, features=10)
    rank = RankNetwork(20, 22, widths=(32, 16, 1))
    for net in (arcface, farl, rank):
        net.load_official(recipe_state(net.official_slots(), seed=6))
    joint = JointContext(arcface, farl)
    generator = torch.Generator().manual_seed(0)
    folded = rank.fold(torch.randn(20, 3, generator=generator), 0.01 * torch.randn(20, 3, 6, generator=generator))
    crops = {"crop112_bgr": CROP112, "crop224": CROP224}
    return {
        "identity_context": (IdentityContext(arcface), {"crop112_bgr": CROP112}),
        "expression_context": (joint, crops),
        "idrank": (RankWithEncoders(joint, folded), {"betas": ("F", "N", 6)} | crops),
    }[kind]


@pytest.mark.parametrize("kind", ["identity_context", "expression_context", "idrank"])
def test_traced_stages_equal_the_module_for_any_number_of_faces(tmp_path, kind):
    module, inputs = small_stage(kind)
    export_module(module, tmp_path / "stage.onnx", inputs, ["out"])
    stage = OnnxStage(tmp_path / "stage.onnx", inputs=inputs)
    for faces, samples in ((1, 1), (3, 5), (8, 2)):
        sizes = {"F": faces, "N": samples}
        arrays = {name: torch.randn([sizes.get(dim, dim) for dim in dims]) for name, dims in inputs.items()}
        with torch.no_grad():
            expected = module(**arrays)
        got = stage(**{name: array.numpy() for name, array in arrays.items()})["out"]
        assert relative_error(got, expected) <= 1e-4


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_a_gelu_is_halved_last_for_the_same_bits(tmp_path, monkeypatch, approximate):
    """That is one operator to ONNX Runtime; what is no such GELU stays as it is."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(40, 60), torch.nn.GELU(approximate), torch.nn.Linear(60, 8))
    files = {name: tmp_path / f"{name}.onnx" for name in ("first", "last")}
    export_module(module, files["last"], {"input": ("F", 40)}, ["out"])
    with monkeypatch.context() as patched:
        patched.setattr(trace, "halve_last", lambda model: None)
        export_module(module, files["first"], {"input": ("F", 40)}, ["out"])
    x = 3 * torch.randn(7, 40).numpy()
    first, last = (plain_session(file).run(None, {"input": x})[0] for file in files.values())
    np.testing.assert_array_equal(first, last)
    assert (files["first"].read_bytes() == files["last"].read_bytes()) == (approximate == "tanh")
    assert operators_run(files["last"], tmp_path)["Erf"] == 0
    assert (operators_run(files["last"], tmp_path)["Gelu"] == 1) == (approximate == "none")


@pytest.mark.parametrize("name", ["identity_context", "expression_context"])
def test_every_gelu_of_the_shipped_encoders_is_one_operator(open_bundle, tmp_path, name):
    path = open_bundle.stages[name].files["graph"]
    written = Counter(node.op_type for node in onnx.load(path).graph.node)["Erf"]
    found = operators_run(path, tmp_path)
    assert written >= 9 and found["Erf"] == 0 and found["Gelu"] + found["BiasGelu"] == written


def plain_session(path: Path) -> onnxruntime.InferenceSession:
    """Everything calculated as the file says."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def operators_run(path: Path, folder: Path) -> Counter[str]:
    """What ONNX Runtime makes of a graph for the CPU."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@pytest.fixture(scope="module")
def in_bytes(tmp_path_factory):
    """A convolution and a linear layer, exported with float32 weights and with bytes; and the module."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64 * 36, 32)
    )
    folder = tmp_path_factory.mktemp("bytes")
    for name in ("full", "bytes"):
        export_module(module, folder / f"{name}.onnx", {"input": ("F", 3, 8, 8)}, ["out"])
    store_bytes(folder / "bytes.onnx")
    return folder / "full.onnx", folder / "bytes.onnx", module


def test_weights_in_bytes_are_a_quarter_and_half_a_step_off_at_most(in_bytes):
    full, rounded, module = in_bytes
    assert rounded.stat().st_size < 0.27 * full.stat().st_size
    stored = {t.name: numpy_helper.to_array(t) for t in unpacked(onnx.load(rounded)).graph.initializer}
    for name in ("0.weight", "3.weight"):
        wanted = module.state_dict()[name].numpy()
        step = np.abs(wanted).reshape(len(wanted), -1).max(1).reshape(-1, *[1] * (wanted.ndim - 1)) / 127
        assert (np.abs(stored[name] - wanted) <= 0.501 * step).all()


def test_every_runtime_reads_weights_in_bytes(in_bytes, tmp_path):
    full, rounded, _ = in_bytes
    arrays = {"input": np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)}
    model = onnx.load(rounded)
    for name, folded in (("unpacked", unpacked(model)), ("simple", simplified(model))):
        assert not {"Cast", "Mul"} & {node.op_type for node in folded.graph.node}
        onnx.save(folded, tmp_path / f"{name}.onnx")
    expected = OnnxStage(rounded)(**arrays)["out"]
    assert 0 < relative_error(expected, OnnxStage(full)(**arrays)["out"]) < 1e-2
    stages = OnnxStage(tmp_path / "unpacked.onnx"), OnnxStage(tmp_path / "simple.onnx"), TorchStage(GraphSpec(rounded))
    for stage in stages:
        assert relative_error(stage(**arrays)["out"], expected) < 1e-5
    assert unpacked(onnx.load(full)) == onnx.load(full)


def test_what_calculates_in_8_bits_is_read_as_plain_floats(in_bytes, tmp_path):
    full, _, _ = in_bytes
    rows = [{"input": row[None]} for row in np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32)]
    path = tmp_path / "int8.onnx"
    path.write_bytes(quantized(full, rows, exact=False, kinds={"Conv"}))
    onnx.save(unpacked(onnx.load(path)), tmp_path / "plain.onnx")
    plain = onnx.load(tmp_path / "plain.onnx")
    assert [node.op_type for node in plain.graph.node] == ["Conv", "Relu", "Reshape", "Gemm"]
    expected = OnnxStage(full)(**rows[0])["out"]
    errors = {name: relative_error(OnnxStage(tmp_path / name)(**rows[0])["out"], expected) for name in
              ("int8.onnx", "plain.onnx")}  # fmt: skip
    assert 0 < errors["plain.onnx"] < errors["int8.onnx"] < 0.1
    assert relative_error(TorchStage(GraphSpec(path))(**rows[0])["out"], expected) < 1.01 * errors["plain.onnx"]


def test_export_twice_gives_the_same_bytes(tmp_path):
    module, inputs = small_stage("expression_context")
    for name in "ab":
        export_module(module, tmp_path / name, inputs, ["out"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert str(Path(__file__).parents[1]).encode() not in (tmp_path / "a").read_bytes()
