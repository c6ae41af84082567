"""`ofer sampling`: what fewer steps cost, for every solver and spacing, against 1000-step DDPM on the same bundle.

Measured on held-out renderings, in mm on vertices: the error of a draw, of the closest of a face's draws, and the
spread of a face's draws about their mean. A sampler that collapses the spread draws nearer to the middle, which makes
its average draw look better and its closest one worse; so all three must stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ofer_models.benchmark.bench import machine, median_ms
from ofer_models.bundle.manifest import Bundle
from ofer_models.diffusion.solvers import SolverTable, solver_table
from ofer_models.engines.backend import graph_specs
from ofer_models.engines.onnxruntime_backend import OnnxRuntimeBackend
from ofer_models.engines.sampler import Sampler
from ofer_models.evaluation.held_out import encoder_arrays
from ofer_models.head.hypotheses import HypothesisDecoder
from ofer_models.synthesis.dataset import PictureSet

STEPS = (3, 4, 5, 6, 8, 10, 12, 16, 20, 30, 50)
SOLVERS = ("ddim", "dpmpp_2m")
SPACINGS = ("uniform", "log_snr")
ERROR_LIMIT, SPREAD_LIMIT = 0.02, 0.05  # of 1000-step DDPM
REFERENCE = "ddpm"
_ROWS = 450  # samples that go through the network at once
_VERTICES = 500

Progress = Callable[[Iterable, str, int], Iterable]
Distances = Callable[[int, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Point:
    """One sampler: errors and spread in mm, over all pictures; ms for one face on one thread."""

    solver: str
    spacing: str
    steps: int
    error: float
    closest: float
    spread: float
    ms: float


@dataclass(frozen=True)
class Curve:
    """All samplers of one stage; reference is 1000-step DDPM, repeat the same with other noise: the floor of what this
    many pictures tell.
    """

    stage: str
    pictures: int
    samples: int
    reference: Point
    repeat: Point
    points: list[Point]

    def losses(self, point: Point) -> tuple[float, float, float]:
        """Changes of error, closest and spread against the reference, as shares of it."""
        return tuple(
            getattr(point, name) / getattr(self.reference, name) - 1 for name in ("error", "closest", "spread")
        )

    def keeps_quality(self, point: Point) -> bool:
        """Whether neither error grows by more than 2 % and the spread changes by at most 5 %."""
        error, closest, spread = self.losses(point)
        return error <= ERROR_LIMIT and closest <= ERROR_LIMIT and abs(spread) <= SPREAD_LIMIT

    def cheapest(self, solver: str | None = None) -> Point | None:
        """The sampler of fewest steps from which on all of its kind keep the quality; of one solver, or of any."""
        found = []
        for kind in sorted({(p.solver, p.spacing) for p in self.points if solver in (None, p.solver)}):
            line = sorted((p for p in self.points if (p.solver, p.spacing) == kind), key=lambda p: -p.steps)
            kept: list[Point] = []
            for point in line:
                if not self.keeps_quality(point):
                    break
                kept.append(point)
            found += kept[-1:]
        return min(found, key=lambda p: (p.steps, p.solver != "ddim"), default=None)


def measure(
    bundle: Bundle,
    stage: str,
    pictures: PictureSet,
    samples: int,
    *,
    steps: Iterable[int] = STEPS,
    reference_steps: int = 1000,
    threads: int = 1,
    progress: Progress = lambda iterable, text, total: iterable,
) -> Curve:
    """Measure `expgen` or `idgen` with so many samples a picture. Temperature 1: the learned distribution itself."""
    backend = OnnxRuntimeBackend(threads)
    context_stage = "expression_context" if stage == "expgen" else "identity_context"
    encoder = backend.load(graph_specs(bundle.stages[context_stage])["graph"])
    spec = bundle.stages[stage]
    graphs = graph_specs(spec)
    sampler = backend.sampler(graphs["cond"], graphs["step"])
    alone = OnnxRuntimeBackend(1).sampler(graphs["cond"], graphs["step"])
    arrays = encoder_arrays(pictures, slice(None))
    context = encoder(**{name: arrays[name] for name in encoder.inputs})["context"]
    vertices, truth = (_expressions if stage == "expgen" else _identities)(bundle, pictures)
    usual = bundle.hypotheses if stage == "expgen" else bundle.candidates

    def point(solver: str, spacing: str, count: int, seed: int = 0, timed: bool = True) -> Point:
        table = solver_table(solver, count, spacing)
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((len(pictures), samples, sampler.n_coefficients), dtype=np.float32)
        drawn = spec.raw(_in_parts(sampler, context, noise, table, rng))
        figures = _figures(drawn, vertices, truth)
        few = noise[:1].repeat(-(-usual // samples), axis=1)[:, :usual]
        ms = median_ms(lambda: alone.sample(context[:1], few, table, rng), 5) if timed else float("nan")
        return Point(solver, spacing, count, *figures, ms)

    plan = [(solver, spacing, count) for solver in SOLVERS for spacing in SPACINGS for count in steps]
    plan += [("released_ddim", "uniform", 251)] * (reference_steps == 1000)
    work = [(REFERENCE, "uniform", reference_steps, 0, False), (REFERENCE, "uniform", reference_steps, 1, False),
            *((*item, 0, True) for item in plan)]  # fmt: skip
    measured = [point(*item) for item in progress(work, stage, len(work))]
    return Curve(stage, len(pictures), samples, measured[0], measured[1], measured[2:])


def write_report(curves: list[Curve], bundle: Bundle, folder: Path, command: str) -> list[Path]:
    """Write sampling.md with its plot and the figures as JSON into a folder; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    text, plot, figures = (folder / f"sampling.{ending}" for ending in ("md", "png", "json"))
    _plot(curves, plot)
    lines = [
        "# Few steps, measured",
        "",
        f"Made by `{command}` with bundle {bundle.name} {bundle.version}; run it again after training.",
        "",
        *_machine_lines(),
        "",
        "Against 1000-step DDPM with the same network, on held-out renderings, in mm on vertices of the face:",
        "**error** of an average draw, error of the **closest** draw of a face, and **spread** (root mean square"
        " distance of a face's draws from their mean).",
        f"A sampler keeps the quality when neither error grows by more than {ERROR_LIMIT:.0%} and the spread stays"
        f" within {SPREAD_LIMIT:.0%}; the cheapest one is that of fewest steps from which on all larger counts tried do"
        " so as well. Time: one face, its usual number of samples, one thread.",
        "",
        f"![error, spread and time against steps]({plot.name})",
    ]
    for curve in curves:
        lines += ["", *_section(curve, bundle)]
    text.write_text("\n".join(lines) + "\n")
    content = {"bundle": f"{bundle.name} {bundle.version}", "machine": machine(), "curves": [asdict(c) for c in curves]}
    figures.write_text(json.dumps(content, indent=1))
    return [text, plot, figures]


def _section(curve: Curve, bundle: Bundle) -> list[str]:
    names = {"expgen": "ExpGen: expressions, true identity given", "idgen": "IdGen: head shapes"}
    lines = [f"## {names[curve.stage]}", "", *_verdict(curve, bundle), ""]
    reference, (again_error, again_closest, again_spread) = curve.reference, curve.losses(curve.repeat)
    lines += [
        f"{curve.pictures} pictures, {curve.samples} samples each. 1000-step DDPM: error {reference.error:.3f}, closest"
        f" {reference.closest:.3f}, spread {reference.spread:.3f} mm. The same with other noise:"
        f" {again_error:+.1%}, {again_closest:+.1%}, {again_spread:+.1%}; smaller differences mean nothing.",
        "",
        "| solver | spacing | steps | error | closest | spread | ms | keeps the quality |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for point in curve.points:
        error, closest, spread = curve.losses(point)
        lines.append(
            f"| {point.solver} | {point.spacing} | {point.steps} | {error:+.1%} | {closest:+.1%} | {spread:+.1%} |"
            f" {point.ms:.1f} | {'yes' if curve.keeps_quality(point) else 'no'} |"
        )
    return lines


def _verdict(curve: Curve, bundle: Bundle) -> list[str]:
    """What the measurement says of the default."""

    def named(point: Point | None) -> str:
        return f"`{point.solver}`, {point.spacing}, {point.steps} steps ({point.ms:.1f} ms)" if point else "none tried"

    any_kind, ddim = curve.cheapest(), curve.cheapest("ddim")
    spec = bundle.stages[curve.stage]
    lines = [
        f"- Cheapest that keeps the quality: {named(any_kind)}.",
        f"- Cheapest of plain DDIM: {named(ddim)}.",
        f"- The bundle's default: `{spec.solver}`, {spec.spacing}, {spec.steps} steps.",
    ]
    if any_kind and any_kind.solver != "ddim":
        lines.append(
            "- The mission asks for reduced-step DDIM. `dpmpp_2m` is its second-order member (the first step, and every"
            " step without the correction by the last one, is DDIM's); plain DDIM needs the steps in the line above."
        )
    return lines


def _machine_lines() -> list[str]:
    here = machine()
    return [f"{here['processor']}, {here['cores']} cores, ONNX Runtime {here['onnxruntime']}, Python {here['python']}."]


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


def _plot(curves: list[Curve], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(len(curves), 4, figsize=(16, 3.6 * len(curves)), squeeze=False, layout="constrained")
    titles = ("error of a draw (%)", "error of the closest draw (%)", "spread (%)", "time (ms)")
    for row, curve in zip(grid, curves, strict=True):
        for column, (axes, title) in enumerate(zip(row, titles, strict=True)):
            for solver in SOLVERS:
                for spacing in SPACINGS:
                    line = [p for p in curve.points if (p.solver, p.spacing) == (solver, spacing)]
                    values = [p.ms if column == 3 else 100 * curve.losses(p)[column] for p in line]
                    style = "-" if solver == "dpmpp_2m" else "--"
                    colour = "tab:blue" if spacing == "log_snr" else "tab:orange"
                    axes.plot([p.steps for p in line], values, style, color=colour, marker=".",
                              label=f"{solver}, {spacing}")  # fmt: skip
            if column < 3:
                limit = 100 * (SPREAD_LIMIT if column == 2 else ERROR_LIMIT)
                axes.axhspan(-limit if column == 2 else -100, limit, color="tab:green", alpha=0.12)
                axes.set_ylim(-30, 20 if column == 2 else 30)
            else:
                axes.set_yscale("log")
            axes.set_xscale("log")
            ticks = [p.steps for p in curve.points if p.steps in (3, 5, 10, 20, 50)]
            axes.set_xticks(sorted(set(ticks)), [str(tick) for tick in sorted(set(ticks))])
            axes.minorticks_off()
            axes.set_xlabel("steps")
            axes.set_title(f"{curve.stage}: {title}", fontsize=10)
            axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)
