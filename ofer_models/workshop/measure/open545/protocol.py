"""A bundle on Open-545: every figure and table of the report, from one call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.runtime.stages import StageSet
from ofer_models.workshop.measure.metrics.hypotheses import averaged
from ofer_models.workshop.measure.open545.expression import (
    METHODS,
    SHARES,
    ExpressionResult,
    measure_expression,
    reference_population,
)
from ofer_models.workshop.measure.open545.held_out import unpack
from ofer_models.workshop.measure.open545.identity import FrontalErrors, IdentityResult, measure_identity
from ofer_models.workshop.measure.open545.moved import Mover, Observer
from ofer_models.workshop.measure.open545.pictures import Open545
from ofer_models.workshop.measure.open545.pooling import by_count, by_frames
from ofer_models.workshop.measure.open545.ranking import RankFigures, summary
from ofer_models.workshop.measure.open545.regressor import Regressor
from ofer_models.workshop.measure.open545.scenes import GROUPS
from ofer_models.workshop.measure.open545.steps import StepLoss, step_loss
from ofer_models.workshop.progress import Progress, silent

STEP_PICTURES = 30
_SWEPT = 40  # pictures that other numbers of candidates are tried on


@dataclass(frozen=True)
class Results:
    """figures: the keys of `ofer evaluate --json`, see `headline`. The rest is what the tables and plots are made of,
    by `clean` and `occluded` pictures. counts: the ranking with other numbers of candidates, occluded pictures; frames:
    with several pictures of a person.
    """

    figures: dict[str, float]
    pictures: int
    identity: dict[str, IdentityResult]
    expression: dict[str, ExpressionResult]
    group: np.ndarray
    steps: StepLoss
    threshold: float
    counts: dict[int, RankFigures]
    frames: dict[str, dict[int, RankFigures]]


def measure(
    bundle: Bundle,
    data: Open545,
    regressor: Regressor,
    *,
    candidates: int | None = None,
    seed: int = 0,
    landmarks: bool = True,
    threads: int = 1,
    progress: Progress = silent,
) -> Results:
    """Run the bundle's own graphs, as the node does, on both halves of the set.

    candidates: N of the identity, the bundle's by default. landmarks: also the node's choice by rank and landmarks.
    """
    stages = StageSet(bundle, threads=threads)
    population, scale, usual = reference_population(bundle)
    hidden = unpack(bundle.head, data.occluded.covered)
    identity, expression = {}, {}
    for which, pictures, points, crops in (
        ("clean", data.clean, data.clean_points, data.clean_crop128),
        ("occluded", data.occluded, data.occluded_points, data.occluded_crop128),
    ):
        identity[which] = measure_identity(
            bundle, stages, pictures, points, data.camera, regressor, candidates=candidates or bundle.candidates,
            seed=seed, landmarks=landmarks, progress=progress,
        )  # fmt: skip
        move = Mover(bundle, Observer(bundle, stages, points, crops, data.camera), seed + 3)
        expression[which] = measure_expression(
            bundle, stages, pictures, move, hidden, identity[which].selected, regressor, population, scale, seed=seed,
            title=f"expression, {which}", progress=progress,
        )  # fmt: skip
    steps = step_loss(bundle, stages, data.occluded[:STEP_PICTURES], seed=seed)
    threshold = float(population.threshold.mean())
    errors = FrontalErrors(bundle.head)
    sweep = np.linspace(0, len(data) - 1, min(_SWEPT, len(data))).astype(int)
    counts = by_count(stages, data.occluded, identity["occluded"], errors, sweep, seed)
    frames = {which: by_frames(stages, data.clean, data.person, result, errors) for which, result in identity.items()}
    figures = headline(identity, expression, steps, threshold, usual)
    return Results(figures, len(data), identity, expression, data.group, steps, threshold, counts, frames)


def headline(
    identity: dict[str, IdentityResult],
    expression: dict[str, ExpressionResult],
    steps: StepLoss,
    threshold: float,
    usual: np.ndarray,
) -> dict[str, float]:
    """The acceptance figures.

    identity_ratio: median vertex error of the ranked candidate / of random heads on average, all pictures.
    identity_ratio_with_landmarks: the same as the node chooses, by rank and landmarks.
    identity_to_average: the ranked candidate's median error / the candidates' average one.
    rank_gap_closed: (average - ranked) / (average - best) of mean errors; nearest_gap_closed: of the candidate nearest
    to the candidates' mean instead; mean_gap_closed: of that mean itself.
    cse_ratio_occluded: error of the closest hypothesis / of the regressor, both at occluded vertices (root mean square
    over vertices, then mean over pictures); cse_ratio_visible: at visible ones, same pictures.
    expression_ratio: median error of the hypotheses' mean / of the neutral face, at visible vertices that the truth
    moves by more than 1 mm, pictures without occluder.
    spread_ratio: median spread of 100 hypotheses at occluded vertices / at visible ones; spread_clean_ratio: at the
    same vertices without the occluder / with it; spread_ratio_relative: as spread_ratio, with each vertex's spread
    divided by `usual` (V',) mm, that of random expressions: brows and mouths are not compared with cheeks.
    ode: ODE of the hypotheses as a share of the population's mean threshold.
    coverage90: share of occluded vertices whose truth lies within the ellipsoid that holds 90 % of 100 hypotheses;
    coverage90_visible: of visible ones, the same pictures.
    steps_error_loss, steps_spread_loss: what the default steps lose of error and spread against 1000-step DDPM, as
    shares of it; negative is a gain, or a wider spread.
    """

    def median(method: str) -> float:
        return summary(identity["clean"].errors[method] + identity["occluded"].errors[method])["median"]

    ranked = identity["occluded"].ranking(), identity["clean"].ranking()
    average, best, chosen, nearest, mean = (
        float(np.mean([getattr(one, name) for one in ranked]))
        for name in ("average", "best", "ranked", "nearest", "mean")
    )
    gap = max(average - best, 1e-12)
    figures = {
        "identity_ratio": median("ranked") / median("random heads"),
        "identity_to_average": median("ranked") / median("average"),
        "rank_gap_closed": (average - chosen) / gap,
        "nearest_gap_closed": (average - nearest) / gap,
        "mean_gap_closed": (average - mean) / gap,
        **expression_headline(expression, threshold, usual),
        "steps_error_loss": steps.error_loss,
        "steps_spread_loss": steps.spread_loss,
    }
    if "ranked with landmarks" in identity["clean"].errors:
        figures["identity_ratio_with_landmarks"] = median("ranked with landmarks") / median("random heads")
    return figures


def expression_headline(
    expression: dict[str, ExpressionResult], threshold: float, usual: np.ndarray
) -> dict[str, float]:
    """Those of `headline` that tell of hypotheses."""
    covered, clean = expression["occluded"], expression["clean"]
    at_hidden = pooled(covered.spread, covered.hidden)
    relative = [spread / usual for spread in covered.spread]
    inside, inside_seen = (
        float(np.concatenate(part, axis=1)[SHARES.index(0.9)].mean()) for part in (covered.inside, covered.inside_seen)
    )
    return {
        "cse_ratio_occluded": _mean(covered.cse_hidden["hypotheses"]) / _mean(covered.cse_hidden["regressor"]),
        "cse_ratio_visible": _mean(covered.cse_seen["hypotheses"]) / _mean(covered.cse_seen["regressor"]),
        "expression_ratio": float(
            np.median(np.concatenate(clean.mean_error)) / np.median(np.concatenate(clean.neutral_error))
        ),
        "spread_ratio": float(np.median(at_hidden) / np.median(pooled(covered.spread, covered.visible))),
        "spread_ratio_relative": float(
            np.median(pooled(relative, covered.hidden)) / np.median(pooled(relative, covered.visible))
        ),
        "spread_clean_ratio": float(np.median(pooled(clean.spread, covered.hidden)) / np.median(at_hidden)),
        "ode": float(np.mean([row["ode"] for row in covered.rows["hypotheses"]]) / threshold),
        "coverage90": inside,
        "coverage90_visible": inside_seen,
    }


def identity_table(results: Results) -> list[tuple[str, dict[str, dict[str, float]]]]:
    """OFER's table 2: (method, unoccluded / occluded / both -> median, mean, std in mm)."""
    methods = ("random heads", "mean head", "regressor", "average", "ranked", "ranked with landmarks",
               "nearest to mean", "mean of candidates", "best")  # fmt: skip
    return [(name, _halves(results, name)) for name in methods if name in results.identity["clean"].errors]


def ablation_table(results: Results) -> list[tuple[str, dict[str, dict[str, float]]]]:
    """OFER's table 1: (candidates, best / ranked / average -> median, mean, std in mm), all pictures."""
    names = {"best": "best", "ranked": "ranked", "average": "average"}
    rows = [(f"{len(results.identity['clean'].candidates[0])} drawn", names)]
    for mixture in ("50 random + 50 drawn", "80 random + 20 drawn"):
        rows.append((mixture, {what: f"{mixture}, {what}" for what in names}))
    for count in (200, 1000):
        rows.append((f"{count} random", {"best": f"random best of {count}", "average": "random heads"}))
    return [(name, {what: _halves(results, method)["both"] for what, method in columns.items()})
            for name, columns in rows]  # fmt: skip


def hypothesis_table(results: Results) -> list[tuple[str, str, dict[str, float]]]:
    """OFER's table 4 and 3: (method, pictures, averaged figures), for both halves."""
    rows = []
    for which, result in results.expression.items():
        for name in METHODS:
            figures = averaged(result.rows[name])
            figures |= {"cse_seen": _mean(result.cse_seen[name]), "cse_hidden": _mean(result.cse_hidden[name])}
            rows.append((name, which, figures))
    return rows


def group_table(results: Results) -> list[tuple[str, str, dict[str, float]]]:
    """OFER's table 5: (method, group of occluders, averaged figures); the last group is none."""
    rows = []
    for name in ("hypotheses", "random faces"):
        for number, group in enumerate(GROUPS):
            of_group = [row for row, g in zip(results.expression["occluded"].rows[name], results.group, strict=True)
                        if g == number]  # fmt: skip
            if of_group:
                rows.append((name, group, averaged(of_group)))
        rows.append((name, "none", averaged(results.expression["clean"].rows[name])))
    return rows


def _halves(results: Results, method: str) -> dict[str, dict[str, float]]:
    clean, occluded = (results.identity[which].errors[method] for which in ("clean", "occluded"))
    return {"unoccluded": summary(clean), "occluded": summary(occluded), "both": summary(clean + occluded)}


def pooled(values: list[np.ndarray], parts: list[np.ndarray]) -> np.ndarray:
    """Values (n x V',) at a part of each picture's vertices, in one row."""
    return np.concatenate([v[part] for v, part in zip(values, parts, strict=True)])


def _mean(values: list[float]) -> float:
    return float(np.nanmean(values))
