"""The fused graphs against the torch networks, for every batch shape that occurs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recipe import recipe_state, relative_error

from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.export import export_rank, export_sampler, rank_model
from ofer_models.workshop.networks.rank import PosteriorRank, RankNetwork

torch.set_num_threads(1)
TOLERANCE = 1e-4
SIZES = {
    "official IdGen": (300, (300, 50, 10), 512),
    "official ExpGen": (53, (53, 25, 10), 1024),
    "open ExpGen": (53, (53, 25, 10), 256),
}


def recipe_denoiser(size: str) -> Denoiser:
    net = Denoiser(*SIZES[size]).eval()
    net.load_official(recipe_state(net.official_slots(), seed=21))
    return net


@pytest.fixture(scope="module", params=SIZES)
def sampler(request, tmp_path_factory):
    net = recipe_denoiser(request.param)
    files = export_sampler(net, tmp_path_factory.mktemp("graphs"), "stage")
    return net, OnnxStage(files["cond"]), OnnxStage(files["step"])


@pytest.mark.parametrize(("faces", "samples", "steps"), [(1, 1, 1), (1, 15, 10), (2, 7, 3), (8, 1, 20), (3, 100, 4)])
def test_both_graphs_equal_the_network(sampler, faces, samples, steps):
    net, cond, step = sampler
    generator = torch.Generator().manual_seed(faces * samples)
    context = torch.randn(faces, net.n_context, generator=generator)
    x = torch.randn(faces, samples, net.n_coefficients, generator=generator)
    x0_prev = torch.randn(x.shape, generator=generator)
    t = torch.linspace(999, -1, steps).round() if steps > 1 else torch.tensor([500.0])
    modulation = cond(context=context.numpy(), timesteps=t.numpy())["modulation"]
    width = sum(net.modulation_sizes)
    assert modulation.shape == (steps, faces, width + -width % 64)  # rows of 256 bytes
    c = np.array([1.3, 0.4, 0.9, 0.2, -0.1], np.float32)
    for k in {0, steps - 1}:
        got = step(x=x.numpy(), x0_prev=x0_prev.numpy(), modulation=modulation[k], coefficients=c)
        with torch.no_grad():
            x0 = c[0] * x - c[1] * net.denoise(x, net.modulation(context, t)[:, k])
        assert relative_error(got["x0"], x0) <= TOLERANCE
        assert relative_error(got["x_next"], c[2] * x + c[3] * x0 + c[4] * x0_prev) <= TOLERANCE


def test_a_zero_vector_stays_finite(sampler):
    net, cond, step = sampler
    modulation = cond(context=np.zeros((1, net.n_context), np.float32), timesteps=np.zeros(1, np.float32))["modulation"]
    zero = np.zeros((1, 2, net.n_coefficients), np.float32)
    got = step(x=zero, x0_prev=zero, modulation=modulation[0], coefficients=np.ones(5, np.float32))
    assert np.isfinite(got["x_next"]).all()


def test_export_twice_gives_the_same_bytes(tmp_path):
    net = recipe_denoiser("open ExpGen")
    first, second = (export_sampler(net, tmp_path, name) for name in ("a", "b"))
    assert all(first[part].read_bytes() == second[part].read_bytes() for part in first)


@pytest.mark.parametrize(("faces", "candidates"), [(1, 1), (1, 100), (8, 3), (4, 20)])
def test_the_rank_graph_equals_the_network_on_meshes(tmp_path, faces, candidates):
    generator = torch.Generator().manual_seed(3)
    net = RankNetwork(60, 48, widths=(128, 64, 32, 1)).eval()
    net.load_official(recipe_state(net.official_slots(), seed=8))
    template = torch.randn(60, 3, generator=generator) * 0.1
    directions = torch.randn(60, 3, 20, generator=generator) * 0.003
    export_rank(net.fold(template, directions), tmp_path / "rank.onnx")
    stage = OnnxStage(tmp_path / "rank.onnx")
    assert stage.inputs == {"betas": ("F", "N", 20), "context": ("F", 48)} and stage.outputs == {"score": ("F", "N")}
    betas = torch.randn(faces, candidates, 20, generator=generator)
    context = torch.randn(faces, 48, generator=generator)
    with torch.no_grad():
        expected = net(1000 * (template + torch.einsum("vxs,fns->fnvx", directions, betas)), context)
    assert relative_error(stage(betas=betas.numpy(), context=context.numpy())["score"], expected) <= TOLERANCE


def test_the_single_row_quirk_has_no_graph():
    net = RankNetwork(4, 8, widths=(16, 1), single_row_quirk=True)
    with pytest.raises(ValueError, match="single candidate"):
        rank_model(net.fold(torch.zeros(4, 3), torch.zeros(4, 3, 5)))


def test_the_posterior_rank_graph_equals_the_network(tmp_path):
    torch.manual_seed(0)
    net = PosteriorRank(torch.randn(6, 4), 5, width=8).eval()
    export_rank(net, tmp_path / "rank.onnx")
    betas, context = torch.randn(3, 9, 6), torch.randn(3, 5)
    score = OnnxStage(tmp_path / "rank.onnx")(betas=betas.numpy(), context=context.numpy())["score"]
    with torch.no_grad():
        np.testing.assert_allclose(score, net(betas, context).numpy(), rtol=1e-4, atol=1e-4)
