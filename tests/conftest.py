"""What tests share: the shared facts and tensors, the open head and the open bundle; each skips where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the nodes and `ofer` have it

ROOT = Path(__file__).resolve().parents[1]
OPEN = ROOT / "engines" / "open"


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
