"""Metrics of several reconstructions of one picture: how near, how diverse, how plausible.

Definitions: Dey and Boddeti, "Generating diverse 3D reconstructions from a single occluded face image" (2022), and OFER
(2025), where the printed formulas leave a choice, the choice is named below.

Shapes: K samples, V vertices. Samples (K, V, 3) and truth (V, 3) in one unit; a part of the vertices is an index array
or mask. d_ij = |X_i - X_j|_F / sqrt(V) over the part, the root mean square distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def rms_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean square vertex distance (...) of meshes (..., V, 3)."""
    return np.sqrt(((np.asarray(a) - b) ** 2).sum(-1).mean(-1))


def sample_error(samples: np.ndarray, truth: np.ndarray) -> float:
    """SE: the mean over samples of their root mean square distance from the truth."""
    return float(rms_distance(samples, truth).mean())


def closest_sample_error(samples: np.ndarray, truth: np.ndarray) -> float:
    """CSE: that of the sample nearest to the truth."""
    return float(rms_distance(samples, truth).min())


def pairwise_distances(samples: np.ndarray) -> np.ndarray:
    """d (K, K) between all samples (K, V, 3)."""
    flat = np.asarray(samples, np.float64).reshape(len(samples), -1)
    square = (flat**2).sum(1)
    gram = np.maximum(square[:, None] + square - 2 * flat @ flat.T, 0)
    np.fill_diagonal(gram, 0)
    return np.sqrt(gram / np.shape(samples)[1])


def average_self_distance(samples: np.ndarray, *, farthest: bool = False) -> float:
    """ASD: mean over samples of the distance to the nearest other sample (minASD), or to the farthest (maxASD).

    On visible vertices (minASD-V, maxASD-V) less is better: the picture shows them. Raises ValueError for one sample.
    """
    distances = pairwise_distances(samples)
    if len(distances) < 2:
        raise ValueError("self distances need two samples or more")
    if farthest:
        return float(distances.max(1).mean())
    np.fill_diagonal(distances, np.inf)
    return float(distances.min(1).mean())


def occluded_diversity(visible: np.ndarray, visible_truth: np.ndarray, occluded: np.ndarray, scale: float) -> float:
    """ASD-O: harmonic mean 2 (1 - dv) do / ((1 - dv) + do) of fidelity where seen and diversity where hidden, averaged
    over samples.

    visible (K, Vv, 3) with its truth, occluded (K, Vo, 3). dv: distance of sample i from the truth on visible vertices;
    do: of i from its nearest other sample on occluded ones; both over `scale`, the largest distance that is still
    plausible (the paper: the root of the largest Mahalanobis distance; here the caller's, in the samples' unit), and
    cut at 1. The paper's text exchanges the two right sides and has the root in one denominator only; this is the
    reading under which more is better.
    """
    near = np.minimum(rms_distance(visible, visible_truth) / scale, 1)
    apart = pairwise_distances(occluded)
    np.fill_diagonal(apart, np.inf)
    diverse = np.minimum(apart.min(1) / scale, 1)
    return float((2 * (1 - near) * diverse / np.maximum((1 - near) + diverse, 1e-12)).mean())


@dataclass(frozen=True)
class VertexPopulation:
    """Where each vertex lies in a reference population: mean (V, 3), inverse covariance (V, 3, 3), and threshold (V,),
    the largest Mahalanobis distance that occurs in it.
    """

    mean: np.ndarray
    inverse: np.ndarray
    threshold: np.ndarray

    @classmethod
    def fit(cls, meshes: np.ndarray, floor: float) -> VertexPopulation:
        """From meshes (n, V, 3) in one frame. floor, in their unit, is added to every deviation: vertices that hardly
        move, or along a line only, would else make any deviation infinite.
        """
        meshes = np.asarray(meshes, np.float64)
        mean = meshes.mean(0)
        centred = (meshes - mean).transpose(1, 0, 2)
        covariance = centred.transpose(0, 2, 1) @ centred / len(meshes) + floor**2 * np.eye(3)
        inverse = np.linalg.inv(covariance)
        largest = np.sqrt(np.maximum(((centred @ inverse) * centred).sum(-1), 0).max(1))
        return cls(mean, inverse, largest)

    def distances(self, meshes: np.ndarray) -> np.ndarray:
        """Mahalanobis distances (..., V) of meshes (..., V, 3)."""
        offset = np.asarray(meshes, np.float64) - self.mean
        turned = (offset[..., None, :] @ self.inverse)[..., 0, :]
        return np.sqrt(np.maximum((turned * offset).sum(-1), 0))

    def excess(self, meshes: np.ndarray) -> np.ndarray:
        """How far (..., V) the Mahalanobis distance exceeds the population's largest."""
        return np.maximum(self.distances(meshes) - self.threshold, 0)


def out_of_distribution(excess: np.ndarray, part: np.ndarray | slice = slice(None)) -> float:
    """ODE: mean excess (K, V) over samples and a part of the vertices (ODE-O occluded, ODE-V visible)."""
    chosen = np.asarray(excess)[:, part]
    return float(chosen.mean()) if chosen.size else float("nan")


def shape_deviation(samples: np.ndarray, excess: np.ndarray) -> float:
    """STD-S: root mean square distance of samples (K, V, 3) from their mean, over the vertices of samples that are not
    beyond the population (excess (K, V) of 0). More is better, as long as ODE stays small.
    """
    plausible = np.asarray(excess) <= 0
    counted = plausible.sum(0)
    weight = plausible[..., None] / np.maximum(counted, 1)[:, None]
    mean = (samples * weight).sum(0)
    square = ((samples - mean) ** 2).sum(-1)[plausible]
    return float(np.sqrt(square.mean())) if square.size else float("nan")


def spread(samples: np.ndarray) -> np.ndarray:
    """Root mean square distance (V,) of samples (K, V, 3) from their mean, at each vertex."""
    return np.sqrt(np.var(samples, axis=0).sum(-1))


def inside_region(samples: np.ndarray, truth: np.ndarray, share: float = 0.9, floor: float = 0.0) -> np.ndarray:
    """`inside_regions` of one share, (V,)."""
    return inside_regions(samples, truth, (share,), floor)[0]


def inside_regions(samples: np.ndarray, truth: np.ndarray, shares: Sequence[float], floor: float = 0.0) -> np.ndarray:
    """Whether the truth (V, 3) lies inside the samples' regions at each vertex, (len(shares), V): the ellipsoid of
    their mean and covariance, scaled so that it holds such a share of the samples (K, V, 3) themselves.

    floor, in the samples' unit, is added to every deviation: what moves along a line has a region without volume.
    """
    samples = np.asarray(samples, np.float64)
    centred = (samples - samples.mean(0)).transpose(1, 0, 2)  # (V, K, 3)
    covariance = centred.transpose(0, 2, 1) @ centred / len(samples) + floor**2 * np.eye(3)
    inverse = np.linalg.inv(covariance)
    own = ((centred @ inverse) * centred).sum(-1)
    offset = (truth - samples.mean(0))[:, None]
    distance = ((offset @ inverse) * offset).sum(-1)[:, 0]
    return distance <= np.maximum(np.quantile(own, shares, axis=1), 1e-12)


def reference_scale(meshes: np.ndarray) -> float:
    """The plausible distance that ASD-O divides by: the largest of a population's meshes from their mean, in mm."""
    return float(rms_distance(meshes, np.mean(meshes, axis=0)).max())


def hypothesis_figures(
    samples: np.ndarray,
    truth: np.ndarray,
    visible: np.ndarray,
    occluded: np.ndarray,
    population: VertexPopulation,
    scale: float,
) -> dict[str, float]:
    """All of CO-545's metrics for one picture: samples (K, V, 3), truth (V, 3), visible and occluded (V,) bool.

    Figures of an empty part are NaN.
    """
    seen, hidden = np.flatnonzero(visible), np.flatnonzero(occluded)
    excess = population.excess(samples)
    nothing = float("nan")
    figures = {
        "se": sample_error(samples, truth),
        "cse": closest_sample_error(samples, truth),
        "std_s": shape_deviation(samples, excess),
        "ode": out_of_distribution(excess),
        "ode_o": out_of_distribution(excess, hidden),
        "ode_v": out_of_distribution(excess, seen),
        "min_asd_v": nothing, "max_asd_v": nothing, "asd_o": nothing,
    }  # fmt: skip
    if len(samples) > 1 and len(seen):
        figures["min_asd_v"] = average_self_distance(samples[:, seen])
        figures["max_asd_v"] = average_self_distance(samples[:, seen], farthest=True)
    if len(samples) > 1 and len(seen) and len(hidden):
        figures["asd_o"] = occluded_diversity(samples[:, seen], truth[seen], samples[:, hidden], scale)
    return figures


def averaged(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the pictures that have it; NaN where none has."""
    if not rows:
        return {}
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {name: float(v[np.isfinite(v)].mean()) if np.isfinite(v).any() else float("nan")
            for name, v in columns.items()}  # fmt: skip
