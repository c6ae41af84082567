"""Noise that a bundle brings along, for samplers that must repeat another program's random numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ofer_models.files.arrays import read_npz


class RecordedNoise:
    """Starting noise (R, D) and what a stochastic solver adds at its steps (K, R, D), the same for every face.

    Fewer than R samples take the first rows, as the recorded program's first samples.
    """

    def __init__(self, path: Path) -> None:
        """Read arrays `start` and `added` of an .npz; raises ValueError when they do not belong together."""
        arrays = read_npz(path, {"start", "added"}.__contains__)
        if set(arrays) != {"start", "added"} or any(array.dtype.kind != "f" for array in arrays.values()):
            raise ValueError(f"{path.name} should hold the numbers `start` and `added`, and nothing else")
        self._start, self._added = arrays["start"], arrays["added"]
        if self._start.ndim != 2 or self._added.shape[1:] != self._start.shape:
            raise ValueError(f"{path.name}: starting and added noise have the shapes "
                             f"{self._start.shape} and {self._added.shape}")  # fmt: skip
        self._path = path

    def start(self, shape: tuple[int, int, int]) -> np.ndarray:
        """Starting noise (F, N, D) float32; raises ValueError when more samples are asked for than recorded."""
        return self._rows(self._start, shape)

    def stream(self) -> RecordedStream:
        """The added noise from the first step on, to be drawn from like a random generator."""
        return RecordedStream(self)

    def _added_at(self, step: int, shape: tuple[int, int, int]) -> np.ndarray:
        if step >= len(self._added):
            raise ValueError(f"{self._path.name} holds noise for {len(self._added)} steps; use the bundle's own steps")
        return self._rows(self._added[step], shape)

    def _rows(self, recorded: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        faces, samples, _ = shape
        if shape[1] > len(recorded) or shape[2] != recorded.shape[1]:
            raise ValueError(f"{self._path.name} holds noise for {len(recorded)} samples of {recorded.shape[1]} "
                             f"coefficients, asked for {samples} of {shape[2]}")  # fmt: skip
        return np.repeat(recorded[None, :samples], faces, axis=0).astype(np.float32)


class RecordedStream:
    """In the place of numpy's Generator: every call gives the next step's noise."""

    def __init__(self, noise: RecordedNoise) -> None:
        self._noise, self._step = noise, 0

    def standard_normal(self, size: tuple[int, int, int], dtype: type = np.float32) -> np.ndarray:
        """The next step's noise of shape (F, N, D)."""
        self._step += 1
        return self._noise._added_at(self._step - 1, size).astype(dtype, copy=False)
