"""What tests share: the shared facts and tensors, the open head and the open bundle; each skips where it is absent."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the nodes and `ofer` have it

ROOT = Path(__file__).resolve().parents[1]
OPEN = ROOT / "engines" / "open"


@pytest.fixture(autouse=True)
def patient_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nodes do once they have waited long enough is for the tests that ask for it, not for a busy machine. (Looked
    up among what a test file has imported: most know no ROS.)"""
    for module, *limits in (
        ("ofer_ros.nodes.ofer_node", "_PATIENCE", "_STOP_PATIENCE"),
        ("ofer_ros.work.identity_client", "PATIENCE"),
    ):
        for limit in limits if module in sys.modules else ():
            monkeypatch.setattr(sys.modules[module], limit, 120.0)  # seconds


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"the project's shared folder is not here: {folder}")
    return folder


@pytest.fixture(scope="session")
def open_head():
    from ofer_models.head import HeadModel

    return HeadModel.load(OPEN / "head.npz")


@pytest.fixture(scope="session")
def open_bundle():
    from ofer_models.bundle import Bundle

    return Bundle.load(OPEN)
