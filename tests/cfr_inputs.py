"""CFR-GAN's files in their formats with made-up numbers inside: the face model's `.mat` and the regressor's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from recipe import recipe_state

from ofer_models.workshop.networks.cfr import CfrRegressor

SIDES = (37, 41)  # of the grid that the small face is


def grid_faces(rows: int, columns: int) -> np.ndarray:
    """Triangles (F, 3) of a grid, counter-clockwise seen from the front: rows go up, columns to the person's left."""
    at = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def basel_fields(count: int | None = None, sides: tuple[int, int] = SIDES, first: int = 0) -> dict[str, np.ndarray]:
    """A bulging grid as BFM_model_80.mat (first=0), or as BFM_model_front.mat (first=1: from one, bytes of colour).

    count: vertices, of which the grid's are the first and the others belong to no triangle.
    """
    rng = np.random.RandomState(11)
    y, x = np.mgrid[-1 : 1 : sides[0] * 1j, -1 : 1 : sides[1] * 1j]
    grid = np.stack([0.8 * x, y, 0.6 * (1 - x**2 - 0.5 * y**2)], -1).reshape(-1, 3)
    n = count or len(grid)
    mean = np.zeros((n, 3))
    mean[: len(grid)] = grid

    def normal(scale: float, columns: int) -> np.ndarray:
        return (scale * rng.standard_normal((3 * n, columns))).astype(np.float32)

    scale = 255 if first else 1
    return {
        "meanshape": mean.reshape(1, -1).astype(np.float32), "idBase": normal(0.01, 80), "exBase": normal(0.01, 64),
        "meantex": (scale * rng.uniform(0.2, 0.8, (1, 3 * n))).astype(np.float32), "texBase": scale * normal(0.01, 80),
        "tri": (grid_faces(*sides) + first).astype(np.int32),
        "keypoints": (rng.randint(0, len(grid), (1, 68)) + first).astype(np.int32),
        "skinmask": (rng.uniform(size=(1, n)) > 0.3).astype(np.uint8),
    }  # fmt: skip


def coefficients(count: int) -> np.ndarray:
    """(count, 257) float32 as a regressor gives them."""
    drawn = 0.3 * np.random.RandomState(12).standard_normal((count, 257))
    return drawn.astype(np.float32)


def write_basel(path: Path, compressed: bool = True, **changes: int | tuple[int, int]) -> Path:
    from scipy.io import savemat

    savemat(path, basel_fields(**changes), do_compression=compressed)
    return path


def regressor_state(depths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return recipe_state(CfrRegressor(depths).official_slots(), 21)


def write_regressor(path: Path, depths: tuple[int, ...], prefix: str = "") -> Path:
    state = {prefix + name: tensor for name, tensor in regressor_state(depths).items()}
    torch.save(state | {f"{prefix}bn1.num_batches_tracked": torch.tensor(3)}, path)
    return path


def picture() -> torch.Tensor:
    """(2, 3, 224, 224) in 0..1."""
    at = torch.arange(2 * 3 * 224 * 224, dtype=torch.float64)
    return (0.5 + 0.5 * torch.sin(at * 0.37 + at**2 * 1e-7)).float().reshape(2, 3, 224, 224)


def random(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers that are the same everywhere."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))
