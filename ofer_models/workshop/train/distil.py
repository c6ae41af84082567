"""`ofer train distil`: IdGen or ExpGen in two or three steps, learned from the same network in many.

With a deterministic sampler a starting noise and a context lead to one endpoint. The student, which begins as its
teacher, learns to reach that endpoint in its few steps: the regression by which progressive distillation (Salimans and
Ho 2022) halves the steps, here at once and through all of the student's steps. Of a sampler's two graphs only `cond`
learns, the scales and shifts of every block for a step and a context. The other one is shared with the teacher: a
distilled stage adds one small file, and the teacher's own steps remain to be had.
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
from ofer_models.runtime.solvers import distilled_table, solver_table
from ofer_models.workshop.bundle_writer import Provenance, set_distilled
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.networks.onnx_graph import store_bytes
from ofer_models.workshop.networks.trainable_graph import TrainableGraph
from ofer_models.workshop.train.accelerator import Accelerator
from ofer_models.workshop.train.loop import Keeper, Schedule, train
from ofer_models.workshop.train.samplers import CONTEXT_NOISE
from ofer_models.workshop.train.training_curves import TrainingCurves

STAGES = ("expgen", "idgen")
# The limit of all deterministic samplers to the second digit of docs/sampling.md's figures, where 1000 of DDIM are.
TEACHER = ("dpmpp_2m", 20, "uniform")
_SAMPLES = 8  # of a context in a batch
_WATCHED = 0.1  # share of the contexts, at most so many
_MOST_WATCHED = 128
_DRAWN_AT_ONCE = 32  # contexts


@dataclass(frozen=True)
class Plan:
    """How much of everything; batch: contexts, each with eight samples."""

    contexts: int = 10_000
    schedule: Schedule = field(default_factory=lambda: Schedule(400, 16, 2e-3, decay=0.0, average=0.998))

    @classmethod
    def smoke(cls) -> Plan:
        """Seconds, to see that it runs."""
        return cls(1_000, Schedule(4, 4, 1e-4, decay=0.0))


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
        graphs = graph_specs(stage)
        self._sampler = OnnxRuntimeBackend(torch.get_num_threads()).sampler(graphs["cond"], graphs["step"])
        self._table = solver_table(*TEACHER)
        self.n_coefficients = self._sampler.n_coefficients

    def __call__(self, contexts: Tensor, noise: Tensor) -> Tensor:
        """Endpoints (F, N, D) of noise (F, N, D) under contexts (F, C)."""
        parts = [
            self._sampler.sample(some.numpy(), start.numpy(), self._table)
            for some, start in zip(contexts.split(_DRAWN_AT_ONCE), noise.split(_DRAWN_AT_ONCE), strict=True)
        ]
        return torch.from_numpy(np.concatenate(parts))


class Student(nn.Module):
    """A stage's graphs over few steps: contexts (F, C) and noise (F, N, D) to samples (F, N, D)."""

    def __init__(self, stage: StageSpec, steps: int) -> None:
        super().__init__()
        self.cond, self.step = (TrainableGraph(graph_specs(stage)[part].path) for part in ("cond", "step"))
        self.step.requires_grad_(False)
        self.table = distilled_table(spaced(steps))
        for name in ("timesteps", "coefficients"):
            array = getattr(self.table, name).astype(np.float32)
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def forward(self, contexts: Tensor, noise: Tensor) -> Tensor:
        modulation = self.cond(context=contexts, timesteps=self.timesteps)["modulation"]
        x, x0 = noise, torch.zeros_like(noise)
        for scales, coefficients in zip(modulation, self.coefficients, strict=True):
            made = self.step(x=x, x0_prev=x0, modulation=scales, coefficients=coefficients)
            x, x0 = made["x_next"], made["x0"]
        return x


def spaced(steps: int, schedule_steps: int = 1000) -> list[int]:
    """Equal distances down to the clean sample: 999 and 499 of two."""
    return [schedule_steps * k // steps - 1 for k in range(steps, 0, -1)]


def distil(
    bundle: Bundle, stage: str, steps: int, contexts: np.ndarray, work: Path, plan: Plan, *, seed: int = 1,
    again: bool = False, accelerator: Accelerator | None = None, log: Callable[[str], None] = print,
) -> tuple[Student, Likeness]:  # fmt: skip
    """Train a student of a bundle's stage on contexts (n, C) of its encoder; a stopped run goes on from `work`.

    Raises DataError for too few contexts and for a checkpoint of another run.
    """
    accelerator = accelerator or Accelerator()
    spec, device = bundle.stages[stage], accelerator.device
    teacher, student = Teacher(spec), Student(spec, steps)
    watched = min(_MOST_WATCHED, int(_WATCHED * len(contexts)))
    if len(contexts) - watched < plan.schedule.batch or not watched:
        raise DataError(f"{len(contexts)} faces are too few to learn from; {plan.schedule.batch * 2} are enough")
    held_out, learned = torch.from_numpy(contexts[:watched]), torch.from_numpy(contexts[watched:])
    width, (low, high) = teacher.n_coefficients, spec.temperature
    start = torch.randn((watched, 2 * _SAMPLES, width), generator=torch.Generator().manual_seed(seed + 1))
    start *= torch.from_numpy(spec.scales(2 * _SAMPLES))
    endpoints = teacher(held_out, start)

    def loss(network: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        context = learned[index] + CONTEXT_NOISE * torch.randn((len(index), learned.shape[1]), generator=generator)
        noise = torch.randn((len(index), _SAMPLES, width), generator=generator)
        noise *= low + (high - low) * torch.rand((len(index), _SAMPLES, 1), generator=generator)
        found = network(context.to(device), noise.to(device))
        return ((found - teacher(context, noise).to(device)) ** 2).mean()

    def likeness(network: nn.Module) -> Likeness:
        with torch.no_grad():
            found = torch.cat([
                network(some.to(device), noise.to(device)).cpu()
                for some, noise in zip(held_out.split(_DRAWN_AT_ONCE), start.split(_DRAWN_AT_ONCE), strict=True)
            ])  # fmt: skip
        spread = _spread(endpoints)
        return Likeness(float((found - endpoints).square().mean().sqrt()) / spread, _spread(found) / spread)

    name = f"distil-{stage}"
    work.mkdir(parents=True, exist_ok=True)
    made_of = {"networks": [bundle.files[file.name].sha256 for file in spec.files.values()], "steps": steps}
    keeper = Keeper(work / f"{name}.checkpoint", curves=TrainingCurves(work, name), made_of=made_of)
    if again and accelerator.main:
        keeper.clear()
    accelerator.wait()
    begun = likeness(student.to(device))
    log(f"{name}: {steps} steps begin {begun.apart:.2f} of the spread from {TEACHER[1]}; {len(learned)} contexts")
    trained, _ = train(
        student, loss, len(learned), plan.schedule, validate=lambda network: likeness(network).apart, name=name,
        seed=seed, log=log, accelerator=accelerator, keeper=keeper,
    )  # fmt: skip
    found = likeness(trained.to(device))
    log(f"{name}: {found.apart:.3f} of the spread from the teacher, spread {found.spread - 1:+.1%}")
    return trained.cpu(), found


def write_student(bundle: Bundle, stage: str, student: Student, source: Provenance) -> Bundle:
    """Give a bundle a stage's student as its variant `distilled`; source: of the pictures that contexts came from."""
    spec = bundle.stages[stage]
    teacher = bundle.files[spec.files["step"].name]
    path = bundle.path / f"{stage}_distilled_cond.onnx"
    partial = path.with_name(f".{path.name}.partial")
    try:
        student.cond.save(partial)
        store_bytes(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    licence = teacher.licence if source.licence == teacher.licence else f"{teacher.licence}; contexts: {source.licence}"
    set_distilled(
        bundle.path, stage, {"cond": path.name}, student.table.timesteps.tolist(),
        replace(source, licence=licence, commercial_use=source.commercial_use and teacher.commercial_use),
    )  # fmt: skip
    return Bundle.load(bundle.path)


def _spread(samples: Tensor) -> float:
    """Root mean square distance from the mean of each context's samples."""
    return float((samples - samples.mean(1, keepdim=True)).square().mean().sqrt())
