"""Light baked into vertex colours: RViz turns its own lighting off for coloured triangle lists."""

from __future__ import annotations

import numpy as np

SKIN = np.array([0.66, 0.78, 0.92], np.float32)  # RGB of the lit mesh
_SPREAD = np.array([[0.16, 0.2, 0.55], [0.15, 0.65, 0.5], [0.98, 0.9, 0.15]])  # dark blue, green, yellow
_UNKNOWN = np.float32(0.6)  # grey
_AMBIENT = 0.3
# Towards the light in the camera optical frame: from the camera, a little from its upper left.
_LIGHT = np.array([-0.35, -0.45, -0.82], np.float32) / np.linalg.norm([-0.35, -0.45, -0.82])


def face_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Normals (F, 3) of triangles (F, 3), as long as twice their area."""
    a, b, c = vertices[triangles[:, 0]], vertices[triangles[:, 1]], vertices[triangles[:, 2]]
    u, v = b - a, c - a
    # np.cross is three times slower on arrays of this size.
    return np.stack(
        [
            u[:, 1] * v[:, 2] - u[:, 2] * v[:, 1],
            u[:, 2] * v[:, 0] - u[:, 0] * v[:, 2],
            u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0],
        ],
        axis=1,
    )


def spread_colors(spread_mm: np.ndarray, limit: float) -> np.ndarray:
    """RGB (..., 3) in 0..1 of spreads in mm on the scale of every picture here: from 0 to `limit` and more. Grey where
    it is not known (NaN)."""
    at = np.clip(np.asarray(spread_mm) / limit, 0, 1) * (len(_SPREAD) - 1)
    colors = np.stack([np.interp(at, np.arange(len(_SPREAD)), channel) for channel in _SPREAD.T], -1)
    return np.where(np.isnan(at)[..., None], _UNKNOWN, colors).astype(np.float32)


class Shader:
    """Smooth shading of one topology. Works on vertices in the camera optical frame."""

    def __init__(self, triangles: np.ndarray, n_vertices: int) -> None:
        """triangles (F, 3) over n_vertices vertices, each used at least once."""
        self.triangles = triangles
        # Triangles sorted by the vertex they touch: summing runs of them beats np.add.at tenfold.
        flat = triangles.ravel()
        order = np.argsort(flat, kind="stable")
        self._touching = order // 3
        self._starts = np.searchsorted(flat[order], np.arange(n_vertices))

    def vertex_normals(self, normals: np.ndarray) -> np.ndarray:
        """Area-weighted unit normals (V, 3) of face normals (F, 3)."""
        summed = np.add.reduceat(normals[self._touching], self._starts, axis=0)
        return summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-20)

    def brightness(self, vertices: np.ndarray, normals: np.ndarray | None = None) -> np.ndarray:
        """Brightness (V,) in 0..1 of vertices (V, 3); `normals` are their face normals where the caller has them."""
        vertices = vertices.astype(np.float32, copy=False)
        normals = face_normals(vertices, self.triangles) if normals is None else normals
        diffuse = np.maximum(self.vertex_normals(normals) @ _LIGHT, 0.0)
        return _AMBIENT + (1.0 - _AMBIENT) * diffuse
