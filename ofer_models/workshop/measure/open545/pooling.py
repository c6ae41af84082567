"""What a ranking makes of more or fewer candidates, and of several frames of one person."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ofer_models.runtime.stages import StageSet
from ofer_models.workshop.measure.open545.identity import FrontalErrors, IdentityResult
from ofer_models.workshop.measure.open545.ranking import RankFigures, nearest_to_mean, rank_figures
from ofer_models.workshop.pictures.dataset import PictureSet

COUNTS = (20, 50, 100, 200, 500)
FRAMES = (1, 2, 4, 8)


def by_count(
    stages: StageSet,
    pictures: PictureSet,
    result: IdentityResult,
    measure: FrontalErrors,
    rows: Iterable[int],
    seed: int,
) -> dict[int, RankFigures]:
    """Figures of the same pictures with each of COUNTS candidates; result holds their contexts."""
    chosen, figures = list(rows), {}
    for count in COUNTS:
        rng = np.random.default_rng(seed)
        tried = []
        for row in chosen:
            context = result.contexts[row][None]
            noise = rng.standard_normal((1, count, stages.idgen.n_coefficients), dtype=np.float32)
            drawn = stages.idgen(context, noise, rng)[0].astype(np.float32)
            tried.append(_ranked(stages, drawn, context, pictures.betas[row], measure))
        figures[count] = _figures(tried)
    return figures


def by_frames(
    stages: StageSet, pictures: PictureSet, person: np.ndarray, result: IdentityResult, measure: FrontalErrors
) -> dict[int, RankFigures]:
    """Figures with the candidates of several pictures of one person together, their scores under each picture's context
    added up; person (n,).
    """
    figures = {}
    for count in FRAMES:
        tried = []
        for one in np.unique(person):
            rows = np.flatnonzero(person == one)
            for start in range(0, len(rows) - count + 1, count):
                group = rows[start : start + count]
                drawn = np.concatenate([result.drawn[row] for row in group])
                context = np.stack([result.contexts[row] for row in group])
                tried.append(_ranked(stages, drawn, context, pictures.betas[group[0]], measure))
        if tried:
            figures[count] = _figures(tried)
    return figures


_Tried = tuple[
    np.ndarray, int, int, float
]  # errors (N,), the ranked one, the one nearest to the mean, the mean's error


def _ranked(
    stages: StageSet, drawn: np.ndarray, contexts: np.ndarray, truth: np.ndarray, measure: FrontalErrors
) -> _Tried:
    """One face's candidates (N, S) under the contexts (k, C) of its pictures."""
    each = np.broadcast_to(drawn, (len(contexts), *drawn.shape))
    scores = stages.idrank(betas=np.ascontiguousarray(each), context=contexts)["score"].sum(0)
    errors = measure(drawn, truth).mean(1)
    nearest = int(nearest_to_mean(drawn @ measure.basis))
    return errors, int(scores.argmax()), nearest, float(measure(drawn.mean(0), truth).mean())


def _figures(tried: list[_Tried]) -> RankFigures:
    errors, chosen, nearest, mean = zip(*tried, strict=True)
    return rank_figures(np.stack(errors), np.array(chosen), np.array(nearest), np.array(mean))
