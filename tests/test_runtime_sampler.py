"""The sampler's loop against the torch network run through the same table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe import recipe_state, relative_error

from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.runtime.sampler import Sampler
from ofer_models.runtime.solvers import solver_table
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.export import export_sampler

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    net = Denoiser(53, (53, 25, 10), 64, time=128).eval()
    net.load_official(recipe_state(net.official_slots(), seed=33))
    with torch.no_grad():  # a trained network's output is about as large as the noise it predicts
        net.leave.weight *= 0.3
    files = export_sampler(net, tmp_path_factory.mktemp("sampler"), "expgen")
    return net, Sampler(OnnxStage(files["cond"]), OnnxStage(files["step"]))


@torch.no_grad()
def reference(net, context, noise, table, rng=None):
    """The same table, evaluated row by row with `Denoiser.forward`."""
    faces, samples, _ = noise.shape
    x, x0_prev = torch.from_numpy(noise).flatten(0, 1), torch.zeros(faces * samples, noise.shape[-1])
    rows = torch.from_numpy(context).repeat_interleave(samples, 0)
    for t, c, std in zip(table.timesteps, table.coefficients, table.noise_std, strict=True):
        x0 = c[0] * x - c[1] * net(x, torch.full((len(x),), int(t)), rows)
        x = c[2] * x + c[3] * x0 + c[4] * x0_prev
        if std > 0:
            x = x + std * torch.from_numpy(rng.standard_normal(noise.shape, dtype=np.float32)).flatten(0, 1)
        x0_prev = x0
    return x.view(noise.shape).float().numpy()


def inputs(faces, samples, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (faces, 64), (faces, samples, 53)
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


@pytest.mark.parametrize(
    ("solver", "steps", "spacing"),
    [("ddim", 10, "uniform"), ("dpmpp_2m", 3, "log_snr"), ("dpmpp_2m", 20, "log_snr"), ("ddpm", 30, "uniform")],
)
@pytest.mark.parametrize(("faces", "samples"), [(1, 15), (3, 4)])
def test_whole_samplers_equal_the_torch_reference(pair, solver, steps, spacing, faces, samples):
    net, sampler = pair
    table = solver_table(solver, steps, spacing)
    context, noise = inputs(faces, samples)
    got = sampler.sample(context, noise, table, np.random.default_rng(5))
    expected = reference(net, context, noise, table, np.random.default_rng(5))
    assert got.dtype == np.float32 and relative_error(got, expected) <= 1e-3


def test_faces_and_samples_do_not_influence_each_other(pair):
    _, sampler = pair
    table = solver_table("dpmpp_2m", 6, "log_snr")
    context, noise = inputs(4, 5)
    together = sampler.sample(context, noise, table)
    for face in range(4):
        alone = sampler.sample(context[face : face + 1], noise[face : face + 1, :2], table)
        assert relative_error(alone, together[face : face + 1, :2]) < 1e-4


def test_the_callers_noise_is_left_alone_and_decides_the_result(pair):
    _, sampler = pair
    context, noise = inputs(1, 3)
    kept = noise.copy()
    for solver in ("ddim", "ddpm"):
        table = solver_table(solver, 5)
        first, second = (sampler.sample(context, noise, table, np.random.default_rng(0)) for _ in range(2))
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(noise, kept)
    assert sampler.n_coefficients == 53


def test_a_stochastic_solver_without_a_generator_is_refused(pair):
    _, sampler = pair
    with pytest.raises(ValueError, match="pass rng"):
        sampler.sample(*inputs(1, 2), solver_table("ddpm", 5))


def test_run_time_does_not_import_torch():
    code = "import ofer_models.runtime.sampler, ofer_models.runtime.onnxruntime_backend as b, sys"
    code += "; sys.exit(bool({'torch', 'onnx', 'diffusers'} & sys.modules.keys()))"
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
