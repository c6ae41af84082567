"""The report on Open-545: OFER's tables in form, the acceptance figures with their goals, and plots."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.workshop.measure.open545 import protocol
from ofer_models.workshop.measure.open545.expression import MANY, METHODS, SHARES
from ofer_models.workshop.measure.open545.pictures import SETS
from ofer_models.workshop.measure.open545.protocol import Results

# Figure -> (what it is, goal in words, whether a value meets it); definitions: `protocol.headline`.
GOALS: dict[str, tuple[str, str, Callable[[float], bool]]] = {
    "identity_ratio": ("ranked candidate's error / random heads' average", "at most 0.40", lambda v: v <= 0.40),
    "identity_to_average": ("ranked candidate's error / the candidates' average", "below 1", lambda v: v < 1),
    "rank_gap_closed": ("way from the average to the best candidate that the ranking goes", "at least 0.5",
                        lambda v: v >= 0.5),
    "cse_ratio_occluded": ("closest hypothesis / regressor, occluded vertices", "at most 0.6", lambda v: v <= 0.6),
    "cse_ratio_visible": ("the same, visible vertices", "at most 1", lambda v: v <= 1),
    "expression_ratio": ("hypotheses' mean / neutral face, moved vertices, nothing occluded", "at most 0.40",
                         lambda v: v <= 0.40),
    "spread_ratio": ("spread at occluded vertices / at visible ones", "at least 3", lambda v: v >= 3),
    "spread_clean_ratio": ("spread at the same vertices without the occluder / with it", "at most 1/3",
                           lambda v: v <= 1 / 3),
    "ode": ("excess over the population's threshold, as a share of it", "at most 0.01", lambda v: v <= 0.01),
    "coverage90": ("truths inside the hypotheses' 90 % region, occluded vertices", "0.85 to 0.95",
                   lambda v: 0.85 <= v <= 0.95),
    "coverage90_visible": ("the same, visible vertices", "0.85 to 0.95", lambda v: 0.85 <= v <= 0.95),
    "steps_error_loss": ("error lost by the default steps against 1000-step DDPM", "at most 0.02", lambda v: v <= 0.02),
    "steps_spread_loss": ("spread lost likewise", "at most 0.05", lambda v: v <= 0.05),
}  # fmt: skip


Other = tuple[Bundle, Results]  # another bundle, measured on the same pictures


def write_report(
    results: Results, bundle: Bundle, which: str, folder: Path, command: str, compared: str, other: Other | None = None
) -> list[Path]:
    """Write open545.md (or open545_plain.md) with its plot and figures as JSON into a folder. which: of SETS; compared:
    the line on the set's hash; other: what a table is to show beside."""
    folder.mkdir(parents=True, exist_ok=True)
    text, plot, figures = (folder / f"{which.replace('-', '_')}.{ending}" for ending in ("md", "png", "json"))
    _plot(results, plot)
    n = results.pictures
    lines = [
        f"# The open bundle on {SETS[which]}",
        "",
        f"    {command}",
        "",
        f"Bundle {bundle.name} {bundle.version}. {compared}.",
        f"{n} renderings of 11 people that no training has seen, frontal, each without and with an occluder: a hand,"
        " an object (mask, glasses, cup) or a random shape (hair, blocks) in turn. The shipped graphs at their default"
        f" steps, {len(results.identity['clean'].candidates[0])} candidates, {bundle.hypotheses} hypotheses"
        f" ({MANY} for spread and coverage).",
        "",
        "## Figures and goals",
        "",
        *_goals(results),
        "",
        *(_beside(results, bundle, *other) if other else []),
        "## Identity",
        "",
        "Distance in mm at frontal vertices, mean-aligned (fixed correspondence, not NoW's scan distance): median /"
        " mean / std, in the form of OFER's table 2.",
        "",
        *_table(("method", "unoccluded", "occluded", "both"),
                [(name, *(_three(row[half]) for half in ("unoccluded", "occluded", "both")))
                 for name, row in protocol.identity_table(results)]),
        "",
        "`random heads`: the average of 1000 heads of the population. `regressor`: one answer, learned on the same"
        " pictures through the same context. `average`, `best`, `ranked`: of the candidates. `nearest to mean` and"
        " `mean of candidates` need no ranking network. `ranked with landmarks`: as the node chooses.",
        "",
        "Ranking among other candidates, both halves, in the form of OFER's table 1:",
        "",
        *_table(("candidates", "best possible", "ranked", "average"),
                [(name, *(_three(row[what]) if what in row else "-" for what in ("best", "ranked", "average")))
                 for name, row in protocol.ablation_table(results)]),
        "",
        "Ranking by the number of candidates (occluded pictures), and over several pictures of a person (the candidates"
        " of all of them, scores added up); mean errors in mm, and the way from the average to the best that is gone:",
        "",
        *_ranking(results),
        "",
        "## Expression",
        "",
        "True identity given; mm at vertices of the face, averaged over pictures, in the form of OFER's tables 3 and 4."
        " SE: root mean square error of a hypothesis; CSE: of the closest one, over the whole face, its visible and its"
        " occluded vertices (of unoccluded pictures: those that the occluder will hide); ASD: distance to the nearest"
        " (min) or farthest (max) other hypothesis at visible vertices; ASD-O: harmonic mean of fidelity where seen and"
        " diversity where hidden; ODE: excess of the Mahalanobis distance over the largest of 4000 random expressions,"
        f" in deviations (mean threshold {results.threshold:.2f}).",
        "",
        *_hypotheses(results),
        "",
        "SE of the whole face with the ranked identity, mean-aligned: "
        + ", ".join(f"{half} {np.mean(result.own_se):.2f} mm" for half, result in results.expression.items()) + ".",
        "",
        "By kind of occluder, in the form of OFER's table 5:",
        "",
        *_table(("method", "occluder", "STD-S", "ODE", "SE", "CSE"),
                [(name, group, *(_number(row[key]) for key in ("std_s", "ode", "se", "cse")))
                 for name, group, row in protocol.group_table(results)]),
        "",
        "## Calibration and steps",
        "",
        "Share of vertices of occluded pictures whose truth lies inside the region that holds a share of the"
        " hypotheses:",
        "",
        *_table(("region", *(f"{share:.0%}" for share in SHARES)),
                [(name, *(f"{value:.1%}" for value in shares)) for name, shares in _shares_inside(results).items()]),
        "",
        f"ExpGen on {protocol.STEP_PICTURES} occluded pictures: error {results.steps.error:.3f} mm and spread"
        f" {results.steps.spread:.3f} mm at the default steps, {results.steps.ddpm_error:.3f} and"
        f" {results.steps.ddpm_spread:.3f} mm by 1000-step DDPM.",
        "",
        f"![errors, spread and coverage]({plot.name})",
    ]  # fmt: skip
    text.write_text("\n".join(lines) + "\n")
    figures.write_text(json.dumps(content(results, bundle, command, compared, other), indent=1) + "\n")
    return [text, plot, figures]


def content(results: Results, bundle: Bundle, command: str, compared: str, other: Other | None = None) -> dict:
    """Figures for a JSON file: the acceptance keys at the top, the tables and the other bundle's keys below them."""
    hypotheses = [{"method": name, "pictures": half, **row} for name, half, row in protocol.hypothesis_table(results)]
    groups = [{"method": name, "occluder": group, **row} for name, group, row in protocol.group_table(results)]
    tables = {
        "identity": dict(protocol.identity_table(results)), "ranking": dict(protocol.ablation_table(results)),
        "expression": _finite(hypotheses), "occluders": _finite(groups),
        "candidates": {count: asdict(one) for count, one in results.counts.items()},
        "frames": {which: {count: asdict(one) for count, one in several.items()}
                   for which, several in results.frames.items()},
        "coverage": {name: dict(zip(map(str, SHARES), shares, strict=True))
                     for name, shares in _shares_inside(results).items()},
    }  # fmt: skip
    return {
        **results.figures, "bundle": f"{bundle.name} {bundle.version}", "set": compared, "pictures": results.pictures,
        "command": command, "tables": tables,
        **({"beside": {_name(other[0]): other[1].figures}} if other else {}),
    }  # fmt: skip


def _goals(results: Results) -> list[str]:
    rows = []
    for key, value in results.figures.items():
        what, goal, met = GOALS.get(key, (_EXTRA.get(key, ""), "", None))
        rows.append((f"`{key}`", what, f"{value:.3g}", goal, "" if met is None else "yes" if met(value) else "no"))
    return _table(("figure", "what", "value", "goal", "reached"), rows)


def _beside(results: Results, bundle: Bundle, other: Bundle, others: Results) -> list[str]:
    """Both bundles' figures, and what each says of heads and expressions beside those who know less."""
    names, rows = (_name(other), _name(bundle)), []
    for key, value in results.figures.items():
        what, goal, _ = GOALS.get(key, (_EXTRA.get(key, ""), "", None))
        rows.append((f"`{key}`", what, _number(others.figures[key]), _number(value), goal))
    heads, faces = (
        [dict(protocol.identity_table(one)) for one in (others, results)],
        [{(name, half): row for name, half, row in protocol.hypothesis_table(one)} for one in (others, results)],
    )
    errors = [(f"head: {name}", *(_number(head[name]["both"]["median"]) for head in heads)) for name in heads[1]]
    errors += [(f"face, {half}: {name}", *(_number(face[name, half]["cse"]) for face in faces))
               for name, half in faces[1]]  # fmt: skip
    return [
        f"## Beside {names[0]}", "",
        "In the same run, on the same pictures, each with the regressor of its own encoders.", "",
        *_table(("figure", "what", *names, "goal"), rows), "",
        "Errors in mm, which the tables below tell more about: of heads the median over all pictures, of faces the"
        " closest sample's.", "",
        *_table(("", *names), errors), "",
    ]  # fmt: skip


def _name(bundle: Bundle) -> str:
    return f"{bundle.name} {bundle.version}"


_EXTRA = {
    "nearest_gap_closed": "the same way, by the candidate nearest to the candidates' mean",
    "mean_gap_closed": "the same way, by that mean itself",
    "spread_ratio_relative": "spread as a share of random expressions' at the same vertex, occluded / visible",
    "identity_ratio_with_landmarks": "as the node chooses, by rank and landmarks / random heads' average",
}


def _ranking(results: Results) -> list[str]:
    rows = [(f"{count} candidates", figures) for count, figures in results.counts.items()]
    rows += [(f"{count} pictures, {which}", figures)
             for which, several in results.frames.items() for count, figures in several.items()]  # fmt: skip
    header = ("", "average", "best", "ranked", "nearest to mean", "mean", "ranked: gone", "nearest: gone")
    return _table(header, [
        (name, *(f"{v:.3f}" for v in (f.average, f.best, f.ranked, f.nearest, f.mean)),
         f"{f.gap_closed:.2f}", f"{f.nearest_gap_closed:.2f}") for name, f in rows
    ])  # fmt: skip


def _hypotheses(results: Results) -> list[str]:
    keys = ("se", "cse", "cse_seen", "cse_hidden", "min_asd_v", "max_asd_v", "asd_o", "ode", "ode_o", "ode_v")
    names = ("SE", "CSE", "visible", "occluded", "minASD-V", "maxASD-V", "ASD-O", "ODE", "ODE-O", "ODE-V")
    rows = [
        (name, half, *(_number(row[key]) for key in keys)) for name, half, row in protocol.hypothesis_table(results)
    ]
    return _table(("method", "pictures", *names), rows)


def _table(header: tuple, rows: list[tuple]) -> list[str]:
    return [f"| {' | '.join(header)} |", "|" + "---|" * len(header), *(f"| {' | '.join(row)} |" for row in rows)]


def _three(row: dict[str, float]) -> str:
    return f"{row['median']:.2f} / {row['mean']:.2f} / {row['std']:.2f}"


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "-"


def _shares_inside(results: Results) -> dict[str, list[float]]:
    """By part of the face: of each of SHARES, how many of its vertices."""
    covered = results.expression["occluded"]
    return {name: np.concatenate(inside, axis=1).mean(1).tolist()
            for name, inside in (("occluded", covered.inside), ("visible", covered.inside_seen))}  # fmt: skip


def _finite(rows: list[dict]) -> list[dict]:
    """JSON knows no NaN."""
    return [{k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()} for row in rows]


def _plot(results: Results, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (first, second, third, fourth) = plt.subplots(1, 4, figsize=(18, 4.2), layout="constrained")
    table = protocol.identity_table(results)
    place = np.arange(len(table))
    for offset, half in ((-0.2, "unoccluded"), (0.2, "occluded")):
        first.barh(place + offset, [row[half]["median"] for _, row in table], 0.4, label=half)
    first.set(yticks=place, yticklabels=[name for name, _ in table], title="identity: median error (mm)")
    first.invert_yaxis()
    first.legend()
    covered = results.expression["occluded"]
    place = np.arange(len(METHODS))
    for offset, label, column in ((-0.2, "visible", covered.cse_seen), (0.2, "occluded", covered.cse_hidden)):
        second.bar(place + offset, [np.nanmean(column[name]) for name in METHODS], 0.4, label=f"{label} vertices")
    second.set(xticks=place, xticklabels=METHODS, title="expression: error of the closest sample (mm)")
    second.tick_params(axis="x", rotation=15)
    second.legend()
    clean, bins = results.expression["clean"], np.linspace(0, 6, 90)
    for label, values in (
        ("visible", protocol.pooled(covered.spread, covered.visible)),
        ("occluded", protocol.pooled(covered.spread, covered.hidden)),
        ("the same, occluder taken away", protocol.pooled(clean.spread, covered.hidden)),
    ):
        third.hist(values, bins, histtype="step", density=True, label=label)
    third.set(title=f"spread of {MANY} hypotheses at a vertex (mm)")
    third.legend()
    fourth.plot([0, 1], [0, 1], "k:", linewidth=1)
    for name, shares in _shares_inside(results).items():
        fourth.plot(SHARES, shares, "o-", label=f"{name} vertices")
    fourth.legend()
    fourth.set(title="truths inside the hypotheses' region", xlabel="share of hypotheses inside", xlim=(0.4, 1),
               ylim=(0.4, 1))  # fmt: skip
    figure.savefig(path, dpi=80)
    plt.close(figure)
