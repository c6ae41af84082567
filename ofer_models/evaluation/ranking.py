"""The ranking ablation: what choosing among candidates gains, beside the two rivals that need no network."""

from __future__ import annotations

from collections.abc import Mapping
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


def ablation(candidates: Mapping[str, np.ndarray], chosen: Mapping[str, np.ndarray]) -> dict[str, dict[str, dict]]:
    """OFER's table 1: for each mixture of candidates, median, mean and std of pooled vertex errors of the best
    possible, the ranked and the average candidate.

    candidates: name -> errors (F, N, V'), chosen: name -> (F,); a mixture without an entry there has no ranking.
    """
    table: dict[str, dict[str, dict]] = {}
    for name, errors in candidates.items():
        every = np.arange(len(errors))
        picks = {"best": errors[every, errors.mean(2).argmin(1)], "average": errors}
        if name in chosen:
            picks["ranked"] = errors[every, chosen[name]]
        table[name] = {
            what: {"median": float(np.median(e)), "mean": float(e.mean()), "std": float(e.std())}
            for what, e in picks.items()
        }
    return table
