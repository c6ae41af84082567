"""docs/sampling.md: the curves of `step_curve` as tables, a plot, and what they say of the default."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ofer_models.bundle.manifest import DISTILLED, Bundle
from ofer_models.workshop.measure.speed.bench import describe_host
from ofer_models.workshop.measure.speed.step_curve import ERROR_LIMIT, SOLVERS, SPACINGS, SPREAD_LIMIT, Point, StepCurve


def write_report(curves: list[StepCurve], bundle: Bundle, folder: Path, command: str) -> list[Path]:
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
        " so as well. Time: of the processor, for one face, its usual number of samples, one thread.",
        "",
        f"![error, spread and time against steps]({plot.name})",
    ]
    for curve in curves:
        lines += ["", *_section(curve, bundle)]
    text.write_text("\n".join(lines) + "\n")
    measured = [asdict(curve) for curve in curves]
    content = {"bundle": f"{bundle.name} {bundle.version}", "machine": describe_host(), "curves": measured}
    figures.write_text(json.dumps(content, indent=1))
    return [text, plot, figures]


def _section(curve: StepCurve, bundle: Bundle) -> list[str]:
    names = {"expgen": "ExpGen: expressions, true identity given", "idgen": "IdGen: head shapes"}
    lines = [f"## {names[curve.stage]}", "", *_verdict(curve, bundle), ""]
    reference = curve.reference
    lines += [
        f"{curve.pictures} pictures, {curve.samples} samples each. {reference.steps}-step DDPM: error"
        f" {reference.error:.3f}, closest {reference.closest:.3f}, spread {reference.spread:.3f} mm. The same with"
        f" other noise: {_changes(curve, curve.repeat)}; smaller differences mean nothing.",
        f"{curve.limit.steps}-step DDIM, the limit of all deterministic samplers: {_changes(curve, curve.limit)}.",
        "",
        "Changes against DDPM; the last two columns: whether the quality of 1000-step DDPM, and of 1000-step DDIM, is"
        " kept.",
        "",
        "| solver | spacing | steps | error | closest | spread | ms | DDPM | DDIM |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for point in curve.points:
        error, closest, spread = curve.losses(point)
        kept = ("yes" if curve.keeps_quality(point, base) else "no" for base in (curve.reference, curve.limit))
        lines.append(
            f"| {point.solver} | {point.spacing} | {point.steps} | {error:+.1%} | {closest:+.1%} | {spread:+.1%} |"
            f" {point.ms:.1f} | {' | '.join(kept)} |"
        )
    if curve.warmer:
        lines += ["", "The cheapest that equal 1000-step DDIM, with their starting noise times a temperature:", "",
                  "| solver | spacing | steps | temperature | error | closest | spread | DDPM |",
                  "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for point in curve.warmer:
        error, closest, spread = curve.losses(point)
        kept = "yes" if curve.keeps_quality(point) else "no"
        lines.append(
            f"| {point.solver} | {point.spacing} | {point.steps} | {point.temperature} | {error:+.1%} |"
            f" {closest:+.1%} | {spread:+.1%} | {kept} |"
        )
    return lines


def _changes(curve: StepCurve, point: Point, against: Point | None = None) -> str:
    error, closest, spread = curve.losses(point, against)
    return f"error {error:+.1%}, closest {closest:+.1%}, spread {spread:+.1%}"


def _verdict(curve: StepCurve, bundle: Bundle) -> list[str]:
    """What the measurement says of the default."""

    def named(point: Point | None) -> str:
        if not point:
            return "none tried"
        warm = f", temperature {point.temperature}" if point.temperature != 1 else ""
        steps = f"{point.steps} step{'s' if point.steps > 1 else ''}"
        return f"`{point.solver}`, {point.spacing}, {steps}{warm} ({point.ms:.1f} ms)"

    any_kind, of_limit = curve.cheapest(), curve.cheapest(against=curve.limit)
    spec = bundle.stages[curve.stage]
    lines = [
        f"- Cheapest that keeps the quality of 1000-step DDPM: {named(any_kind)}; of plain DDIM:"
        f" {named(curve.cheapest('ddim'))}.",
        f"- Cheapest that keeps that of 1000-step DDIM, so what few steps alone cost: {named(of_limit)}; of plain DDIM:"
        f" {named(curve.cheapest('ddim', curve.limit))}.",
    ]
    for what, solver in (("fewer steps keep", None), ("fewer steps of plain DDIM keep", "ddim")):
        warm, plain = curve.warmest(solver), curve.cheapest(solver)
        if warm and (plain is None or warm.steps < plain.steps):
            lines.append(f"- With a temperature, {what} DDPM's quality: {named(warm)}, {_changes(curve, warm)}.")
    usual, temperature = spec.usual, " to ".join(f"{t:g}" for t in dict.fromkeys(spec.temperature))
    at = {p.solver: p for p in curve.points if (p.spacing, p.steps) == (spec.spacing, spec.steps)}
    found = next((p for p in curve.points if p.solver == DISTILLED), None)
    if found:
        own = at.get(spec.solver)
        against = f", and {found.ms / own.ms:.2f} of the time of the {own.steps} steps of `{own.solver}`" if own else ""
        lines.append(
            f"- The bundle's default: `{DISTILLED}`, steps: {usual.steps}, temperature {temperature}: learned from"
            f" where many steps lead ({_changes(curve, found)} against DDPM,"
            f" {_changes(curve, found, curve.limit)} against DDIM{against}). Who asks for a number of steps gets the"
            f" stage's own networks, `{spec.solver}`, {spec.spacing}."
        )
    else:
        lines.append(
            f"- The bundle's default: `{spec.solver}`, {spec.spacing}, {spec.steps} steps, temperature {temperature}."
        )
    if spec.solver != "ddim":
        compared = "; ".join(
            f"{spec.steps} steps of `{solver}`: {_changes(curve, at[solver])}" for solver in SOLVERS if solver in at
        )
        lines.append(
            f"- Why {'that solver' if found else 'the default'} is not named `ddim`: with few steps plain DDIM"
            f" loses spread{f' ({compared})' if compared else ''}, and needs the steps in the lines above to keep it."
            " `dpmpp_2m` is the second-order member of DDIM's family: its first step, and every step without the"
            " correction by the last one, is DDIM's."
        )
    return lines


def _machine_lines() -> list[str]:
    here = describe_host()
    return [f"{here['processor']}, {here['cores']} cores, ONNX Runtime {here['onnxruntime']}, Python {here['python']}."]


def _plot(curves: list[StepCurve], path: Path) -> None:
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
            if one := [p for p in curve.points if p.solver == DISTILLED]:
                values = [p.ms if column == 3 else 100 * curve.losses(p)[column] for p in one]
                axes.plot([p.steps for p in one], values, "*", color="tab:red", markersize=11, label=DISTILLED)
            if column < 3:
                axes.axhline(100 * curve.losses(curve.limit)[column], color="k", linestyle=":", linewidth=1,
                             label=f"{curve.limit.steps}-step ddim")  # fmt: skip
                limit = 100 * (SPREAD_LIMIT if column == 2 else ERROR_LIMIT)
                axes.axhspan(-limit if column == 2 else -100, limit, color="tab:green", alpha=0.12)
                axes.set_ylim(-30, 20 if column == 2 else 30)
            else:
                axes.set_yscale("log")
            axes.set_xscale("log")
            ticks = [p.steps for p in curve.points if p.steps in (1, 2, 3, 5, 10, 20, 50)]
            axes.set_xticks(sorted(set(ticks)), [str(tick) for tick in sorted(set(ticks))])
            axes.minorticks_off()
            axes.set_xlabel("steps")
            axes.set_title(f"{curve.stage}: {title}", fontsize=10)
            axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)
