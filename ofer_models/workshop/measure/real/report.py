"""The report on photographs: tables of one or two bundles, and what comes through of each measure as plots."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ofer_models.workshop.measure.real.protocol import RealResults
from ofer_models.workshop.pictures.measures import MEASURES

NAME = "photographs"


def write_report(results: dict[str, RealResults], folder: Path, command: str) -> list[Path]:
    """Write photographs.md and photographs.png of bundle -> results into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text, plot = folder / f"{NAME}.md", folder / f"{NAME}.png"
    _plot(results, plot)
    names = list(results)
    lines = [
        "# Photographs", "", f"    {command}", "",
        "Real people, no 3D truth. Lengths are parts of the distance between the eyes' centres unless in mm; what each"
        " figure is: `workshop/measure/real/protocol.py` and `paired.py`.", "",
        "## How much of a movement comes through", "",
        "Slope (and correlation) over the pictures against MediaPipe's own points, and slope against annotated points"
        " where there are any; 1 is all.", "",
        *_table(
            ("measure", *(f"{name}: {what}" for name in names for what in ("mean", "selected", "annotated, mean"))),
            [(measure, *(cell for name in names for cell in _movement(results[name].figures, measure)))
             for measure in MEASURES],
        ),
        "", f"![slopes]({plot.name})", "",
        "## All other figures", "",
        *_table(("figure", *names), [
            (f"`{key}`", *(f"{results[name].figures.get(key, np.nan):.3g}" for name in names))
            for key in results[names[-1]].figures if not key.startswith(("slope_", "correlation_", "annotated_slope_"))
        ]),
        "",
    ]  # fmt: skip
    text.write_text("\n".join(lines))
    return [text, plot]


def _movement(figures: dict[str, float], measure: str) -> tuple[str, str, str]:
    key = measure.replace(" ", "_")
    both = (f"{figures[f'slope_{key}_{what}']:.2f} ({figures[f'correlation_{key}_{what}']:.2f})"
            for what in ("mean", "selected"))  # fmt: skip
    return (*both, f"{figures[f'annotated_slope_{key}_mean']:.2f}")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *rows)]


def _plot(results: dict[str, RealResults], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 5, figsize=(15, 6.2))
    for axis, measure in zip(axes.flat, MEASURES, strict=False):
        for name, result in results.items():
            columns = result.series[measure]
            axis.plot(columns["seen"], columns["mean"], ".", label=name, alpha=0.7)
        low, high = axis.get_xlim()
        axis.plot((low, high), (low, high), "k-", linewidth=0.5)
        axis.set_title(measure)
    for axis in axes.flat[len(MEASURES) :]:
        axis.axis("off")
    axes.flat[len(MEASURES) - 1].legend()
    figure.supxlabel("MediaPipe's points")
    figure.supylabel("hypotheses' mean")
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    plt.close(figure)
