"""FLAME's landmarks for pictures: 51 that stay where they are, and 17 on the contour that slide as the head turns.

The head model's own `landmarks68` are the ones that stay. These are for comparison with methods that fit pictures by
FLAME's moving contour; the pipeline does not need them. Tables: `landmark_embedding.npy` of MICA and OFER; which of
their rows goes with which yaw is the rule of the FLAME code that they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ofer_models.head.model import rotation_matrices

_LAST = 39  # degrees: the tables have a row for each degree to 39 on one side, then to 39 on the other


@dataclass(frozen=True)
class MovingLandmarks:
    """static_triangle (51,), static_bary (51, 3); contour_triangle (79, 17), contour_bary (79, 17, 3)."""

    static_triangle: np.ndarray
    static_bary: np.ndarray
    contour_triangle: np.ndarray
    contour_bary: np.ndarray

    @classmethod
    def of(cls, tables: Mapping[str, np.ndarray]) -> MovingLandmarks:
        """From the file's tables by their names there, as `safe_pickle.read_object_npy` returns them."""
        return cls(
            *(
                np.asarray(tables[f"{kind}_lmk_{part}"])
                for kind in ("static", "dynamic")
                for part in ("faces_idx", "bary_coords")
            )
        )

    def __call__(
        self,
        vertices: np.ndarray,
        faces: np.ndarray,
        rotation: np.ndarray | None = None,
        neck: np.ndarray | None = None,
    ) -> np.ndarray:
        """Landmarks (B, 68, 3), contour first, on vertices (B, V, 3) posed by rotation and neck (B, 3) axis-angle."""
        rest = np.zeros((len(vertices), 3))
        turn = rotation_matrices(rest if rotation is None else np.asarray(rotation, np.float64))
        turn = turn @ rotation_matrices(rest if neck is None else np.asarray(neck, np.float64))
        row = contour_row(turn)
        contour = _on_surface(vertices, faces, self.contour_triangle[row], self.contour_bary[row])
        return np.concatenate([contour, _on_surface(vertices, faces, self.static_triangle, self.static_bary)], axis=1)


def contour_row(turn: np.ndarray) -> np.ndarray:
    """The tables' row (B,) for rotations (B, 3, 3) of the head: 0..39 for yaw 0..39 degrees, 40..78 for -1..-39."""
    yaw = np.degrees(np.arctan2(-turn[:, 2, 0], np.hypot(turn[:, 0, 0], turn[:, 1, 0])))
    yaw = np.round(np.minimum(yaw, _LAST)).astype(int)
    return np.where(yaw >= 0, yaw, np.where(yaw < -_LAST, 2 * _LAST, _LAST - yaw))


def _on_surface(vertices: np.ndarray, faces: np.ndarray, triangle: np.ndarray, bary: np.ndarray) -> np.ndarray:
    """Points (B, L, 3) on vertices (B, V, 3); triangle (L,) or (B, L) and its weights (..., 3)."""
    every = np.arange(len(vertices))[:, None, None]
    return (bary[..., None] * vertices[every, faces[triangle]]).sum(-2)
