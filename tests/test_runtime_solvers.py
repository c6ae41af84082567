"""The sampler tables: against the recorded release, against diffusers step by step, and on exactly known scores."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe import golden, relative_error

from ofer_models.runtime.schedule import NoiseSchedule
from ofer_models.runtime.solvers import solver_table

SCHEDULE = NoiseSchedule()
REPOSITORY = Path(__file__).resolve().parents[1]


def run_table(table, predict, x, noise=None):
    """Plain float64 interpreter of a table: predict(x, t) -> eps, noise yields each z. Yields x after each step."""
    noise = iter(noise if noise is not None else ())
    previous = np.zeros_like(x)
    for t, c, std in zip(table.timesteps, table.coefficients, table.noise_std, strict=True):
        x0 = c[0] * x - c[1] * predict(x, int(t))
        x = c[2] * x + c[3] * x0 + c[4] * previous
        if std > 0:
            x = x + std * next(noise)
        previous = x0
        yield x


@pytest.mark.parametrize("tag", ["ddim1000", "ddim1000_t", "ddim20_t", "ddpm20", "ddpm20_t", "ddpm1000_t"])
def test_the_recorded_sampling_loops(tag):
    arrays = golden("shared_sampler_analytic")
    case = {key.removeprefix(f"{tag}/"): value for key, value in arrays.items() if key.startswith(f"{tag}/")}
    steps, k = int(case["T"]), float(case["k"])
    solver = "released_ddim" if tag.startswith("ddim") else "ddpm"
    table = solver_table(solver, None if solver == "released_ddim" else steps, schedule=NoiseSchedule(steps))
    np.testing.assert_array_equal(table.timesteps, case["t_seen"])

    def predict(x, t):
        return 0.1 * x + arrays["c"] + k * t + 0.05 * arrays["ctx"]

    states = [case["x_T"].astype(np.float64), *run_table(table, predict, case["x_T"].astype(np.float64), case.get("z"))]
    assert relative_error(states[:-1], case["x_seen"]) <= 1e-4
    assert relative_error(states[-1], case["y"]) <= 1e-4
    assert int((table.noise_std > 0).sum()) == len(case.get("z", ()))


def a_network(x, t):
    """Some smooth, bounded, time-dependent predictor of noise."""
    return np.sin(1.7 * x + t / 300) + 0.3 * x


def diffusers_scheduler(solver: str, table):
    """diffusers' scheduler of the same name, set to the table's own timesteps."""
    diffusers = pytest.importorskip("diffusers")
    options = dict(beta_start=1e-4, beta_end=1e-2, beta_schedule="linear")
    timesteps = torch.from_numpy(table.timesteps.copy())
    if solver == "dpmpp_2m":
        scheduler = diffusers.DPMSolverMultistepScheduler(**options, final_sigmas_type="zero", lower_order_final=False)
        ratio = SCHEDULE.sigma[table.timesteps] / SCHEDULE.alpha[table.timesteps]
        scheduler.sigmas = torch.from_numpy(np.append(ratio, 0.0))
    elif solver == "ddim":
        scheduler = diffusers.DDIMScheduler(**options, clip_sample=False)
    else:
        scheduler = diffusers.DDPMScheduler(**options, clip_sample=False)
    scheduler.timesteps, scheduler.num_inference_steps = timesteps, len(timesteps)
    return scheduler


@pytest.mark.parametrize("spacing", ["uniform", "log_snr"])
@pytest.mark.parametrize("steps", [3, 6, 10, 20, 50, 333, 1000])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "ddpm"])
def test_every_step_equals_diffusers(solver, steps, spacing):
    table = solver_table(solver, steps, spacing)
    scheduler = diffusers_scheduler(solver, table)
    shape = (4, 5)
    generator, same = torch.Generator().manual_seed(steps), torch.Generator().manual_seed(steps)
    noise = (torch.randn(shape, dtype=torch.float64, generator=same).numpy() for _ in range(steps))
    x_T = np.random.default_rng(steps).standard_normal(shape)
    x = torch.from_numpy(x_T)
    gaps = -np.diff(table.timesteps, append=-1)
    for k, ours in enumerate(run_table(table, a_network, x_T, noise)):
        t = scheduler.timesteps[k]
        if solver == "ddim":  # this scheduler only knows even gaps, 1000 // num_inference_steps: set it for each step
            scheduler.num_inference_steps = Fraction(1000, int(gaps[k]))
        extra = {"generator": generator} if solver == "ddpm" else {}
        x = scheduler.step(torch.from_numpy(a_network(x.numpy(), int(t))), t, x, **extra).prev_sample
        # diffusers computes in float32, where 1 - alpha_bar near t = 0 has three digits.
        assert relative_error(ours, x) <= 2e-4, f"step {k}, t = {int(t)}"


def gaussian_noise_predictor(mean: float, std: float):
    """The exact E[eps | x_t] when x_0 ~ N(mean, std^2)."""

    def predict(x, t):
        alpha, sigma = SCHEDULE.alpha[t], SCHEDULE.sigma[t]
        return sigma * (x - alpha * mean) / ((alpha * std) ** 2 + sigma**2)

    return predict


def sample_gaussian(table, mean, std, count=20_000):
    rng = np.random.default_rng(7)
    x_T = rng.standard_normal(count)
    noise = (rng.standard_normal(count) for _ in table.timesteps)
    *_, x = run_table(table, gaussian_noise_predictor(mean, std), x_T, noise)
    return x


@pytest.mark.parametrize(
    ("solver", "steps", "spacing", "spread"),
    [
        ("ddpm", 1000, "uniform", 0.02),
        ("ddim", 1000, "uniform", 0.02),
        ("ddim", 100, "uniform", 0.05),
        ("ddim", 20, "log_snr", 0.12),
        ("dpmpp_2m", 6, "log_snr", 0.04),
        ("dpmpp_2m", 10, "log_snr", 0.04),
        ("dpmpp_2m", 20, "log_snr", 0.02),
    ],
)
def test_the_exact_score_of_a_gaussian_gives_its_mean_and_spread(solver, steps, spacing, spread):
    x = sample_gaussian(solver_table(solver, steps, spacing), mean=1.0, std=0.3)
    assert abs(x.mean() - 1) < 0.03
    assert abs(x.std() / 0.3 - 1) < spread


def test_few_uniform_ddim_steps_collapse_the_spread_and_log_snr_solver_steps_do_not():
    collapsed = sample_gaussian(solver_table("ddim", 6), mean=0.0, std=0.3).std()
    kept = sample_gaussian(solver_table("dpmpp_2m", 6, "log_snr"), mean=0.0, std=0.3).std()
    assert collapsed < 0.2 and abs(kept - 0.3) < 0.01


def test_the_released_sampler_keeps_its_known_bias():
    x = sample_gaussian(solver_table("released_ddim"), mean=1.0, std=0.5)
    assert abs(x.mean() - 0.32) < 0.02 and abs(x.std() - 0.84) < 0.02


@given(
    solver=st.sampled_from(["ddim", "dpmpp_2m", "ddpm"]),
    steps=st.integers(3, 1000),
    spacing=st.sampled_from(["uniform", "log_snr"]),
)
@settings(max_examples=60, deadline=None)
def test_tables_of_any_length_are_finite_and_end_at_the_clean_sample(solver, steps, spacing):
    table = solver_table(solver, steps, spacing)
    assert table.coefficients.shape == (steps, 5) and np.isfinite(table.coefficients).all()
    np.testing.assert_allclose(table.coefficients[-1, 2:], [0, 1, 0], atol=1e-12)
    assert table.noise_std[-1] == 0 and table.needs_noise == (solver == "ddpm")
    np.testing.assert_array_equal(table.coefficients[0, 4], 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("euler", 10), "unknown solver 'euler'"),
        (("ddim",), "needs a number of steps"),
        (("ddim", 2), "3 to 1000 steps, got 2"),
        (("released_ddim", 250), "always takes 251 steps"),
    ],
)
def test_bad_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        solver_table(*arguments)


def test_the_run_time_part_does_not_import_torch():
    code = "import ofer_models.runtime.solvers, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
