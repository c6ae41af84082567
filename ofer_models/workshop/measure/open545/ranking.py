"""The ranking ablation: what choosing among candidates gains, beside the two rivals that need no network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RankFigures:
    """Errors of a set of faces in one unit: of the candidates' average, of the best, of the ranked one, of the one
    nearest to the candidates' mean, of that mean itself; gap_closed: (average - ranked) / (average - best), nearest's
    likewise.
    """

    average: float
    best: float
    ranked: float
    nearest: float
    mean: float
    gap_closed: float
    nearest_gap_closed: float


def rank_figures(errors: np.ndarray, chosen: np.ndarray, nearest: np.ndarray, mean: np.ndarray) -> RankFigures:
    """From errors (F, N) of every candidate, chosen and nearest (F,) indices, and errors mean (F,) of the mean."""
    every = np.arange(len(errors))
    average, best = float(errors.mean()), float(errors.min(1).mean())
    ranked, plain = float(errors[every, chosen].mean()), float(errors[every, nearest].mean())
    gap = max(average - best, 1e-12)
    return RankFigures(
        average, best, ranked, plain, float(np.mean(mean)), (average - ranked) / gap, (average - plain) / gap
    )


def nearest_to_mean(meshes: np.ndarray) -> np.ndarray:
    """Of candidates (..., N, D), each a mesh as one vector, the index (...) of that nearest to their mean."""
    return np.linalg.norm(meshes - meshes.mean(-2, keepdims=True), axis=-1).argmin(-1)


def picked_errors(errors: np.ndarray, chosen: int | None = None) -> dict[str, np.ndarray]:
    """Of one face's candidates with vertex errors (N, V), those (V,) of the best possible one, of the average one,
    and of the ranked one where there is a ranking: the three columns of OFER's table 1.
    """
    picks = {"best": errors[errors.mean(1).argmin()], "average": errors.mean(0)}
    return picks if chosen is None else picks | {"ranked": errors[chosen]}


def summary(errors: Iterable[np.ndarray]) -> dict[str, float]:
    """Median, mean and std of errors pooled over faces and vertices, as OFER's tables give them."""
    pooled = np.concatenate([np.ravel(some) for some in errors])
    return {"median": float(np.median(pooled)), "mean": float(pooled.mean()), "std": float(pooled.std())}
