"""The soak: what it checks by itself, a few seconds of it in every run, a minute where there is time (-m long)."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import json
import subprocess
import sys

import numpy as np

from tools.soak.camera import ENCODINGS, encoded
from tools.soak.checks import ADD, DELETE, DELETE_ALL, STALE_AFTER, Memory, Scene3D, unaccounted

pytestmark = pytest.mark.ros


def test_a_marker_that_is_said_again_or_deleted_is_not_stale():
    scene = Scene3D()
    scene.message([("mesh", 0, ADD, 2.0), ("mesh", 1, ADD, 2.0)], 0.0)
    scene.message([("mesh", 0, ADD, 2.0), ("mesh", 1, DELETE, 2.0)], 1.0)
    for moment in np.linspace(1.1, 1.1 + STALE_AFTER, 4):
        scene.message([("mesh", 0, ADD, 2.0)], moment)
    assert not scene.stale and set(scene.shown) == {("mesh", 0)}


def test_a_marker_that_nobody_mentions_or_deletes_is_stale_once():
    scene = Scene3D()
    scene.message([("mesh", 0, ADD, 2.0), ("text", 0, ADD, 2.0)], 0.0)
    for moment in (0.5, 1.0, 1.6, 2.0, 2.4):
        scene.message([("mesh", 0, ADD, 2.0)], moment)
    assert scene.stale == {"text 0": 1}


def test_a_reader_that_was_away_cannot_know_what_was_deleted():
    scene = Scene3D()
    scene.message([("mesh", 0, ADD, 2.0), ("text", 0, ADD, 2.0)], 0.0)
    for moment in (2.0, 2.5, 3.0, 3.6):
        scene.message([("mesh", 0, ADD, 2.0)], moment)
    assert not scene.stale and set(scene.shown) == {("mesh", 0)}


def test_a_marker_without_a_lifetime_would_stay_when_the_node_dies():
    scene = Scene3D()
    scene.message([("mesh", 0, ADD, 0.0)], 0.0)
    assert scene.stale == {"mesh without a lifetime": 1}


def test_only_a_last_message_that_takes_everything_away_counts_as_cleared():
    scene = Scene3D()
    scene.message([("mesh", 0, ADD, 2.0)], 0.0)
    assert not scene.cleared
    scene.message([("mesh", 0, DELETE_ALL, 0.0)], 0.1)
    assert scene.cleared and not scene.stale
    scene.message([("mesh", 0, ADD, 2.0)], 0.2)
    assert not scene.cleared


def test_memory_counts_from_when_it_has_settled():
    memory = Memory(settled=60.0)
    for second in range(600):
        memory.add(second, 100 + min(second, 50) + 0.05 * max(0, second - 60))
    assert memory.growth == pytest.approx(0.05 * 540, rel=0.02)
    memory = Memory(settled=60.0)
    for second in range(600):
        memory.add(second, 400 + 30 * (second % 70 < 25))
    assert abs(memory.growth) < 10, "up and down is no growth"
    assert Memory(settled=60.0).growth == 0.0


def test_what_a_node_took_and_neither_finished_nor_gave_up_is_open():
    ends = {"frames_processed": "90", "frames_dropped": "6", "bad_images": "2", "failures": "1"}
    assert unaccounted({"frames_in": "99", **ends}) == 0
    assert unaccounted({"frames_in": "104", **ends}) == 5


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_rough_camera_s_encodings_are_the_same_picture(encoding):
    from ros_support import image_message

    from ofer_ros.input.images import image_to_rgb

    rgb = np.full((4, 6, 3), (200, 100, 50), np.uint8)
    pixels = encoded(rgb, encoding)
    seen = image_to_rgb(image_message(pixels, encoding)).astype(int)
    expected = np.full(3, 124) if encoding == "mono8" else rgb.astype(int)
    assert np.abs(seen - expected).max() <= (0 if encoding in ("rgb8", "bgr8") else 12)


def soak(folder, seconds: float, cycles: int) -> dict:
    """Run it as `make soak` does; its summary."""
    command = [sys.executable, "-m", "tools.soak", "--seconds", str(seconds), "--cycles", str(cycles)]
    done = subprocess.run(
        [*command, "--out", str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    summary = json.loads((folder / "soak.json").read_text())
    assert summary["problems"] == [], done.stdout + (folder / "logs" / "ofer_node.log").read_text()
    assert done.returncode == 0
    assert f"{summary['counts']['transitions']}" in done.stdout and "0 problem(s)" in done.stdout
    return summary


def test_a_few_rough_seconds(open_bundle, tmp_path):
    summary = soak(tmp_path / "soak", 5, 1)
    assert summary["camera"]["stops"] == 5
    assert summary["counts"]["cycles"] == 1
    # Up; once round with six, two of which are impossible; down.
    assert summary["counts"]["transitions"] == 2 + 6 + 3
    assert summary["counts"]["faces"] > 0


@pytest.mark.long
def test_a_rough_minute(open_bundle, tmp_path):
    summary = soak(tmp_path / "soak", 60, 20)
    assert summary["counts"]["cycles"] == 20 and summary["camera"]["stops"] == 5
    assert summary["camera"]["resolutions"] == summary["camera"]["calibrations"] == 20
    assert summary["camera"]["turns"] == 12 and summary["camera"]["frozen"] and summary["camera"]["jpegs"]
    assert summary["camera"]["broken"] >= 1 and summary["node"]["failures"] == "0"
    assert summary["memory"]["growth_mb"] < 20
    assert summary["counts"]["parameters"] + summary["counts"]["parameters_refused"] == 60
