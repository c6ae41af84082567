"""A training's curves, for people: a PNG, and TensorBoard's event files where TensorBoard is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ofer_models.workshop.train.loop import History


class TrainingCurves:
    """Draws `<name>.png` in a folder and writes events to tensorboard/<name>, a point for each row of the history."""

    def __init__(self, folder: Path, name: str) -> None:
        self._png, self._events, self._name = folder / f"{name}.png", folder / "tensorboard" / name, name
        self._writer = None

    def __call__(self, history: History) -> None:
        """Show a history that has grown by a row."""
        step, training, validation = history.rows[-1]
        if importlib.util.find_spec("tensorboard"):
            if not self._writer:
                from torch.utils.tensorboard import SummaryWriter

                # What a stopped run wrote beyond its checkpoint is written once more.
                self._writer = SummaryWriter(self._events, purge_step=step)
            self._writer.add_scalar("loss/training", training, step)
            self._writer.add_scalar("loss/held out", validation, step)
            self._writer.flush()
        self._draw(history)

    def _draw(self, history: History) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        steps, training, validation = zip(*history.rows, strict=True)
        axes.plot(steps, training, ".-", label="training")
        other = axes.twinx()  # the two figures are of different kinds
        other.plot(steps, validation, ".-", color="tab:orange", label="held out")
        axes.set(title=self._name, xlabel="step", ylabel="training loss")
        other.set_ylabel("held out")
        figure.legend(*(a + b for a, b in zip(*(x.get_legend_handles_labels() for x in (axes, other)), strict=True)),
                      loc="upper right", bbox_to_anchor=(1, 1), bbox_transform=axes.transAxes)  # fmt: skip
        FigureCanvasAgg(figure).print_png(self._png)
