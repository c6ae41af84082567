"""The choice of a runtime, and what every runtime promises: refuse at load what the manifest does not say."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ofer_models.bundle.graphs import graph_specs
from ofer_models.bundle.manifest import BundleError
from ofer_models.bundle.tensors import StageError
from ofer_models.runtime.backend import BACKENDS, open_backend
from ofer_models.runtime.onnxruntime_backend import OnnxRuntimeBackend, preferred_providers
from ofer_models.runtime.stages import StageSet
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.export import export_sampler

ROOT = Path(__file__).resolve().parents[1]


def altered(bundle, stage, **changes):
    """The bundle with one stage's record changed, that of its distilled variant too."""
    spec = dataclasses.replace(bundle.stages[stage], **changes)
    if spec.distilled is not None:
        spec = dataclasses.replace(spec, distilled=dataclasses.replace(spec.distilled, **changes))
    stages = bundle.stages | {stage: spec}
    return dataclasses.replace(bundle, stages=stages)


def test_auto_is_onnxruntime_where_nothing_is_compiled(open_bundle):
    assert StageSet(open_bundle).backend == "onnxruntime"
    assert StageSet(open_bundle, backend="onnxruntime").backend == "onnxruntime"


def test_an_unknown_backend_is_refused_with_the_known_ones(open_bundle):
    with pytest.raises(BundleError, match="unknown backend 'openvino', use one of auto, tensorrt, onnxruntime, torch"):
        StageSet(open_bundle, backend="openvino")


def test_providers_are_taken_in_order_and_only_where_installed():
    assert preferred_providers(["AzureExecutionProvider", "CPUExecutionProvider"]) == ["CPUExecutionProvider"]
    both = ["CPUExecutionProvider", "CUDAExecutionProvider"]
    assert preferred_providers(both) == ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
@pytest.mark.parametrize(
    ("stage", "changes", "said"),
    [
        ("idrank", {"inputs": {"betas": ("F", "N", 7), "context": ("F", 256)}}, "idrank.onnx: input 'betas'"),
        ("expression_context", {"inputs": {"landmarks": ("F", 478, 6)}}, "unknown crop112"),
        ("identity_context", {"outputs": {"features": ("F", 256)}}, "missing features; unknown context"),
        ("expgen", {"inputs": {"context": ("F", 9), "noise": ("F", "N", 53)}}, "distilled_cond.onnx: input 'context'"),
        ("idgen", {"inputs": {"context": ("F", 256), "noise": ("F", "N", 9)}}, "idgen_distilled_step.onnx: input 'x'"),
    ],
)
def test_a_tensor_that_differs_from_the_manifest_is_named_at_load(open_bundle, name, stage, changes, said):
    with pytest.raises(BundleError, match=said) as refused:
        StageSet(altered(open_bundle, stage, **changes), backend=name)
    assert "\n" not in str(refused.value)


def test_graphs_of_two_networks_are_no_sampler(open_bundle, tmp_path):
    graphs = graph_specs(open_bundle.stages["expgen"])
    other = export_sampler(Denoiser(53, (20, 10), 256), tmp_path, "other")
    with pytest.raises(StageError, match="'modulation'"):
        OnnxRuntimeBackend().sampler(dataclasses.replace(graphs["cond"], path=other["cond"]), graphs["step"])


def test_torch_gives_what_onnxruntime_gives_at_every_stage(open_bundle):
    """Two programs that share nothing but the file: whole stages, samplers in full."""
    rng = np.random.default_rng(0)
    for stage in ("identity_context", "idrank", "expression_context"):
        spec = graph_specs(open_bundle.stages[stage])["graph"]
        ours, reference = OnnxRuntimeBackend().load(spec), open_backend("torch", open_bundle).load(spec)
        assert reference.inputs == ours.inputs and reference.outputs == ours.outputs
        for faces, samples in ((1, 1), (3, 5)):
            sizes = {"F": faces, "N": samples}
            arrays = {
                name: rng.standard_normal([sizes.get(d, d) for d in dims]).astype(np.float32)
                for name, dims in ours.inputs.items()
            }
            expected, found = reference(**arrays), ours(**arrays)
            for name, array in expected.items():
                assert np.abs(found[name] - array).max() <= 1e-4 * np.abs(array).max(), (stage, name)
    ours, reference = (StageSet(open_bundle, steps=5, backend=name) for name in ("onnxruntime", "torch"))
    for name in ("idgen", "expgen"):
        context = rng.standard_normal((2, 256)).astype(np.float32)
        noise = rng.standard_normal((2, 3, getattr(ours, name).n_coefficients)).astype(np.float32)
        expected, found = getattr(reference, name)(context, noise), getattr(ours, name)(context, noise)
        assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max(), name


def test_a_torch_stage_refuses_wrong_calls_and_unknown_operators(open_bundle, tmp_path):
    from ofer_models.bundle.tensors import GraphSpec
    from ofer_models.workshop.networks.onnx_graph import Graph, save_model

    backend = open_backend("torch", open_bundle)
    stage = backend.load(graph_specs(open_bundle.stages["idrank"])["graph"])
    with pytest.raises(StageError, match="missing betas"):
        stage(context=np.zeros((1, 256), np.float32))
    g = Graph("odd")
    g.op("Det", g.input("x", ("F", 2, 2)), name="y")
    g.output("y", ("F",))
    save_model(g.model(), tmp_path / "odd.onnx")
    with pytest.raises(StageError, match=r"odd\.onnx: .*Det"):
        backend.load(GraphSpec(tmp_path / "odd.onnx"))
    (tmp_path / "odd.onnx").write_bytes(b"no graph")
    with pytest.raises(StageError, match=r"odd\.onnx"):
        backend.load(GraphSpec(tmp_path / "odd.onnx"))


@pytest.mark.parametrize("name", ["auto", "onnxruntime"])
def test_the_default_imports_no_torch_and_no_tensorrt(open_bundle, name):
    code = (
        "import sys; from ofer_models.bundle.manifest import Bundle; from ofer_models.runtime.stages import StageSet;"
        f"StageSet(Bundle.load({str(open_bundle.path)!r}), backend={name!r});"
        "sys.exit(bool({'torch', 'onnx', 'tensorrt', 'tensorrt_rtx'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_name_is_known():
    assert BACKENDS == ("auto", "tensorrt", "onnxruntime", "torch")


def test_torch_knows_the_operators_of_the_official_encoders(tmp_path):
    """Small sizes of the same structures, exported as `ofer import` does."""
    import torch
    from official_inputs import SMALL

    from ofer_models.bundle.tensors import GraphSpec
    from ofer_models.runtime.torch.backend import TorchStage
    from ofer_models.workshop.networks.arcface import ArcFace
    from ofer_models.workshop.networks.farl import Farl
    from ofer_models.workshop.networks.official_stages import JointContext, RankWithEncoders
    from ofer_models.workshop.networks.rank import RankNetwork
    from ofer_models.workshop.networks.trace import export_module

    torch.manual_seed(0)
    sizes = SMALL.networks
    context = JointContext(ArcFace(**sizes.arcface), Farl(**sizes.farl)).eval()
    n_vertices, n_shape = sizes.rank["n_vertices"], sizes.idgen[0]
    rank = RankNetwork(**sizes.rank).eval()
    folded = rank.fold(torch.randn(n_vertices, 3), torch.randn(n_vertices, 3, n_shape))
    crops = {"crop112_bgr": ("F", 3, sizes.arcface["size"], sizes.arcface["size"]),
             "crop224": ("F", 3, sizes.farl["size"], sizes.farl["size"])}  # fmt: skip
    inputs = {"betas": ("F", "N", n_shape)} | crops
    module, path = RankWithEncoders(context, folded).eval(), tmp_path / "idrank.onnx"
    export_module(module, path, inputs, ["score"])
    generator = torch.Generator().manual_seed(1)
    arrays = {
        name: torch.randn([{"F": 2, "N": 5}.get(d, d) for d in dims], generator=generator)
        for name, dims in inputs.items()
    }
    with torch.no_grad():
        expected = module(**arrays).numpy()
    found = TorchStage(GraphSpec(path))(**{name: array.numpy() for name, array in arrays.items()})["score"]
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("caffe", [True, False])
def test_torch_knows_the_operators_of_regressors(caffe, tmp_path):
    """ResNets in both ways of striding and pooling, and the landmark network with a regressor upon it."""
    import torch

    from ofer_models.bundle.tensors import GraphSpec
    from ofer_models.runtime.torch.backend import TorchStage
    from ofer_models.workshop.networks.landmarks import LandmarkNetwork
    from ofer_models.workshop.networks.regressor import RegressorHead, RegressorNetwork
    from ofer_models.workshop.networks.resnet import ResNet50
    from ofer_models.workshop.networks.trace import export_module
    from ofer_models.workshop.train.eyes.stage import LandmarkStage

    torch.manual_seed(0)
    networks = {"resnet": (ResNet50(caffe, (1, 1)), 100)}
    if not caffe:
        landmarks = LandmarkNetwork()
        regressor = RegressorNetwork(landmarks, RegressorHead(np.zeros(9), np.ones(9)))
        networks |= {"landmarks": (LandmarkStage(landmarks), 128), "regressor": (regressor, 128)}
    for name, (network, side) in networks.items():
        path, crop = tmp_path / f"{name}.onnx", torch.randn(2, 3, side, side)
        with torch.no_grad():
            expected = network.eval()(crop)
        expected = expected if isinstance(expected, tuple) else (expected,)
        names = [f"out{number}" for number in range(len(expected))]
        (argument,) = list(inspect.signature(network.forward).parameters)
        export_module(network, path, {argument: ("F", 3, side, side)}, names)
        found = TorchStage(GraphSpec(path))(**{argument: crop.numpy()})
        for told, wanted in zip(names, expected, strict=True):
            assert np.abs(found[told] - wanted.numpy()).max() <= 1e-4 * np.abs(wanted.numpy()).max(), (name, told)
