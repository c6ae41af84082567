"""The rooms of the code: who may import whom, and that a robot needs nothing of the workshop."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A frame of a photograph through the node's pipeline, where torch and the build-time rooms cannot be imported.
ROBOT = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch" or name in ("ofer_models.workshop", "ofer_models.cli"):
            raise ImportError(f"{name} is not on this robot")

sys.meta_path.insert(0, Refuse())
import numpy as np
import ofer_ros.nodes.ofer_node as node
from ofer_ros.base.parameters import defaults
from ofer_ros.base.settings import OferSettings
from skimage.data import astronaut

pipeline = node.load_pipeline(OferSettings(**defaults("ofer_node")))
(face,) = pipeline(np.ascontiguousarray(astronaut()), 0.0)
print(pipeline.vertices(face).shape, len(face.expressions))
"""


def test_every_room_keeps_to_its_direction(monkeypatch):
    pytest.importorskip("importlinter")
    from importlinter import cli

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cli.logging_config, "dictConfig", lambda _: None)  # it switches all loggers off, for good
    assert cli.lint_imports(no_cache=True) == 0


def test_a_robot_needs_neither_torch_nor_workshop_nor_commands(open_bundle):
    if importlib.util.find_spec("ofer_msgs") is None:
        pytest.skip("source .venv/ofer_env.sh")
    result = subprocess.run([sys.executable, "-c", ROBOT], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert result.returncode == 0, result.stderr
    head = open_bundle.head
    assert result.stdout.split("\n")[-2] == f"{(head.n_vertices, 3)} 15"
