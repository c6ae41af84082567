"""Closest points on a triangle mesh, exactly. For evaluation only: needs scipy, and is not made for every frame.

Region tests of the closest point on a triangle: Ericson, Real-Time Collision Detection (2005), section 5.1.5.
"""

from __future__ import annotations

import numpy as np

_NEAREST = 8  # triangles tried first for each point, then eight times as many where that is not enough
_TRIED = 200_000  # pairs of point and triangle computed at once


class TriangleSurface:
    """A mesh asked for closest points; vertices (V, 3) in any unit, faces (F, 3).

    Triangles are searched by their middles, apart by size: one whose middle is further away than the best distance plus
    the reach of its size cannot hold a closer point.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        from scipy.spatial import cKDTree

        self.corners = np.asarray(vertices, np.float64)[np.asarray(faces)]  # (F, 3, 3)
        middle = self.corners.mean(1)
        reach = np.linalg.norm(self.corners - middle[:, None], axis=2).max(1)
        size = np.floor(np.log2(np.maximum(reach, 1e-12))).astype(int)
        self._groups = []
        for one in np.unique(size):
            which = np.flatnonzero(size == one)
            self._groups.append((which, cKDTree(middle[which]), reach[which].max()))
        self._groups.sort(key=lambda group: -len(group[0]))

    def closest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Closest surface points (P, 3) of points (P, 3), and the triangles (P,) that they lie on."""
        points = np.asarray(points, np.float64)
        found, triangle = np.zeros_like(points), np.zeros(len(points), np.int64)
        best = np.full(len(points), np.inf)
        for which, tree, reach in self._groups:
            rows, count = np.arange(len(points)), min(_NEAREST, len(which))
            while len(rows):
                far, near = tree.query(points[rows], k=count)
                far, near = far.reshape(len(rows), count), near.reshape(len(rows), count)
                possible = far[:, 0] < best[rows] + reach
                rows, far, near = rows[possible], far[possible], near[possible]
                if not len(rows):
                    break
                on, on_triangle = self._best(points[rows], which[near])
                distance = np.linalg.norm(points[rows] - on, axis=1)
                better = distance < best[rows]
                changed = rows[better]
                found[changed], triangle[changed], best[changed] = on[better], on_triangle[better], distance[better]
                if count == len(which):
                    break
                rows = rows[far[:, -1] < best[rows] + reach]
                count = min(8 * count, len(which))
        return found, triangle

    def normals(self, triangles: np.ndarray) -> np.ndarray:
        """Unit normals (P, 3) of triangles (P,)."""
        a, b, c = np.moveaxis(self.corners[triangles], 1, 0)
        normal = np.cross(b - a, c - a)
        return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)

    def _best(self, points: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of candidate triangles (P, K) the closest points (P, 3) and which triangle each lies on (P,)."""
        found, triangle = np.empty_like(points), np.empty(len(points), np.int64)
        size = max(1, _TRIED // candidates.shape[1])
        for start in range(0, len(points), size):
            rows = slice(start, start + size)
            tried = candidates[rows]
            on = closest_on_triangles(points[rows, None], self.corners[tried])  # (p, K, 3)
            best = ((points[rows, None] - on) ** 2).sum(-1).argmin(1)
            every = np.arange(len(best))
            found[rows], triangle[rows] = on[every, best], tried[every, best]
        return found, triangle


def closest_on_triangles(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Closest points (..., 3) to points (..., 3) on triangles (..., 3 corners, 3)."""
    a, b, c = np.moveaxis(corners, -2, 0)
    ab, ac, bc = b - a, c - a, c - b

    def dot(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return (u * v).sum(-1, keepdims=True)

    def along(start: np.ndarray, edge: np.ndarray) -> np.ndarray:
        share = dot(points - start, edge) / np.maximum(dot(edge, edge), 1e-300)
        return start + np.clip(share, 0, 1) * edge

    normal = np.cross(ab, ac)
    square = np.maximum(dot(normal, normal), 1e-300)
    flat = points - dot(points - a, normal) / square * normal
    u = dot(np.cross(bc, flat - b), normal) / square
    v = dot(np.cross(-ac, flat - c), normal) / square
    inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (dot(normal, normal) > 0)
    edges = np.stack(np.broadcast_arrays(along(a, ab), along(b, bc), along(a, ac)), axis=0)
    nearest = ((points - edges) ** 2).sum(-1).argmin(0)
    on_edge = np.take_along_axis(edges, nearest[None, ..., None], axis=0)[0]
    return np.where(inside, flat, on_edge)
