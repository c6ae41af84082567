"""What exact points would be worth: true points are where the picture has them, errors as large as said, and the more
exact the points the nearer heads and hypotheses."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("numba", reason="the renderer needs numba (`make train-env`)")

from conftest import OPEN

from ofer_models.files.arrays import read_npz
from ofer_models.workshop.errors import EvaluationError
from ofer_models.workshop.measure.open545 import pictures as open545
from ofer_models.workshop.measure.open545 import points, points_report, scenes
from ofer_models.workshop.measure.open545.points import ALONE, EVEN, OWN, SHIPPED
from ofer_models.workshop.measure.open545.regressor import SHIPPED as REGRESSOR
from ofer_models.workshop.measure.open545.regressor import Regressor


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> open545.Open545:
    """The first two pictures, plainly painted."""
    folder = tmp_path_factory.mktemp("open545")
    open545.generate(OPEN / "head.npz", folder, assets=None, count=2, workers=1)
    return open545.load(folder)


def test_a_scene_stands_where_it_was_drawn(open_head, data):
    own, meant = points.true_points(open_head, data)
    eyes = np.linalg.norm(own[:, 33] - own[:, 263], axis=-1)
    for row, seen in enumerate(data.clean_points):
        off = np.linalg.norm(own[row, :468] - seen[:468, :2], axis=-1).mean() / eyes[row]
        between = np.linalg.norm(own[row, :468] - meant[row], axis=-1).mean() / eyes[row]
        assert off < 0.1 and between < 0.01, "MediaPipe errs by 5 %; the head knows where it means its points"
    truth = data.clean.betas[0], data.clean.expression[0] + 0.1, data.camera[0]
    with pytest.raises(EvaluationError, match="picture 0 shows something else"):
        scenes.where_it_stands(open_head, 0, *truth)


def test_the_more_exact_the_points_the_nearer_the_answers(open_bundle, data, monkeypatch, tmp_path):
    monkeypatch.setattr(points, "PERCENT", (0.0, 6.0))
    monkeypatch.setattr(points, "SHARES", (0.5, 1.0))
    monkeypatch.setattr(points, "_EVERY", 1)
    levels = points.measure_points(open_bundle, data, Regressor(read_npz(REGRESSOR)))
    assert [level.kind for level in levels] == [EVEN, EVEN, OWN, OWN, ALONE, SHIPPED]
    exact, wrong, half, whole = levels[:4]
    assert exact.error == 0 and 5.5 < wrong.error < 6.5 and half.error == pytest.approx(whole.error / 2)
    for key in ("identity_ratio", "expression_ratio", "cse_ratio_visible"):
        assert exact.figures[key] < 0.7 * wrong.figures[key]
    assert exact.figures["spread_ratio"] > wrong.figures["spread_ratio"]
    text, plot, figures = points_report.write_points_report(levels, open_bundle, tmp_path, "ofer", "a test")
    assert text.read_text().count(f"| {EVEN} |") == 2 and plot.stat().st_size > 10_000
    assert json.loads(figures.read_text())["levels"][1]["error"] == wrong.error
