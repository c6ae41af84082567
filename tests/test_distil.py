"""Distilled samplers: what a bundle says of them, how they are drawn with, and how they learn."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from ofer_models.bundle import Bundle, BundleError
from ofer_models.bundle.graphs import all_graphs, graph_specs
from ofer_models.bundle.manifest import MANIFEST
from ofer_models.bundle.tensors import GraphSpec
from ofer_models.runtime.onnxruntime_backend import OnnxRuntimeBackend, OnnxStage
from ofer_models.runtime.solvers import SolverTable, distilled_table, solver_table, stage_table
from ofer_models.runtime.stages import CoefficientSampler, StageSet

STEPS = [999, 499]


def edited(folder: Path, edit) -> Path:
    document = yaml.safe_load((folder / MANIFEST).read_text())
    edit(document)
    (folder / MANIFEST).write_text(yaml.safe_dump(document))
    return folder


@pytest.fixture
def folder(open_bundle, tmp_path) -> Path:
    """The shipped bundle with an ExpGen whose distilled networks are those of IdGen's `cond`, under another name."""
    folder = Path(shutil.copytree(open_bundle.path, tmp_path / "open"))
    shutil.copy(folder / "idgen_cond.onnx", folder / "other_cond.onnx")

    def edit(document):
        document["stages"]["expgen"]["distilled"] = {"files": {"cond": "other_cond.onnx"}, "timesteps": STEPS}
        document["files"]["other_cond.onnx"] = dict(document["files"]["idgen_cond.onnx"])

    return edited(folder, edit)


def variant(document: dict) -> dict:
    return document["stages"]["expgen"]["distilled"]


def drawn(bundle: Bundle, table: SolverTable, files: dict[str, str]) -> np.ndarray:
    """What the given graphs of ExpGen draw."""
    spec = bundle.stages["expgen"]
    plain = replace(spec, files=spec.files | {part: bundle.path / name for part, name in files.items()})
    graphs = graph_specs(plain)
    return spec.raw(OnnxRuntimeBackend(1).sampler(graphs["cond"], graphs["step"]).sample(*given(), table))


def given() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.standard_normal((2, 256), dtype=np.float32), rng.standard_normal((2, 5, 53), dtype=np.float32)


def test_a_distilled_variant_shares_what_it_does_not_bring(folder):
    bundle = Bundle.load(folder)
    own, usual = bundle.stages["expgen"], bundle.stages["expgen"].usual
    assert usual.timesteps == tuple(STEPS) and usual.steps == 2 and usual.solver == "distilled"
    assert own.timesteps == () and own.solver == "dpmpp_2m"
    assert usual.files == {"cond": folder / "other_cond.onnx", "step": own.files["step"]}
    assert list(all_graphs(own)) == ["expgen_cond.onnx", "expgen_step.onnx", "other_cond.onnx"]
    np.testing.assert_array_equal(usual.mean, own.mean)
    assert bundle.stages["idrank"].usual is bundle.stages["idrank"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda d: variant(d).update(timesteps=[499, 999]), "timesteps: [499, 999], which do not fall"),
        (lambda d: variant(d).update(timesteps=[999, 999]), "which do not fall"),
        (lambda d: variant(d).update(timesteps=[1000, 4]), "distilled.timesteps"),
        (lambda d: variant(d).update(timesteps=[]), "distilled.timesteps"),
        (lambda d: variant(d).pop("timesteps"), "timesteps"),
        (lambda d: variant(d)["files"].update(noise="n.bin"), "distilled.files"),
        (lambda d: d["stages"]["expgen"]["files"].update(noise="idrank.onnx"), "brings its own noise"),
        (lambda d: d["stages"]["idrank"].update(distilled=deepcopy(variant(d))), "of kind graph"),
        (lambda d: d["files"].pop("other_cond.onnx"), "lists no hash for other_cond.onnx"),
        (lambda d: d["files"]["other_cond.onnx"].update(sha256="0" * 64), "other_cond.onnx is damaged"),
    ],
)  # fmt: skip
def test_a_variant_that_cannot_be_is_refused(folder, edit, said):
    with pytest.raises(BundleError) as refusal:
        Bundle.load(edited(folder, edit))
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_variant_of_another_network_is_refused(folder):
    edited(folder, lambda d: variant(d)["files"].update(cond="idrank.onnx"))
    with pytest.raises(BundleError, match=r"idrank\.onnx"):
        StageSet(Bundle.load(folder))


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_the_variant_is_drawn_with_unless_a_number_of_steps_is_asked_for(folder, backend):
    if backend == "torch":
        pytest.importorskip("torch")
    bundle = Bundle.load(folder)
    expgen = StageSet(bundle, backend=backend).expgen
    few = drawn(bundle, distilled_table(STEPS), {"cond": "other_cond.onnx"})
    close = {"atol": 2e-3 * np.abs(few).max()}  # of two runtimes
    np.testing.assert_allclose(expgen(*given()), few, **close)
    np.testing.assert_allclose(expgen(*given(), share=0.5), few, **close)  # there are no fewer
    expgen.set_steps(4)
    own = drawn(bundle, solver_table("dpmpp_2m", 4), {})
    np.testing.assert_allclose(expgen(*given()), own, **close)
    assert np.abs(own - few).max() > 0.1
    expgen.set_steps(None)
    np.testing.assert_allclose(expgen(*given()), few, **close)
    for wrong in (2, 1001):
        with pytest.raises(ValueError, match="3 to 1000 steps"):
            expgen.set_steps(wrong)
    np.testing.assert_allclose(expgen(*given()), few, **close)
    np.testing.assert_allclose(StageSet(bundle, steps=4, backend=backend).expgen(*given()), own, **close)


def test_the_stages_own_networks_are_not_taken_from_a_bundle_that_changed(folder):
    bundle = Bundle.load(folder)
    stages = StageSet(bundle)
    shutil.copy(folder / "idgen_cond.onnx", folder / "expgen_cond.onnx")
    with pytest.raises(ValueError, match=r"expgen_cond\.onnx changed"):
        stages.expgen.set_steps(5)
    few = drawn(bundle, distilled_table(STEPS), {"cond": "other_cond.onnx"})
    np.testing.assert_allclose(stages.expgen(*given()), few, atol=1e-4)


def test_a_distilled_variant_takes_its_own_steps_only(folder):
    spec = Bundle.load(folder).stages["expgen"].distilled
    assert stage_table(spec).timesteps.tolist() == STEPS
    with pytest.raises(ValueError, match="of expgen take 2 steps, got 5"):
        stage_table(spec, 5)


def test_its_table_is_plain_ddim():
    """Equal, where both exist, to the table of the solver of that name."""
    plain = solver_table("ddim", 4)
    found = distilled_table(plain.timesteps.tolist())
    np.testing.assert_array_equal(found.coefficients, plain.coefficients)
    assert distilled_table([999]).coefficients.shape == (1, 5) and not found.needs_noise


def test_engines_are_built_of_the_variant_too(folder):
    from ofer_models.workshop.compile.build import Order, graphs_of, profile_of

    bundle = Bundle.load(folder)
    assert graphs_of(bundle)["other_cond.onnx"] == folder / "other_cond.onnx"
    assert profile_of(Order(bundle), "expgen")["K"] == (1, 2, 1000)


# Learning


@pytest.fixture
def torch_here():
    return pytest.importorskip("torch")


def test_the_student_is_its_two_graphs(torch_here, tmp_path):
    from ofer_models.workshop.networks.one_step import OneStepSampler, export_one_step

    torch_here.manual_seed(0)
    net = OneStepSampler(53, 256)
    with torch_here.no_grad():
        for number in net.modulation.parameters():
            number.normal_(0, 0.05)
    files = {part: tmp_path / f"{part}.onnx" for part in ("cond", "step")}
    export_one_step(net, files)
    table, (context, noise) = distilled_table([999]), given()
    sampler = OnnxRuntimeBackend(1).sampler(*(GraphSpec(path) for path in files.values()))
    with torch_here.no_grad():
        expected = net(torch_here.from_numpy(context), torch_here.from_numpy(noise)).numpy()
    found = sampler.sample(context, noise, table)
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()  # bytes in the files
    moved = OnnxStage(files["step"])(
        x=noise, x0_prev=2 * noise, modulation=OnnxStage(files["cond"])(
            context=context, timesteps=np.array([999], np.float32)
        )["modulation"][0], coefficients=np.array([7, 7, 0.5, 0.25, 3], np.float32),
    )  # fmt: skip
    np.testing.assert_allclose(moved["x_next"], 0.5 * noise + 0.25 * found + 6 * noise, atol=1e-4)


@pytest.fixture
def plan(torch_here, monkeypatch):
    """Little of everything, a teacher of few steps too."""
    from ofer_models.workshop.train import distil
    from ofer_models.workshop.train.distil import Plan
    from ofer_models.workshop.train.loop import Schedule

    monkeypatch.setattr(distil, "TEACHER_STEPS", dict.fromkeys(distil.STAGES, 6))
    return Plan(60, Schedule(60, 8, 3e-3, average=0.8))


def contexts_of(bundle: Bundle, count: int, stage: str = "expgen") -> np.ndarray:
    """A stage's contexts of noise for pictures."""
    from ofer_models.workshop.train.face_contexts import ENCODERS

    rng = np.random.default_rng(0)
    encoder = OnnxStage(bundle.stages[ENCODERS[stage]].files["graph"])
    arrays = {
        name: rng.standard_normal([dim if dim != "F" else count for dim in dims], dtype=np.float32)
        for name, dims in encoder.inputs.items()
    }
    return encoder(**arrays)["context"]


@pytest.mark.parametrize("stage", ["expgen", "idgen"])
def test_a_student_comes_near_its_teacher_and_into_the_bundle(open_bundle, tmp_path, plan, stage):
    from ofer_models.workshop.bundle_writer import Provenance
    from ofer_models.workshop.train.distil import Teacher, distil, write_student

    torch = pytest.importorskip("torch")
    folder = Path(shutil.copytree(open_bundle.path, tmp_path / "open"))
    bundle, said = Bundle.load(folder), []
    contexts = contexts_of(bundle, 60, stage)
    student, likeness = distil(bundle, stage, contexts, tmp_path / "work", plan, log=said.append)
    held_out = [float(line.split("held out ")[1].split(",")[0]) for line in said if "held out" in line]
    assert likeness.apart < 0.75 * held_out[0] and 0.5 < likeness.spread < 1.2
    assert (tmp_path / "work" / f"distil-{stage}.png").is_file()
    written = write_student(bundle, stage, student, Provenance("of a test", "Apache-2.0", True))
    usual = written.stages[stage].usual
    assert usual.timesteps == (999,) and usual.steps == 1
    records = [written.files[f"{stage}_distilled_{part}.onnx"] for part in ("cond", "step")]
    assert {(r.origin, r.licence, r.commercial_use) for r in records} == {("of a test", "Apache-2.0", True)}
    assert not written.unlisted()
    context, noise = torch.from_numpy(contexts[:2]), torch.randn(2, 5, len(usual.mean))
    start = noise * torch.from_numpy(usual.scales(5))
    with torch.no_grad():
        expected = student(context, start)
    sampler = CoefficientSampler(written.stages[stage], OnnxRuntimeBackend(1))
    assert np.abs(sampler(context.numpy(), noise.numpy()) - usual.raw(expected.numpy())).max() < 0.02  # bytes
    apart = np.abs(Teacher(bundle.stages[stage])(context, start).numpy() - expected.numpy()).mean()
    assert apart < 0.75
    again = write_student(written, stage, student, Provenance("anew", "CC0-1.0", False))
    record = again.files[f"{stage}_distilled_step.onnx"]
    assert record.origin == "anew" and not record.commercial_use and "CC0-1.0" in record.licence


def test_a_stopped_distillation_goes_on_and_another_one_is_refused(open_bundle, tmp_path, plan, monkeypatch):
    from ofer_models.workshop.errors import DataError
    from ofer_models.workshop.train import distil as module
    from ofer_models.workshop.train.loop import Keeper

    torch, contexts = pytest.importorskip("torch"), contexts_of(open_bundle, 60)
    plan = replace(plan, schedule=replace(plan.schedule, steps=6))

    def run(name: str, plan: module.Plan = plan) -> list[torch.Tensor]:
        student, _ = module.distil(
            open_bundle, "expgen", contexts, tmp_path / name, plan, log=lambda line: None
        )
        return list(student.parameters())

    whole, advance, taken = run("whole"), module.OneStepSampler.forward, []
    monkeypatch.setattr(module, "Keeper", lambda *args, **kwargs: Keeper(*args, seconds=0, **kwargs))

    def stops(student, *tensors):
        taken.append(torch.is_grad_enabled())
        if sum(taken) > 4:
            raise KeyboardInterrupt
        return advance(student, *tensors)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module.OneStepSampler, "forward", stops)
        run("stopped")
    assert (tmp_path / "stopped" / "distil-expgen.checkpoint").is_file()
    with pytest.raises(DataError, match="steps"):
        run("stopped", replace(plan, schedule=replace(plan.schedule, steps=7)))
    for mine, expected in zip(run("stopped"), whole, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=0)


def test_too_few_faces_and_encoders_that_no_rendering_is_kept_for(open_bundle, tmp_path, plan):
    from ofer_models.workshop.errors import DataError
    from ofer_models.workshop.train.accelerator import Accelerator
    from ofer_models.workshop.train.distil import distil
    from ofer_models.workshop.train.face_contexts import photographed_contexts, rendered_contexts

    with pytest.raises(DataError, match="3 faces are too few"):
        distil(open_bundle, "expgen", np.zeros((3, 256), np.float32), tmp_path, plan)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no photographs"):
        photographed_contexts(open_bundle, "idgen", tmp_path / "none", progress=lambda x, *_: x, say=print)
    official = replace(open_bundle, stages=open_bundle.stages | {"expression_context": open_bundle.stages["idrank"]})
    with pytest.raises(DataError, match="needs photographs: give a folder of them with --data"):
        rendered_contexts(
            official, "expgen", tmp_path, 1000, seed=1, workers=1, accelerator=Accelerator(), progress=lambda x, *_: x
        )


def test_contexts_of_photographs_are_the_encoders(open_bundle, tmp_path):
    pytest.importorskip("torch")
    data = pytest.importorskip("skimage.data")
    cv2 = pytest.importorskip("cv2")
    from ofer_models.workshop.train.face_contexts import photographed_contexts

    cv2.imwrite(str(tmp_path / "astronaut.png"), data.astronaut()[..., ::-1])
    cv2.imwrite(str(tmp_path / "coins.png"), data.coins())
    said: list[str] = []
    contexts, source = photographed_contexts(
        open_bundle, "expgen", tmp_path, progress=lambda items, *_: items, say=said.append
    )
    assert contexts.shape == (1, 256) and np.isfinite(contexts).all() and not source.commercial_use
    assert len(said) == 1 and "coins.png is left out" in said[0]
