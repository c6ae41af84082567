"""A bundle on photographs: every figure of `ofer evaluate --real`, from one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.landmark_sets import N_MEDIAPIPE
from ofer_models.pipeline import FacePipeline
from ofer_models.tracking.spread import REGIONS
from ofer_models.workshop.errors import EvaluationError
from ofer_models.workshop.head.frontal import frontal_basis
from ofer_models.workshop.measure.metrics.hypotheses import spread
from ofer_models.workshop.measure.real.paired import Pair, pair_figures, read_pairs
from ofer_models.workshop.measure.real.peers import MediaPipeBlendshapes, blendshape_correlations
from ofer_models.workshop.measure.real.people import people_figures, people_in
from ofer_models.workshop.measure.real.readings import MAX_FACES, Photograph, Reader, Reading
from ofer_models.workshop.pictures.measures import INNER, MEASURES, measures, point_errors, slope
from ofer_models.workshop.progress import Progress, silent

MASKED = "mask"  # names of pictures whose mouths are covered begin with it: they are in no slope
_FRONTAL = 25  # degrees of yaw
_HEADS = 200  # random heads that the chosen ones' variety is compared with
ANSWERS = ("selected", "mean", "closest")


@dataclass
class RealResults:
    """figures: name -> value, see `measure`; series: measure -> answer or `seen` or `annotated` -> values by face, for
    the plots; readings of bare pictures, and the pairs."""

    figures: dict[str, float]
    series: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)


def measure(
    bundle: Bundle,
    photographs: list[Photograph],
    *,
    folders: Sequence[Path] = (),
    peer: Path | None = None,
    seed: int = 0,
    threads: int = 1,
    pairs: bool = True,
    progress: Progress = silent,
) -> RealResults:
    """Read all photographs and measure.

    found, found_masked: share of the pictures with a face. error51_*: mean distance of the mesh's 51 inner points from
    annotated ones, % of the eyes' distance, median over faces with less than 25 degrees of yaw (turned_error51_*: the
    others), by answer, and `mediapipe`. slope_*, correlation_* of each of `measures` over all bare pictures, by answer,
    against MediaPipe's points; annotated_slope_* against annotations. mouth_spread_mm: in bare pictures, mean, and
    masked_mouth_spread_mm and masked_ratio; common_variance: part of the hypotheses' variance that is the same in every
    picture. heads_apart: root mean square distance of the chosen heads from their mean, as a part of random heads'.
    pair_*: see `pair_figures`; same_nearest and more: see `people_figures`, for folders with people.
    peer_correlation_*: of MediaPipe's blendshapes with the measures, where its task file is given. Raises
    EvaluationError when no face is found at all.
    """
    reader = Reader(FacePipeline(bundle, seed=seed, max_faces=MAX_FACES, threads=threads))
    bare: list[Reading] = []
    masked: list[Reading] = []
    found, twins, shapes = {True: [], False: []}, [], []
    rival = MediaPipeBlendshapes(peer) if peer else None
    for number, photograph in enumerate(progress(photographs, "reading photographs", len(photographs))):
        readings, covered = reader.read(photograph), photograph.path.name.startswith(MASKED)
        found[covered].append(bool(readings))
        (masked if covered else bare).extend(readings)
        if rival and not covered:
            shapes += [rival(photograph.read())] * len(readings)
        if pairs and readings and not covered:
            twins += read_pairs(reader, photograph, readings[0], (seed, number))
    if not bare:
        raise EvaluationError("no face was found in any photograph that is not of a mask; other pictures are needed")
    figures = {"faces": float(len(bare)), "found": float(np.mean(found[False]))}
    series = _series(bare)
    figures |= _errors(bare) | _slopes(series) | _variety(bundle, bare)
    figures |= _spreads(bare, "")
    if found[True]:
        figures["found_masked"] = float(np.mean(found[True]))
    if masked:
        figures |= _spreads(masked, "masked_")
        figures["masked_ratio"] = figures["masked_mouth_spread_mm"] / figures["mouth_spread_mm"]
    figures["common_variance"] = common_variance([reading.shapes for reading in bare + masked])
    figures |= people_figures(bundle, reader, people_in(list(folders)))
    if rival:
        seen = {name: columns["seen"] for name, columns in series.items()}
        correlations = blendshape_correlations(shapes, seen)
        figures |= {f"peer_correlation_{name}": value for name, value in correlations.items()}
    if twins:
        figures |= {f"pair_{name}": value for name, value in pair_figures(twins).items()}
    return RealResults(figures, series, bare + masked, twins)


def _answers(reading: Reading) -> dict[str, np.ndarray]:
    """Answer -> points (68, 2); the closest hypothesis is told what it is compared with."""
    reference = reading.seen if reading.annotated is None else reading.annotated
    errors = point_errors(reading.hypotheses, reference)[:, INNER].mean(1)
    return {"selected": reading.selected, "mean": reading.mean, "closest": reading.hypotheses[errors.argmin()]}


def _yaw(reading: Reading) -> float:
    rotation = reading.face.rotation
    return abs(float(np.degrees(np.arctan2(rotation[0, 2], -rotation[2, 2]))))


def _series(bare: list[Reading]) -> dict[str, dict[str, np.ndarray]]:
    rows = [measures(np.stack([*_answers(r).values(), r.seen])) for r in bare]
    noted = [measures(reading.annotated) if reading.annotated is not None else None for reading in bare]
    series: dict[str, dict[str, np.ndarray]] = {}
    for name in MEASURES:
        columns = np.stack([row[name] for row in rows], axis=1)
        series[name] = dict(zip((*ANSWERS, "seen"), columns, strict=True))
        series[name]["annotated"] = np.array([np.nan if note is None else note[name] for note in noted])
    return series


def _errors(bare: list[Reading]) -> dict[str, float]:
    """error51 of all annotated faces, frontal and turned apart."""
    columns: dict[str, list[float]] = {}
    for reading in bare:
        if reading.annotated is None:
            continue
        prefix = "" if _yaw(reading) < _FRONTAL else "turned_"
        for name, points in (_answers(reading) | {"mediapipe": reading.seen}).items():
            error = 100 * float(point_errors(points, reading.annotated)[INNER].mean())
            columns.setdefault(f"{prefix}error51_{name}", []).append(error)
        columns.setdefault(f"{prefix}annotated_faces", []).append(1.0)
    return {name: float(np.sum(v) if name.endswith("faces") else np.median(v)) for name, v in columns.items()}


def _slopes(series: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
    figures = {}
    for name, columns in series.items():
        key = name.replace(" ", "_")
        noted = np.isfinite(columns["annotated"])
        for answer in ANSWERS:
            figures[f"slope_{key}_{answer}"], figures[f"correlation_{key}_{answer}"] = slope(
                columns[answer], columns["seen"]
            )
        for answer in (*ANSWERS, "seen"):
            figures[f"annotated_slope_{key}_{answer}"] = slope(columns[answer][noted], columns["annotated"][noted])[0]
    return figures


def _spreads(readings: list[Reading], prefix: str) -> dict[str, float]:
    """Root mean square spread in mm of each region's points, mean over pictures."""
    rows = {name: np.isin(np.arange(N_MEDIAPIPE), points) for name, points in REGIONS.items()}
    wide = np.stack([spread(reading.shapes) for reading in readings])
    return {
        f"{prefix}{name}_spread_mm": float(np.sqrt((wide[:, row] ** 2).mean(1)).mean()) for name, row in rows.items()
    }


def common_variance(shapes: list[np.ndarray]) -> float:
    """Part of the variance of hypotheses (H, L, 3), about each picture's mean, that their mean over pictures explains:
    1 when every picture gets the same hypotheses but for a shift; 1 / n by chance."""
    deviations = np.stack([each - each.mean(0) for each in shapes])
    return float((deviations.mean(0) ** 2).sum() / max((deviations**2).sum() / len(shapes), 1e-12))


def _variety(bundle: Bundle, bare: list[Reading]) -> dict[str, float]:
    """How different the chosen heads are, mean-aligned frontal vertices, as a part of random heads'."""
    head, basis = bundle.head, frontal_basis(bundle.head)

    def apart(betas: np.ndarray) -> float:
        moved = ((betas - betas.mean(0)) @ basis).reshape(len(betas), -1, 3)
        return float(np.sqrt((moved**2).sum(-1).mean()))

    random = np.random.default_rng(0).standard_normal((_HEADS, head.n_shape)).astype(np.float32)
    return {"heads_apart": apart(np.stack([reading.face.shape for reading in bare])) / apart(random)}
