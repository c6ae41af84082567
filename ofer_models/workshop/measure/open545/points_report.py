"""The report on what exact points would be worth: a page, its plot and its figures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ofer_models.bundle.manifest import Bundle
from ofer_models.workshop.measure.open545.points import EVEN, OWN, Level
from ofer_models.workshop.measure.open545.report import GOALS

_NAME = "open545_points"
_SHOWN = ("identity_ratio", "expression_ratio", "cse_ratio_occluded", "spread_ratio", "spread_clean_ratio",
          "coverage90", "coverage90_visible")  # fmt: skip
# Of the plots: figure -> (title, where the goal's line or lines lie).
_PANELS = {
    "identity_ratio": ("heads: error / random heads'", (0.4,)),
    "expression_ratio": ("expressions: error / neutral face's", (0.4,)),
    "spread_ratio": ("spread, hidden / seen", (3.0,)),
    "spread_clean_ratio": ("spread, occluder taken away / with it", (1 / 3,)),
    "coverage90": ("truths inside 90 %, hidden", (0.85, 0.95)),
    "coverage90_visible": ("truths inside 90 %, seen", (0.85, 0.95)),
}  # fmt: skip

_ABOUT = (
    "Encoders and samplers as they are; what they draw is moved to points made of the truth. \"%\": mean distance of"
    " seen points from the truth, of the distance between the eyes. *Independent errors* are drawn for each point by"
    " itself; *the network's, made smaller* are its own on these pictures, from where it means its points, with"
    " deviations as much smaller. All are told with their deviations (exact ones with 0.5 %), and with the network's"
    " word on which are seen. *The network alone* is without MediaPipe's points, *as shipped* with them.",
    "",
    "Figures are [Open-545's](open545.md), on every fifth picture; `identity_ratio` is that of heads as the node has"
    " them, the candidates' mean moved to one picture's points. \"Face\": root mean square error of a hypothesis on"
    " that head, mean-aligned, nothing covered.",
)


def write_points_report(levels: list[Level], bundle: Bundle, folder: Path, command: str, compared: str) -> list[Path]:
    """Write open545_points.md with its plot and figures as JSON into a folder. compared: the line on the set's hash."""
    folder.mkdir(parents=True, exist_ok=True)
    text, plot, figures = (folder / f"{_NAME}.{ending}" for ending in ("md", "png", "json"))
    _plot(levels, plot)
    goals = [GOALS[key][1] for key in _SHOWN]
    rows = [(level.kind, f"{level.error:.2f}", *(f"{level.figures[key]:.3f}" for key in _SHOWN),
             f"{level.figures['own_se']:.2f}") for level in levels]  # fmt: skip
    header = ("errors of the points", "%", *(f"`{key}`" for key in _SHOWN), "face, mm")
    lines = [
        "# What exact points would be worth", "", f"    {command}", "",
        f"Bundle {bundle.name} {bundle.version}. {compared}.", "",
        *_ABOUT, "",
        f"| {' | '.join(header)} |", "|" + "---|" * len(header),
        *(f"| {' | '.join(row)} |" for row in (("goal", "", *goals, ""), *rows)), "",
        f"![each figure by the points' error]({plot.name})",
    ]  # fmt: skip
    text.write_text("\n".join(lines) + "\n")
    content = {"bundle": f"{bundle.name} {bundle.version}", "set": compared, "command": command,
               "levels": [asdict(level) for level in levels]}  # fmt: skip
    figures.write_text(json.dumps(content, indent=1) + "\n")
    return [text, plot, figures]


def _plot(levels: list[Level], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(14, 7), layout="constrained", sharex=True)
    for panel, (key, (title, goals)) in zip(panels.ravel(), _PANELS.items(), strict=True):
        for kind in dict.fromkeys(level.kind for level in levels):
            own = [(level.error, level.figures[key]) for level in levels if level.kind == kind]
            style, size = ("o-", 5) if kind in (EVEN, OWN) else ("*", 13)
            panel.plot(*zip(*own, strict=True), style, markersize=size, label=kind)
        for goal in goals:
            panel.axhline(goal, color="k", linestyle=":", linewidth=1)
        panel.set(title=title)
        panel.set_ylim(bottom=0)
    for panel in panels[-1]:
        panel.set_xlabel("mean error of seen points, % of the distance between the eyes")
    panels[0, 0].legend()
    figure.savefig(path, dpi=80)
    plt.close(figure)
