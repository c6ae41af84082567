"""Graphs against the torch network at every batch: 1 to 8 faces, 1 to 100 samples, random contexts.

A choice of them by default, all in official size and all of the open bundle with `-m long`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recipe import recipe_state, relative_error

from ofer_models.bundle.graphs import graph_specs
from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.runtime.torch.backend import TorchStage
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.export import export_rank, export_sampler
from ofer_models.workshop.networks.rank import RankNetwork

torch.set_num_threads(1)
TOLERANCE = 1e-4
FACES, SAMPLES = range(1, 9), range(1, 101)
EVERY = [(faces, samples) for faces in FACES for samples in SAMPLES]


def compare(sizes, tmp_path, batches):
    net = Denoiser(*sizes).eval()
    net.load_official(recipe_state(net.official_slots(), seed=8))
    files = export_sampler(net, tmp_path, "stage")
    cond, step = (OnnxStage(files[part]) for part in ("cond", "step"))
    generator = torch.Generator().manual_seed(2)
    coefficients = np.array([0, -1, 0, 1, 0], np.float32)  # x0 and x_next are the predicted noise
    for faces, samples in batches:
        x = torch.randn(faces, samples, net.n_coefficients, generator=generator)
        context = torch.randn(faces, net.n_context, generator=generator)
        t = torch.randint(0, 1000, (2,), generator=generator)
        with torch.no_grad():
            modulation = net.modulation(context, t)  # scale and shift; the graph folds the norms into its own
            expected = net.denoise(x, modulation[:, 1])
        ours = cond(context=context.numpy(), timesteps=t.float().numpy())["modulation"]
        got = step(x=x.numpy(), x0_prev=x.numpy(), modulation=ours[1], coefficients=coefficients)
        assert relative_error(got["x_next"], expected) <= TOLERANCE, (faces, samples)


def test_batches_of_a_smaller_network(tmp_path):
    counts = (1, 2, 3, 7, 15, 16, 33, 100)
    compare((53, (53, 25, 10), 64), tmp_path, [(faces, samples) for faces in FACES for samples in counts])


@pytest.mark.long
@pytest.mark.parametrize("sizes", [(53, (53, 25, 10), 1024), (300, (300, 50, 10), 512)], ids=["expgen", "idgen"])
def test_every_batch_of_official_size(tmp_path, sizes):
    compare(sizes, tmp_path, EVERY)


@pytest.mark.long
def test_every_batch_of_the_official_ranking(tmp_path):
    n_vertices, n_shape = 1785, 300
    net = RankNetwork(n_vertices).eval()
    net.load_official(recipe_state(net.official_slots(), seed=4))
    generator = torch.Generator().manual_seed(3)
    template, basis = (torch.randn(size, generator=generator) for size in ((n_vertices, 3), (n_vertices, 3, n_shape)))
    folded = net.fold(0.1 * template, 0.01 * basis).eval()
    export_rank(folded, tmp_path / "idrank.onnx")
    stage = OnnxStage(tmp_path / "idrank.onnx")
    for faces, samples in EVERY:
        betas = torch.randn(faces, samples, n_shape, generator=generator)
        context = torch.randn(faces, stage.inputs["context"][-1], generator=generator)
        with torch.no_grad():
            expected = folded(betas, context)
        found = stage(betas=betas.numpy(), context=context.numpy())["score"]
        assert relative_error(found, expected) <= TOLERANCE, (faces, samples)


@pytest.mark.long
def test_every_batch_of_the_official_encoders(tmp_path):
    from ofer_models.workshop.networks.arcface import ArcFace
    from ofer_models.workshop.networks.farl import Farl
    from ofer_models.workshop.networks.official_stages import JointContext
    from ofer_models.workshop.networks.trace import export_module

    torch.manual_seed(0)
    module = JointContext(ArcFace(), Farl()).eval()
    inputs = {"crop112_bgr": ("F", 3, 112, 112), "crop224": ("F", 3, 224, 224)}
    export_module(module, tmp_path / "context.onnx", inputs, ["context"])
    stage = OnnxStage(tmp_path / "context.onnx")
    for faces in FACES:
        arrays = {name: torch.rand(faces, *dims[1:]) * 2 - 1 for name, dims in inputs.items()}
        with torch.no_grad():
            expected = module(**arrays)
        found = stage(**{name: array.numpy() for name, array in arrays.items()})["context"]
        for part in (slice(0, 512), slice(512, None)):  # ArcFace's numbers are the smaller ones
            assert relative_error(found[:, part], expected[:, part]) <= TOLERANCE, faces


@pytest.mark.long
@pytest.mark.parametrize("name", ["identity_context", "idgen", "idrank", "expression_context", "expgen"])
def test_every_batch_of_the_open_bundle(open_bundle, name):
    """The shipped graphs, by two programs that share nothing but the file."""
    graphs = graph_specs(open_bundle.stages[name])
    graph = graphs.get("step") or graphs["graph"]
    ours, reference = OnnxStage(graph.path), TorchStage(graph)
    rng = np.random.default_rng(6)
    sampled = any("N" in dims for dims in ours.inputs.values())
    for faces, samples in EVERY if sampled else [(faces, 1) for faces in FACES]:
        sizes = {"F": faces, "N": samples}
        arrays = {
            tensor: rng.standard_normal([sizes.get(dim, dim) for dim in dims], dtype=np.float32)
            for tensor, dims in ours.inputs.items()
        }
        if "coefficients" in arrays:  # x0 and x_next are the predicted noise
            arrays["coefficients"] = np.array([0, -1, 0, 1, 0], np.float32)
        expected = reference(**arrays)
        for tensor, found in ours(**arrays).items():
            assert relative_error(found, expected[tensor]) <= TOLERANCE, (faces, samples, tensor)
