"""Parts of the head's surface to show: the triangles of a vertex mask, with an even border."""

from __future__ import annotations

import numpy as np

from ofer_models.head.model import HeadModel

_ROUNDS = 20  # of averaging: evens out steps of up to about four vertices
_OPENINGS = ("inner_mouth", "eyes")  # what an even border must not grow into


def region_triangles(head: HeadModel, mask: str) -> np.ndarray:
    """Triangles (F', 3) int32 of `head.faces` in a mask whose border is evened out.

    A mask follows the mesh's rows and columns, and its border has steps. Here each vertex's membership is averaged
    with its neighbours' again and again, and those above one half are the region.
    """
    faces = head.faces
    member = np.zeros(head.n_vertices)
    member[head.masks[mask]] = 1
    skin = np.ones(head.n_vertices, bool)
    for name in _OPENINGS:
        if name in head.masks:
            skin[head.masks[name]] = False
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    edges = np.unique(edges[skin[edges].all(axis=1)], axis=0)
    here, there = np.concatenate([edges, edges[:, ::-1]]).T
    neighbours = np.bincount(here, minlength=head.n_vertices)
    for _ in range(_ROUNDS):
        member = (member + np.bincount(here, member[there], head.n_vertices)) / (1 + neighbours)
    return _without_spikes(faces[(member > 0.5)[faces].all(axis=1)])


def _without_spikes(triangles: np.ndarray) -> np.ndarray:
    """Triangles (F, 3) without those that share less than two edges with others."""
    edges = np.sort(np.stack([triangles, np.roll(triangles, -1, axis=1)], axis=-1), axis=-1)
    _, which, uses = np.unique(edges.reshape(-1, 2), axis=0, return_inverse=True, return_counts=True)
    shared = (uses[which.reshape(-1, 3)] > 1).sum(axis=1)
    return triangles[shared > 1] if (shared > 1).any() else triangles
