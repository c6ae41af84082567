"""What `ofer evaluate --set eyes --report FOLDER` writes: eyes.json, and the curve of the training as eyes.png."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ofer_models.workshop.measure.eyes.figures import Results
from ofer_models.workshop.train.eyes.training import CURVE


def write_report(results: Results, work: Path, folder: Path, command: str) -> list[Path]:
    """Write the figures with the command and the training's curve; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    curve = json.loads((work / CURVE).read_text())
    figures = folder / "eyes.json"
    figures.write_text(json.dumps({"command": command, **asdict(results), "curve": curve}, indent=1) + "\n")
    picture = folder / "eyes.png"
    draw_curve(curve, results.figures["mediapipe"], picture)
    return [figures, picture]


def draw_curve(curve: list[dict], mediapipe: dict[str, float], path: Path) -> None:
    """Errors by training step, on renderings (seen and hidden points) and on real faces, with MediaPipe's as lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    lines = (
        (panels[0], (("visible_mean", "seen"), ("hidden_mean", "hidden")), "renderings, % of the eyes' distance"),
        (panels[1], (("inner", "as they are"), ("inner_no_offsets", "constant offsets out")),
         "real faces, inner 51 points, % of the outer eyes' distance"),
    )  # fmt: skip
    for axes, wanted, title in lines:
        for colour, (name, label) in zip(("tab:blue", "tab:orange"), wanted, strict=True):
            rows = [row for row in curve if name in row]
            axes.plot([row["step"] for row in rows], [row[name] for row in rows], ".-", color=colour, label=label)
            if name in mediapipe:
                axes.axhline(mediapipe[name], ls=":", color=colour, label=f"MediaPipe, {label}")
        axes.set(title=title, xlabel="step of 64 pictures")
        axes.title.set_fontsize(9)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
    FigureCanvasAgg(figure).print_png(path)
