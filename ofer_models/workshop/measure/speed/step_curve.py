"""`ofer sampling`: what fewer steps cost, for every solver and spacing, against 1000-step DDPM on the same bundle.

Measured on held-out renderings, in mm on vertices: the error of a draw, of the closest of a face's draws, and the
spread of a face's draws about their mean. A sampler that collapses the spread draws nearer to the middle, which makes
its average draw look better and its closest one worse; so all three must stay.

Two yardsticks, because two things differ: 1000-step DDPM, which adds noise on its way, and 1000-step DDIM, the limit of
every deterministic sampler here. With a perfect network both draw from one distribution; with a trained one the added
noise draws wider, and no number of steps closes that gap. A temperature (a factor on the starting noise) can.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ofer_models.bundle.graphs import graph_specs
from ofer_models.bundle.manifest import DISTILLED, Bundle, StageSpec
from ofer_models.head.decoders import HypothesisDecoder
from ofer_models.runtime.onnxruntime_backend import OnnxRuntimeBackend
from ofer_models.runtime.sampler import Sampler
from ofer_models.runtime.solvers import SolverTable, solver_table, stage_table
from ofer_models.workshop.measure.open545.held_out import encoder_arrays
from ofer_models.workshop.measure.speed.bench import median_ms
from ofer_models.workshop.pictures.dataset import PictureSet
from ofer_models.workshop.progress import Progress, silent

STEPS = (3, 4, 5, 6, 8, 10, 12, 16, 20, 30, 50)
SOLVERS = ("ddim", "dpmpp_2m")
SPACINGS = ("uniform", "log_snr")
TEMPERATURES = (1.05, 1.1, 1.15, 1.2, 1.3)
ERROR_LIMIT, SPREAD_LIMIT = 0.02, 0.05  # of 1000-step DDPM
REFERENCE = "ddpm"
_ROWS = 450  # samples that go through the network at once
_VERTICES = 500

Distances = Callable[[int, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Point:
    """One sampler: errors and spread in mm, over all pictures; ms of processor time for one face on one thread;
    temperature: factor on the starting noise. spacing of the distilled one: the steps that it visits.
    """

    solver: str
    spacing: str
    steps: int
    error: float
    closest: float
    spread: float
    ms: float
    temperature: float = 1.0


@dataclass(frozen=True)
class StepCurve:
    """All samplers of one stage; reference is 1000-step DDPM, repeat the same with other noise: the floor of what this
    many pictures tell. limit is 1000-step DDIM; warmer: the cheapest ones that equal it, at other temperatures.
    """

    stage: str
    pictures: int
    samples: int
    reference: Point
    repeat: Point
    limit: Point
    points: list[Point]
    warmer: list[Point]

    def losses(self, point: Point, against: Point | None = None) -> tuple[float, float, float]:
        """Changes of error, closest and spread against the reference (or another point), as shares of it."""
        base = against or self.reference
        return tuple(getattr(point, name) / getattr(base, name) - 1 for name in ("error", "closest", "spread"))

    def keeps_quality(self, point: Point, against: Point | None = None) -> bool:
        """Whether neither error grows by more than 2 % and the spread changes by at most 5 %."""
        error, closest, spread = self.losses(point, against)
        return error <= ERROR_LIMIT and closest <= ERROR_LIMIT and abs(spread) <= SPREAD_LIMIT

    def cheapest(self, solver: str | None = None, against: Point | None = None) -> Point | None:
        """The sampler of fewest steps from which on all of its kind keep the quality; of one solver, or of any."""
        found = []
        for kind in sorted({(p.solver, p.spacing) for p in self.points if solver in (None, p.solver)}):
            line = sorted((p for p in self.points if (p.solver, p.spacing) == kind), key=lambda p: -p.steps)
            kept: list[Point] = []
            for point in line:
                if not self.keeps_quality(point, against):
                    break
                kept.append(point)
            found += kept[-1:]
        return min(found, key=lambda p: (p.steps, p.solver != "ddim"), default=None)

    def warmest(self, solver: str | None = None) -> Point | None:
        """Of the points with a temperature that keep DDPM's quality, the one of fewest steps and nearest spread."""
        fitting = [p for p in self.warmer if self.keeps_quality(p) and solver in (None, p.solver)]
        return min(fitting, key=lambda p: (p.steps, abs(self.losses(p)[2])), default=None)


def measure(
    bundle: Bundle,
    stage: str,
    pictures: PictureSet,
    samples: int,
    *,
    steps: Iterable[int] = STEPS,
    reference_steps: int = 1000,
    threads: int = 1,
    progress: Progress = silent,
) -> StepCurve:
    """Measure `expgen` or `idgen` with so many samples a picture, at temperature 1 whatever the bundle draws with.

    A stage's distilled variant is measured against the stage's own networks too.
    """
    context_stage = "expression_context" if stage == "expgen" else "identity_context"
    encoder = OnnxRuntimeBackend(threads).load(graph_specs(bundle.stages[context_stage])["graph"])
    spec = bundle.stages[stage]
    own = _samplers(spec, threads)
    student = _samplers(spec.distilled, threads) if spec.distilled else own
    arrays = encoder_arrays(pictures, slice(None))
    context = encoder(**{name: arrays[name] for name in encoder.inputs})["context"]
    vertices, truth = (_expressions if stage == "expgen" else _identities)(bundle, pictures)
    usual = bundle.hypotheses if stage == "expgen" else bundle.candidates

    def point(
        solver: str, spacing: str, count: int, seed: int = 0, timed: bool = True, temperature: float = 1.0
    ) -> Point:
        learned = solver == DISTILLED
        sampler, alone = student if learned else own
        table = stage_table(spec.distilled) if learned else solver_table(solver, count, spacing)
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((len(pictures), samples, sampler.n_coefficients), dtype=np.float32)
        drawn = spec.raw(_in_parts(sampler, context, noise * np.float32(temperature), table, rng))
        figures = _figures(drawn, vertices, truth)
        few = noise[:1].repeat(-(-usual // samples), axis=1)[:, :usual]
        once = partial(alone.sample, context[:1], few, table, rng)
        ms = median_ms(once, 5, time.process_time) if timed else float("nan")
        return Point(solver, spacing, count, *figures, ms, temperature)

    plan = [(solver, spacing, count) for solver in SOLVERS for spacing in SPACINGS for count in steps]
    plan += [(DISTILLED, " ".join(map(str, spec.distilled.timesteps)), spec.distilled.steps)] if spec.distilled else []
    plan += [(REFERENCE, "uniform", count) for count in (20, 50, 100) if count < reference_steps]
    plan += [("released_ddim", "uniform", 251)] * (reference_steps == 1000)
    work = [(REFERENCE, "uniform", reference_steps, 0, False), (REFERENCE, "uniform", reference_steps, 1, False),
            ("ddim", "uniform", reference_steps, 0, False), *((*item, 0, True) for item in plan)]  # fmt: skip
    measured = [point(*item) for item in progress(work, stage, len(work))]
    curve = StepCurve(stage, len(pictures), samples, *measured[:3], measured[3:], [])
    usable = [found for solver in (None, "ddim") if (found := curve.cheapest(solver, curve.limit))]
    kinds = dict.fromkeys((found.solver, found.spacing, found.steps) for found in usable)
    warmer = [point(*kind, 0, True, temperature) for kind in kinds for temperature in TEMPERATURES]
    return replace(curve, warmer=warmer)


def _samplers(spec: StageSpec, threads: int) -> tuple[Sampler, Sampler]:
    """A stage's sampler for many samples and, on one thread, for times."""
    graphs = graph_specs(spec)
    many, alone = (OnnxRuntimeBackend(count).sampler(graphs["cond"], graphs["step"]) for count in (threads, 1))
    return many, alone


def _in_parts(
    sampler: Sampler, context: np.ndarray, noise: np.ndarray, table: SolverTable, rng: np.random.Generator
) -> np.ndarray:
    faces = max(1, _ROWS // noise.shape[1])
    parts = [
        sampler.sample(context[i : i + faces], noise[i : i + faces], table, rng) for i in range(0, len(noise), faces)
    ]
    return np.concatenate(parts)


def _figures(
    drawn: np.ndarray, vertices: Callable[[int, np.ndarray], np.ndarray], truth: Callable[[int], np.ndarray]
) -> tuple[float, float, float]:
    """error, closest and spread in mm, averaged over pictures."""
    rows = []
    for i, coefficients in enumerate(drawn):
        meshes = 1000 * vertices(i, coefficients)
        errors = np.linalg.norm(meshes - 1000 * truth(i), axis=-1).mean(-1)
        rows.append((errors.mean(), errors.min(), np.sqrt(meshes.var(0).sum(-1).mean())))
    return tuple(float(value) for value in np.mean(rows, axis=0))


def _expressions(bundle: Bundle, pictures: PictureSet) -> tuple[Distances, Callable[[int], np.ndarray]]:
    """Meshes of a picture's expression coefficients on its true head, clipped as in the pipeline."""
    head = bundle.head
    decode = HypothesisDecoder(head, _spread_over(head.masks["face"]))
    heads = [head.identity(betas) for betas in pictures.betas]

    def vertices(i: int, drawn: np.ndarray) -> np.ndarray:
        expressions, jaws = drawn[:, : head.n_expression], drawn[:, head.n_expression :] * bundle.jaw_scale
        if bundle.expression_range:
            expressions = np.clip(expressions, *bundle.expression_range)
        return decode(heads[i], expressions, jaws)

    def truth(i: int) -> np.ndarray:
        return decode(heads[i], pictures.expression[i : i + 1], pictures.jaw[i : i + 1])[0]

    return vertices, truth


def _identities(bundle: Bundle, pictures: PictureSet) -> tuple[Distances, Callable[[int], np.ndarray]]:
    """Frontal vertices of head shapes, mean-aligned: where a head stands is not its shape."""
    head = bundle.head
    chosen = _spread_over(head.masks["frontal"])
    basis = head.shapedirs[chosen, :, : head.n_shape]
    basis = (basis - basis.mean(0)).reshape(-1, head.n_shape).T

    def vertices(i: int, betas: np.ndarray) -> np.ndarray:
        return (betas @ basis).reshape(len(betas), -1, 3)

    return vertices, lambda i: vertices(i, pictures.betas[i : i + 1])[0]


def _spread_over(indices: np.ndarray) -> np.ndarray:
    """About `_VERTICES` of these, evenly taken."""
    return indices[:: max(1, len(indices) // _VERTICES)]
