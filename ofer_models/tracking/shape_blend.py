"""From one head shape to the next within a moment, so that the mesh does not jump."""

from __future__ import annotations

import numpy as np

BLEND_TIME = 0.3  # s


class ShapeBlend:
    """The shape that a track shows. Meshes are linear in betas: mixing these mixes the meshes, vertex by vertex."""

    def __init__(self, betas: np.ndarray) -> None:
        """betas (S,): shown at once."""
        self._start = self.target = betas
        self._since = -np.inf

    def to(self, betas: np.ndarray, stamp: float) -> None:
        """Turn to betas (S,), from what is shown at `stamp` (seconds)."""
        self._start = self.at(stamp)[0]
        self.target, self._since = betas, stamp

    def at(self, stamp: float) -> tuple[np.ndarray, float]:
        """Betas (S,) shown at `stamp`, and how far the change has come, 0..1. Beyond its end: the target itself."""
        part = min(max((stamp - self._since) / BLEND_TIME, 0.0), 1.0)
        if part > 1 - 1e-6:  # stamps are no exact multiples of anything
            return self.target, 1.0
        eased = part * part * (3 - 2 * part)  # begins and ends without a jerk
        return (self._start + np.float32(eased) * (self.target - self._start)).astype(np.float32), part
