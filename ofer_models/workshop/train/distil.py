"""`ofer train distil`: IdGen or ExpGen in one step, learned from where the same networks arrive in many.

With a deterministic sampler a starting noise and a context lead to one endpoint. The student, a small network of its
own (`networks.one_step`), learns to tell that endpoint at once: the regression by which progressive distillation
(Salimans and Ho 2022) halves steps, down to the last one. The bundle's own networks stay, and their steps can be had.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.bundle.graphs import graph_specs
from ofer_models.bundle.manifest import Bundle, StageSpec
from ofer_models.runtime.onnxruntime_backend import OnnxRuntimeBackend
from ofer_models.runtime.solvers import solver_table
from ofer_models.workshop.bundle_writer import Provenance, set_distilled
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.networks.one_step import OneStepSampler, export_one_step
from ofer_models.workshop.train.accelerator import Accelerator
from ofer_models.workshop.train.loop import Keeper, Schedule, train
from ofer_models.workshop.train.samplers import CONTEXT_NOISE
from ofer_models.workshop.train.training_curves import TrainingCurves

STAGES = ("expgen", "idgen")
# Steps of a teacher, `dpmpp_2m`, uniform: where docs/sampling.md finds what 1000 of DDPM and 1000 of DDIM give. More of
# ExpGen change nothing; more of IdGen lead where 1000 of DDIM do, wider than its DDPM by all that the rule allows.
TEACHER_STEPS = {"expgen": 20, "idgen": 10}
TIMESTEP = 999  # at which all is noise
_SAMPLES = 8  # of a context
_WATCHED = 0.1  # share of the contexts, at most so many
_MOST_WATCHED = 128
_DRAWN_AT_ONCE = 32  # contexts


@dataclass(frozen=True)
class Plan:
    """How much of everything; batch: contexts, each with eight samples."""

    contexts: int = 10_000
    schedule: Schedule = field(default_factory=lambda: Schedule(4000, 16, 3e-3, average=0.998, betas=(0.9, 0.98)))

    @classmethod
    def smoke(cls) -> Plan:
        """Seconds, to see that it runs."""
        return cls(1_000, Schedule(4, 4, 1e-4, betas=(0.9, 0.98)))


@dataclass(frozen=True)
class Likeness:
    """The student's samples beside the teacher's from the same noise, on contexts that it has not learned from.

    apart: root mean square distance over the teacher's spread; spread: the student's over the teacher's.
    """

    apart: float
    spread: float


class Teacher:
    """The bundle's own networks over many steps."""

    def __init__(self, stage: StageSpec) -> None:
        self.steps = TEACHER_STEPS[stage.name]
        graphs = graph_specs(stage)
        self._sampler = OnnxRuntimeBackend(torch.get_num_threads()).sampler(graphs["cond"], graphs["step"])
        self._table = solver_table("dpmpp_2m", self.steps, "uniform")
        self.n_coefficients = self._sampler.n_coefficients

    def __call__(self, contexts: Tensor, noise: Tensor) -> Tensor:
        """Endpoints (F, N, D) of noise (F, N, D) under contexts (F, C)."""
        parts = [
            self._sampler.sample(some.numpy(), start.numpy(), self._table)
            for some, start in zip(contexts.split(_DRAWN_AT_ONCE), noise.split(_DRAWN_AT_ONCE), strict=True)
        ]
        return torch.from_numpy(np.concatenate(parts))


@dataclass(frozen=True)
class Lessons:
    """Contexts (n, C), noises (n, _SAMPLES, D) and the teacher's endpoints of them (n, _SAMPLES, D)."""

    contexts: Tensor
    noises: Tensor
    endpoints: Tensor

    @classmethod
    def of(cls, teacher: Teacher, contexts: Tensor, spec: StageSpec, generator: torch.Generator) -> Lessons:
        """With noise upon the contexts, as when the teacher was trained."""
        contexts = contexts + CONTEXT_NOISE * torch.randn(contexts.shape, generator=generator)
        noises = torch.randn((len(contexts), _SAMPLES, teacher.n_coefficients), generator=generator)
        low, high = spec.temperature
        noises *= low + (high - low) * torch.rand((len(contexts), _SAMPLES, 1), generator=generator)
        return cls(contexts, noises, teacher(contexts, noises))


def distil(
    bundle: Bundle, stage: str, contexts: np.ndarray, work: Path, plan: Plan, *, seed: int = 1, again: bool = False,
    accelerator: Accelerator | None = None, log: Callable[[str], None] = print,
) -> tuple[OneStepSampler, Likeness]:  # fmt: skip
    """Train a student of a bundle's stage on contexts (n, C) of its encoder; a stopped run goes on from `work`.

    Raises DataError for too few contexts and for a checkpoint of another run.
    """
    accelerator = accelerator or Accelerator()
    spec, device = bundle.stages[stage], accelerator.device
    watched = min(_MOST_WATCHED, int(_WATCHED * len(contexts)))
    if len(contexts) - watched < plan.schedule.batch or not watched:
        raise DataError(f"{len(contexts)} faces are too few to learn from; {plan.schedule.batch * 2} are enough")
    teacher = Teacher(spec)
    held_out, learned = torch.from_numpy(contexts[:watched]), torch.from_numpy(contexts[watched:])
    start = torch.randn(
        (watched, 2 * _SAMPLES, teacher.n_coefficients), generator=torch.Generator().manual_seed(seed + 1)
    )
    start *= torch.from_numpy(spec.scales(2 * _SAMPLES))
    endpoints = teacher(held_out, start)
    log(f"distil-{stage}: {teacher.steps} steps from {_SAMPLES} noises for each of {len(learned)} contexts")
    lessons = Lessons.of(teacher, learned, spec, torch.Generator().manual_seed(seed + 2))
    torch.manual_seed(seed)
    student = OneStepSampler(teacher.n_coefficients, contexts.shape[1])

    def loss(network: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        found = network(lessons.contexts[index].to(device), lessons.noises[index].to(device))
        return ((found - lessons.endpoints[index].to(device)) ** 2).mean()

    def likeness(network: nn.Module) -> Likeness:
        with torch.no_grad():
            found = network(held_out.to(device), start.to(device)).cpu()
        spread = _spread(endpoints)
        return Likeness(float((found - endpoints).square().mean().sqrt()) / spread, _spread(found) / spread)

    name = f"distil-{stage}"
    work.mkdir(parents=True, exist_ok=True)
    made_of = {
        "networks": [bundle.files[file.name].sha256 for file in spec.files.values()], "teacher_steps": teacher.steps,
    }  # fmt: skip
    keeper = Keeper(work / f"{name}.checkpoint", curves=TrainingCurves(work, name), made_of=made_of)
    if again and accelerator.main:
        keeper.clear()
    accelerator.wait()
    trained, _ = train(
        student, loss, len(learned), plan.schedule, validate=lambda network: likeness(network).apart, name=name,
        seed=seed, log=log, accelerator=accelerator, keeper=keeper,
    )  # fmt: skip
    found = likeness(trained.to(device))
    log(f"{name}: {found.apart:.3f} of the spread from the teacher, spread {found.spread - 1:+.1%}")
    return trained.cpu(), found


def write_student(bundle: Bundle, stage: str, student: OneStepSampler, source: Provenance) -> Bundle:
    """Give a bundle a stage's student as its variant `distilled`; source: of the pictures that contexts came from."""
    teacher = bundle.files[bundle.stages[stage].files["step"].name]
    files = {part: bundle.path / f"{stage}_distilled_{part}.onnx" for part in ("cond", "step")}
    partial = {part: path.with_name(f".{path.name}.partial") for part, path in files.items()}
    try:
        export_one_step(student, partial)
        for part, path in files.items():
            os.replace(partial[part], path)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    licence = teacher.licence if source.licence == teacher.licence else f"{teacher.licence}; contexts: {source.licence}"
    set_distilled(
        bundle.path, stage, {part: path.name for part, path in files.items()}, [TIMESTEP],
        replace(source, licence=licence, commercial_use=source.commercial_use and teacher.commercial_use),
    )  # fmt: skip
    return Bundle.load(bundle.path)


def _spread(samples: Tensor) -> float:
    """Root mean square distance from the mean of each context's samples."""
    return float((samples - samples.mean(1, keepdim=True)).square().mean().sqrt())
