"""Hypotheses on the video of a still face: they flow, where independent draws jump."""

from __future__ import annotations

import math

import pytest

from ofer_models.workshop.measure.speed import flow


@pytest.fixture(scope="module")
def flows(open_bundle) -> dict[str, flow.Flow]:
    return {name: flow.measure(open_bundle, flow.DRIFTS[name], 24) for name in ("frozen", "drift 0.5", "independent")}


def test_jitter_is_under_a_third_of_that_of_independent_draws_at_equal_spread(flows):
    independent = flows["independent"]
    for name in ("frozen", "drift 0.5"):
        assert flows[name].jitter < independent.jitter / 3
        # Fifteen samples that stay the same, or nearly so, are one draw: 1.4 to 2.2 mm by the seed.
        assert flows[name].spread == pytest.approx(independent.spread, rel=0.4)
    assert flows["frozen"].jitter < flows["drift 0.5"].jitter
    assert independent.spread > 1.0  # they do differ


def test_the_figure_and_the_numbers_are_written(flows, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(flow, "measure", lambda bundle, drift, frames: {f.drift: f for f in flows.values()}[drift])
    monkeypatch.setattr(flow, "DRIFTS", {"frozen": 0.0, "independent": math.inf})
    picture, numbers = tmp_path / "flow.png", tmp_path / "flow.json"
    assert flow.main(["--figure", str(picture), "--json", str(numbers)]) == 0
    assert picture.stat().st_size > 5000 and "jitter_mm" in numbers.read_text()
    assert "independent" in capsys.readouterr().out
