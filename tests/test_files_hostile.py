"""Files as nobody means well with, each on the loader that would get it: refused in one line, within a budget.

`hostile_files.py` tries those of the folder `hostile` in child processes, where a crash takes nothing along.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hostile_files
import numpy as np
import pytest
from hostile import parts
from hostile.pickles import PICKLES
from hostile_files import GROUPS, MAY_BE_READ, ROOT, cases

FACTOR, SPARE = 4, 200e6  # of memory that a refusal may cost: so many times the file, and so many bytes
LEAST = 120
OURS = re.compile(r"/ofer_\w+/|/tests/hostile/")  # which raise a refusal, and say it in their own words
OF_THE_SYSTEM = ("FileNotFoundError", "IsADirectoryError")  # which say what is wrong themselves


def outcomes(group: str, folder: Path) -> dict[str, dict[str, Any]]:
    """What became of every case of a group; a case at which the child dies is `crashed`, and the next goes on."""
    names = [name for name, _, _ in cases(group)]
    found: dict[str, dict[str, Any]] = {}
    while len(found) < len(names):
        (folder / "files").mkdir(exist_ok=True)
        command = [sys.executable, hostile_files.__file__, group, folder / "files", folder / "canary", len(found)]
        child = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=500)
        lines = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
        done = {line["case"]: line for line in lines if len(line) > 1}
        assert done or lines, child.stderr[-2000:]
        found |= done
        if lines[-1]["case"] not in done:
            found[lines[-1]["case"]] = {"crashed": child.returncode, "stderr": child.stderr[-500:]}
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_is_refused_in_one_line_within_its_budget(tmp_path, group):
    if group == "ros":
        pytest.importorskip("rosbags", reason="pip install rosbags")
    found = outcomes(group, tmp_path)
    assert not (tmp_path / "canary").exists(), "a payload was executed"
    wrong = {}
    for name, outcome in found.items():
        message = outcome.get("refused", "")
        if not message and not ("read" in outcome and name in MAY_BE_READ):
            wrong[name] = outcome
        elif len(message.splitlines()) > 1 or not message.isprintable() or str(ROOT / "ofer") in message:
            wrong[name] = message
        elif message and not OURS.search(outcome["where"]) and outcome["type"] not in OF_THE_SYSTEM:
            wrong[name] = outcome  # a library's error that came through
        elif outcome["left"] or outcome["grew"] > FACTOR * outcome["bytes"] + SPARE:
            wrong[name] = {part: outcome[part] for part in ("left", "grew", "bytes")}
    assert not wrong, json.dumps(wrong, indent=1)


def test_there_are_enough_of_them():
    assert sum(len(cases(group)) for group in GROUPS) >= LEAST


def test_a_loader_that_runs_code_swells_or_breaks_is_seen(tmp_path, monkeypatch):
    """The measure itself: what pickle's own reader does with two of the files, and a loader that takes memory."""
    monkeypatch.setattr(parts, "CANARY", tmp_path / "canary")
    import pickle

    path = PICKLES["eval"](tmp_path)
    outcome = hostile_files.try_out(lambda file: pickle.loads(file.read_bytes()), path)
    assert (tmp_path / "canary").exists() and "read" in outcome
    assert hostile_files.try_out(lambda file: bytearray(300 << 20), path)["grew"] > SPARE
    assert hostile_files.try_out(lambda file: {}["x"], path)["broken"] == "KeyError"


@pytest.mark.parametrize("target", ["pickle", "head", "onnx", "engine", "mat"])
def test_files_changed_at_random_are_read_or_refused(target, monkeypatch):
    """A few of `make fuzz`'s inputs."""
    import fuzz

    monkeypatch.setattr(fuzz, "SECONDS", 0)  # no alarm
    counts = fuzz.run(target, 60, seed=3)
    assert counts.total() == 60 and counts["refused"] > 20
    first, again = (fuzz.changed(b"0123456789", b"abc", np.random.default_rng([3, 7])) for _ in range(2))
    assert first == again != b"0123456789"


def test_a_loader_that_breaks_is_seen_by_the_fuzzer(monkeypatch):
    import fuzz

    monkeypatch.setattr(fuzz, "SECONDS", 0)
    monkeypatch.setitem(fuzz.TARGETS, "engine", (fuzz._records, lambda path: {}["x"], "*"))
    with pytest.raises(AssertionError, match=r"(?s)engine, seed 3, input 0: .*KeyError"):
        fuzz.run("engine", 1, seed=3)
