"""The yardstick of `ofer bench` is the paper's network; figures come only after results agree; the curve's verdicts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe import recipe_state, relative_error

from ofer_models.bundle.tensors import StageError
from ofer_models.runtime.solvers import solver_table
from ofer_models.workshop.errors import EvaluationError
from ofer_models.workshop.measure.speed import bench, frame_pipeline, reference, step_curve
from ofer_models.workshop.measure.speed.bench import Official
from ofer_models.workshop.measure.speed.sampling_report import write_report
from ofer_models.workshop.measure.speed.step_curve import Point, StepCurve
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.pictures.dataset import PictureSet

torch.set_num_threads(1)
SMALL = Official(7, (7, 8, 8), 12, 3)


@pytest.mark.parametrize("widths", [(53, 25, 10), (9, 8)])
def test_the_plain_network_is_the_papers(widths):
    """Against `networks.Denoiser`, which is compared with recordings of the release elsewhere."""
    net = Denoiser(widths[0], widths, 20, time=32).eval()
    net.load_official(recipe_state(net.official_slots(), seed=5))
    plain = reference.PlainDenoiser(net.official_state_dict(), widths)
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(6, widths[0], generator=generator), torch.randn(6, 20, generator=generator)
    t = torch.tensor([0, 1, 10, 250, 500, 999])
    with torch.no_grad():
        assert relative_error(plain(x, t, context), net(x, t, context)) < 1e-5


def test_speedup_compares_a_thousand_steps_before_it_times_them():
    table = solver_table("ddim", 5)
    figures = bench.speedup("expgen", SMALL, table, repeats=3, say=lambda line: None)
    assert figures["expgen_difference"] < 1e-3 and figures["expgen_steps"] == 5
    assert figures["expgen_speedup"] == pytest.approx(figures["expgen_reference_ms"] / figures["expgen_ms"])
    assert figures["expgen_speedup"] > 10


def test_a_reference_that_disagrees_stops_the_bench(monkeypatch):
    monkeypatch.setattr(reference, "sample", lambda net, context, noise, rng: noise)
    with pytest.raises(StageError, match="expgen: 1000 steps differ from the reference by"):
        bench.speedup("expgen", SMALL, solver_table("ddim", 5), repeats=3)


def test_frames_and_stages_of_the_open_bundle(open_bundle, monkeypatch):
    monkeypatch.setattr(bench, "FACES", (1, 3))
    first = bench.runtimes(open_bundle)[0]
    monkeypatch.setattr(bench, "runtimes", lambda bundle: [first])
    kept: list[set] = []
    figures = bench.run(
        open_bundle, repeats=3, reference=False, say=lambda line: None, keep=lambda so_far: kept.append(set(so_far))
    )
    assert len(kept) == 2 and "frame_ms" in kept[0] and kept[1] == figures.keys() - {"memory_mb"}
    assert figures.keys() >= {"machine", "frame_ms", "frame_cpu_ms", "stages", "backend", "memory_mb", "bundle",
                              "frame_stages_ms"}  # fmt: skip
    assert figures["frame_ms"].keys() == {"1", "3"} and figures["frame_ms"]["1"] > 0
    assert figures["backend"] == "onnxruntime" and figures["stages"].keys() == open_bundle.stages.keys()
    assert all({"1", "2"} <= stage["onnxruntime"].keys() for stage in figures["stages"].values())
    assert figures["networks_ms_per_face"]["onnxruntime"].keys() == {"1", "8"}
    assert figures["machine"]["cores"] >= 1 and figures["memory_mb"]["peak"] >= figures["memory_mb"]["start"]
    json.dumps(figures)


def test_a_runtime_that_disagrees_stops_the_bench(open_bundle, monkeypatch):
    from ofer_models.runtime.torch.backend import TorchStage

    run = TorchStage.__call__
    monkeypatch.setattr(TorchStage, "__call__", lambda self, **a: {k: v + 1 for k, v in run(self, **a).items()})
    with pytest.raises(StageError, match="identity_context on torch differs from onnxruntime"):
        list(bench.stages(open_bundle, 3, say=lambda line: None))


def test_differences_between_runtimes_are_told_stage_by_stage_and_in_millimetres(open_bundle, monkeypatch):
    first, *_, torch_runtime = bench.runtimes(open_bundle)
    assert torch_runtime.name.startswith("torch")
    chosen = [dataclasses.replace(runtime, threads=(1,)) for runtime in (first, torch_runtime)]
    monkeypatch.setattr(bench, "runtimes", lambda bundle: chosen)
    *_, figures = bench.stages(open_bundle, 3, say=lambda line: None)
    apart = figures["differences"][torch_runtime.name]
    assert figures["differences"].keys() == {torch_runtime.name}
    assert apart.keys() == {*open_bundle.stages, "vertices", "vertices_mm"}
    assert 0 < apart["vertices"] < 1e-3 and 0 < apart["vertices_mm"] < 0.1
    drawn = np.zeros((2, 53), np.float32)
    other = drawn.copy()
    drawn[:, 0], other[:, 0] = 1.0, 0.99
    meshes = bench.meshes_apart(open_bundle, drawn, other)
    assert meshes["vertices"] == pytest.approx(0.01, rel=0.01)
    moved = open_bundle.head.shapedirs[:, :, open_bundle.n_shape]
    assert meshes["vertices_mm"] == pytest.approx(10 * np.linalg.norm(moved, axis=-1).max(), rel=0.01)


REFERENCE = Point("ddpm", "uniform", 1000, 2.0, 1.0, 3.0, 0.0)
LIMIT = Point("ddim", "uniform", 1000, 1.8, 0.9, 2.5, 0.0)


def made(*points, warmer=()):
    return StepCurve("expgen", 10, 15, REFERENCE, REFERENCE, LIMIT, list(points), list(warmer))


def at(steps, solver="ddim", spacing="uniform", temperature=1.0, **shares):
    """A point that differs from the reference by these shares."""
    values = {name: getattr(REFERENCE, name) * (1 + shares.get(name, 0)) for name in ("error", "closest", "spread")}
    return Point(solver, spacing, steps, **values, ms=float(steps), temperature=temperature)


@pytest.mark.parametrize(
    ("shares", "kept"),
    [
        ({}, True), ({"error": 0.019, "closest": 0.019, "spread": -0.049}, True), ({"error": -0.5}, True),
        ({"error": 0.021}, False), ({"closest": 0.021}, False), ({"spread": -0.051}, False), ({"spread": 0.051}, False),
    ],
)  # fmt: skip
def test_what_keeps_the_quality(shares, kept):
    assert made().keeps_quality(at(5, **shares)) is kept


def test_the_cheapest_is_good_from_there_on():
    lucky = [at(3), at(5, spread=-0.2), at(8), at(12)]
    assert made(*lucky).cheapest().steps == 8
    others = [at(4, "dpmpp_2m"), at(6, "dpmpp_2m")]
    assert made(*lucky, *others).cheapest() == others[0]
    assert made(*lucky, *others).cheapest("ddim").steps == 8
    assert made(*lucky, at(8, "dpmpp_2m")).cheapest().solver == "ddim"
    assert made(at(50, spread=-0.1)).cheapest() is None
    assert made(LIMIT).cheapest() is None and made(LIMIT).cheapest(against=LIMIT) == LIMIT


def test_a_temperature_is_taken_where_it_fits_best():
    warmer = [at(6, temperature=t, spread=s) for t, s in ((1.1, -0.08), (1.2, -0.04), (1.25, 0.01), (1.3, 0.045))]
    assert made(warmer=warmer).warmest().temperature == 1.25
    assert made(warmer=warmer[:1]).warmest() is None
    cheaper = at(5, "dpmpp_2m", temperature=1.2)
    assert made(warmer=[*warmer, cheaper]).warmest() == cheaper
    assert made(warmer=[*warmer, cheaper]).warmest("ddim").temperature == 1.25


@pytest.fixture()
def pictures(open_head):
    """Heads with expressions and inputs that mean nothing."""
    rng, n = np.random.default_rng(0), 3
    bits = np.zeros((n, -(-open_head.n_vertices // 8)), np.uint8)
    return PictureSet(
        landmarks=rng.standard_normal((n, 478, 6)).astype(np.float16), crop=np.zeros((n, 112, 112, 3), np.uint8),
        betas=rng.standard_normal((n, open_head.n_shape)).astype(np.float32),
        expression=rng.uniform(0, 0.5, (n, 50)).astype(np.float32), jaw=np.zeros((n, 3), np.float32),
        occlusion=np.zeros(n, np.float32), visible=bits, covered=bits, index=np.arange(n),
    )  # fmt: skip


@pytest.mark.parametrize("stage", ["expgen", "idgen"])
def test_a_measurement_and_its_report(open_bundle, pictures, stage, tmp_path):
    found = step_curve.measure(open_bundle, stage, pictures, 4, steps=(3, 6), reference_steps=12)
    kinds = {(p.solver, p.spacing, p.steps) for p in found.points}
    own = {(s, p, k) for s in ("ddim", "dpmpp_2m") for p in ("uniform", "log_snr") for k in (3, 6)}
    assert {kind for kind in kinds if kind[0] != "distilled"} == own
    for point in (found.reference, found.repeat, found.limit, *found.points):
        assert 0 < point.closest < point.error and point.spread > 0
    assert found.reference != found.repeat and all(point.ms > 0 for point in found.points)
    again = step_curve.measure(open_bundle, stage, pictures, 4, steps=(6,), reference_steps=12)
    assert again.points[0].error == pytest.approx(
        next(p.error for p in found.points if (p.solver, p.spacing, p.steps) == ("ddim", "uniform", 6))
    )
    files = write_report([found], open_bundle, tmp_path / "docs", "ofer sampling")
    assert [path.name for path in files] == ["sampling.md", "sampling.png", "sampling.json"]
    text = files[0].read_text()
    assert text.count("| ddim |") >= 4 and "12-step DDPM" in text and "The bundle's default" in text
    assert json.loads(files[2].read_text())["curves"][0]["stage"] == stage


def test_a_distilled_variant_is_measured_beside_its_own_networks(open_bundle, pictures, tmp_path):
    spec = open_bundle.stages["expgen"]
    replace = dataclasses.replace
    variant = replace(spec, distilled=None, solver="distilled", steps=2, timesteps=(999, 499))
    bundle = replace(open_bundle, stages=open_bundle.stages | {"expgen": replace(spec, distilled=variant)})
    found = step_curve.measure(bundle, "expgen", pictures, 4, steps=(3,), reference_steps=12)
    one = [p for p in found.points if p.solver == "distilled"]
    assert [(p.spacing, p.steps) for p in one] == [("999 499", 2)] and one[0].ms > 0
    # These are ExpGen's own networks: two steps of plain DDIM, which draw too near to the middle.
    assert one[0].spread < 0.95 * next(p for p in found.points if p.solver == "ddim").spread
    text = write_report([found], bundle, tmp_path, "ofer sampling")[0].read_text()
    assert "| distilled | 999 499 | 2 |" in text and "The bundle's default: `distilled`, steps: 2" in text


ROOT = Path(frame_pipeline.__file__).parents[4]


def test_pictures_of_faces_come_again_and_hold_as_many():
    pytest.importorskip("skimage")
    for faces in (1, 8):
        stack = frame_pipeline.pictures(faces)
        assert stack.shape == (60, 480, 640, 3) and (stack[0] != stack[30]).any()
        # The end of the loop goes over into its beginning.
        steps = [np.abs(stack[a].astype(int) - stack[b]).mean() for a, b in ((0, 1), (59, 0))]
        assert steps[1] < 1.5 * steps[0]
    columns = stack[0].reshape(2, 240, 4, 160, 3).mean((1, 3))
    assert np.ptp(columns, axis=(0, 1)).max() < 60  # a face in every tile


def test_two_checkouts_are_run_by_turns_on_the_same_frames(tmp_path, monkeypatch, open_bundle):
    pytest.importorskip("skimage")
    monkeypatch.setattr(frame_pipeline, "_WARM_UP", 2)
    monkeypatch.setattr(frame_pipeline, "_BLOCK", 3)
    for name in ("ofer_models", "engines", "ofer_ros", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    figures = frame_pipeline.run(tmp_path, frames=6, faces=(1,), regressor=True)
    sides = figures["frame_pipeline"]
    assert figures["beside"] == str(tmp_path)
    assert set(sides) == {"here", "beside", "ratio", "regressor", "regressor_ratio"}
    assert sides["regressor_ratio"]["1"]["cpu_ms_p50"] < 0.95  # nothing is drawn
    for side in ("here", "beside", "regressor"):
        row = sides[side]["1"]
        assert row["found"] == 1 and 0 < row["after_ms_p50"] < row["frame_ms_p95"] and row["frames_per_second"] > 0
        assert row["stream_per_second"] > 0
    ratio = sides["here"]["1"]["after_ms_p50"] / sides["beside"]["1"]["after_ms_p50"]
    assert sides["ratio"]["1"]["after_ms_p50"] == pytest.approx(ratio)


def test_a_checkout_that_cannot_run_says_why(tmp_path):
    pytest.importorskip("skimage")
    with pytest.raises(EvaluationError, match="is no checkout of this repository"):
        frame_pipeline.run(tmp_path)
    package = tmp_path / "ofer_models"
    package.mkdir()
    (package / "pipeline.py").write_text("raise RuntimeError('no camera')")
    (package / "bundle").mkdir()
    (package / "bundle" / "manifest.py").write_text("default_bundle = None")
    with pytest.raises(EvaluationError, match="ended: RuntimeError: no camera"):
        frame_pipeline.run(tmp_path, frames=1, faces=(1,))
