"""Which of a head's landmarks are compared with pictures, and how much each of them counts.

Weights are by how well a landmark network places points on photographs: neighbours are wrong together, the outline
slides along the face as the head turns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofer_models.head.decoders import LandmarkDecoder
from ofer_models.head.landmark_sets import IRISES
from ofer_models.head.model import HeadModel, LandmarkEmbedding
from ofer_models.tracking.spread import REGIONS

IN_A_FRAME = 146  # points of each frame's fit
_FEATURE, _CONTOUR, _EVERY = 3.0, 0.3, 3  # weights of mouth, lids and brows, of the outline; one in three of the others
_IRIS = 12.0  # two points tell where the eyes look, and stand in the picture as exactly as lids do
_OUTLINE = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149,
            150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)  # fmt: skip
_LEVER = 0.1  # rad of a turn that counts as much as a deviation of a coefficient


@dataclass(frozen=True)
class WeighedPoints:
    """Some of a head's landmarks: rows (n,) of its embedding, their numbers (n,) among MediaPipe's points, weights
    (n,), and the embedding of these alone."""

    rows: np.ndarray
    numbers: np.ndarray
    weights: np.ndarray
    embedding: LandmarkEmbedding

    @classmethod
    def of(cls, embedding: LandmarkEmbedding, points: np.ndarray, weights: np.ndarray) -> WeighedPoints:
        """Those with a weight; points (L,): MediaPipe's numbers of the embedding's landmarks, weights (L,)."""
        rows = np.flatnonzero(weights)
        chosen = LandmarkEmbedding(embedding.triangle[rows], embedding.bary[rows], points[rows])
        return cls(rows, points[rows], weights[rows], chosen)


def point_weights(points: np.ndarray) -> np.ndarray:
    """Weights (L,) of MediaPipe's points with these numbers, 0 for those that are left out: neighbours of others."""
    features = np.concatenate([np.array(members) for members in REGIONS.values()])
    special = np.isin(points, features) | np.isin(points, _OUTLINE) | np.isin(points, IRISES)
    kept = np.zeros(len(points))
    others = np.flatnonzero(~special)
    kept[others[::_EVERY]] = _EVERY
    kept[np.isin(points, features)] = _FEATURE
    kept[np.isin(points, _OUTLINE)] = _CONTOUR
    kept[np.isin(points, IRISES)] = _IRIS
    return kept


def parts_of(points: np.ndarray) -> np.ndarray:
    """(3, L) which of MediaPipe's points with these numbers are wrong together: each eye with its iris and brow, the
    mouth."""
    eyes, brows, mouth = (np.array(REGIONS[name]) for name in ("eyes", "brows", "mouth"))
    rows = zip(np.split(eyes, 2), np.split(brows, 2), np.reshape(IRISES, (2, 1)), strict=True)
    parts = [np.concatenate(row) for row in rows]
    return np.stack([np.isin(points, part) for part in (*parts, mouth)])


def fewer_points(
    head: HeadModel, embedding: LandmarkEmbedding, points: np.ndarray, weights: np.ndarray, deviation: np.ndarray,
    count: int = IN_A_FRAME,
) -> np.ndarray:  # fmt: skip
    """Weights (L,) of at most `count` landmarks that tell what all with weights (L,) do; points (L,): MediaPipe's
    numbers.

    Landmarks tell the same where the same coefficients move them the same way: deviation (E,) of the expressions,
    shapes of deviation 1. Each next one is that which the chosen ones say least of (farthest-point sampling, Gonzalez
    1985); the others' weights go to the chosen one of their weight that says most of them.
    """
    if np.count_nonzero(weights) <= count:
        return weights
    told = _told(head, embedding, deviation).astype(np.float64)
    irises = np.flatnonzero(np.isin(points, IRISES))  # nothing stands for them, and they stand for nothing
    rows, count = np.setdiff1d(np.flatnonzero(weights), irises), count - len(irises)
    told, heavy = told[rows], np.sqrt(weights[rows])
    chosen = [int((np.linalg.norm(told - told.mean(0), axis=1) * heavy).argmax())]
    apart = np.linalg.norm(told - told[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int((apart * heavy).argmax()))
        apart = np.minimum(apart, np.linalg.norm(told - told[chosen[-1]], axis=1))
    result = np.zeros(len(weights))
    result[irises] = weights[irises]
    for weight in np.unique(weights[rows]):
        alike = np.flatnonzero(weights[rows] == weight)
        near = np.intersect1d(alike, chosen)
        if near.size:
            # Squared distances up to what is the same for all of `near`; the differences themselves would take 100 MB.
            further = (told[near] ** 2).sum(1) - 2 * told[alike] @ told[near].T
            nearest = near[further.argmin(1)]
            np.add.at(result, rows[nearest], weight)
    return result


def _told(head: HeadModel, embedding: LandmarkEmbedding, deviation: np.ndarray) -> np.ndarray:
    """(L, K) metres: movements of each landmark by a deviation of each coefficient."""
    decoder = LandmarkDecoder(head, embedding)
    expressions, _, _ = decoder.expression_directions()
    shapes, place = decoder.shape_directions(), decoder.at_rest([head.identity(np.zeros(head.n_shape, np.float32))])
    parts = (deviation[:, None, None] * expressions, shapes, _LEVER * place.means[:, : len(embedding.bary)])
    return np.concatenate([np.moveaxis(part, 1, 0).reshape(len(embedding.bary), -1) for part in parts], axis=1)
