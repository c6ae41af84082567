"""Deterministic weights: recipe R1 of the golden tensors' README, and where those tensors lie."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"


def golden(name: str) -> dict[str, np.ndarray]:
    """All arrays of one golden file; skips the test where the files are not at hand."""
    path = GOLDEN / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"golden tensors are not here: {path}")
    with np.load(path) as arrays:
        return dict(arrays)


def recipe_tensor(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The float32 tensor that recipe R1 gives an official name and shape."""
    x = np.random.RandomState((seed + zlib.crc32(key.encode("ascii"))) % 2**32).standard_normal(size=shape)
    kind = key.rsplit(".", 1)[-1]
    if kind in ("weight", "in_proj_weight") and len(shape) >= 2:
        x = x / np.sqrt(np.prod(shape[1:]))
    elif kind in ("weight", "g"):
        x = 1 + 0.2 * x
    elif kind in ("bias", "in_proj_bias", "running_mean", "class_embedding", "positional_embedding"):
        x = 0.1 * x
    elif kind == "running_var":
        x = 1 + 0.2 * np.abs(x)
    elif kind == "proj":
        x = x / np.sqrt(shape[0])
    else:
        raise KeyError(f"recipe R1 has no rule for {key}")
    return np.asarray(x, np.float32)


def recipe_state(slots: dict, seed: int) -> dict[str, torch.Tensor]:
    """Recipe weights for a whole table of official slots."""
    return {key: torch.from_numpy(recipe_tensor(key, slot.shape, seed)) for key, slot in slots.items()}


def relative_error(actual, expected) -> float:
    """max |a - b| / max |b|, the measure of the golden files' tolerances."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
