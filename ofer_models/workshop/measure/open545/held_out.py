"""How much a bundle knows: errors on renderings it has not seen, against the mean head and the neutral face.

Runs the bundle's own graphs, as the node does. Identity: frontal vertices, mean-aligned. Expression: vertices that the
truth moves by more than a millimetre, with the identity given, seen and covered ones apart. Distances in mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.decoders import HypothesisDecoder
from ofer_models.head.model import HeadModel
from ofer_models.perception.encoder_inputs import crop_blob
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.drifting_noise import hypothesis_noise
from ofer_models.workshop.head.frontal import frontal_basis, vertex_errors
from ofer_models.workshop.pictures.dataset import PictureSet

MOVED = 1.0  # mm
_BATCH = 20


@dataclass(frozen=True)
class IdentityErrors:
    """Median vertex errors in mm. ratio: selected against the mean head; rank_gap_closed: the way from the candidates'
    average to their best that the ranking goes (mean errors); nearest_to_mean is the rival without a network.
    """

    selected: float
    mean_head: float
    ratio: float
    candidates_average: float
    candidates_best: float
    nearest_to_mean: float
    candidates_mean: float
    rank_gap_closed: float


@dataclass(frozen=True)
class ExpressionErrors:
    """Median errors in mm over seen moved vertices, ratio of the hypotheses' mean to the neutral face; spread (mm) of
    the hypotheses on seen and on covered face vertices.
    """

    hypotheses_mean: float
    neutral: float
    ratio: float
    ratio_unoccluded: float
    closest_hypothesis: float
    spread_seen: float
    spread_covered: float


def encoder_arrays(pictures: PictureSet, rows: slice) -> dict[str, np.ndarray]:
    """The inputs of the open bundle's encoders for some pictures."""
    return {"landmarks": pictures.landmarks[rows].astype(np.float32), "crop112": crop_blob(pictures.crop[rows])}


def identity_errors(
    bundle: Bundle, pictures: PictureSet, *, candidates: int | None = None, seed: int = 0
) -> IdentityErrors:
    """Draw, rank and select an identity for every picture and measure it."""
    stages, head = StageSet(bundle, threads=2), bundle.head
    rng, count = np.random.default_rng(seed), candidates or bundle.candidates
    basis = frontal_basis(head)
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("selected", "mean_head", "average", "best", "nearest", "mean")
    }
    for start in range(0, len(pictures), _BATCH):
        rows = slice(start, start + _BATCH)
        inputs = encoder_arrays(pictures, rows)
        context = stages.identity_context(**inputs)["context"]
        noise = rng.standard_normal((len(context), count, head.n_shape), dtype=np.float32)
        drawn = stages.idgen(context, noise, rng).astype(np.float32)
        best = stages.idrank(betas=drawn, context=context)["score"].argmax(1)
        for betas, chosen, truth in zip(drawn, best, pictures.betas[rows], strict=True):
            errors = vertex_errors(betas, truth, basis)  # (N, V')
            centre = betas.mean(0)
            nearest = np.linalg.norm((betas - centre) @ basis, axis=1).argmin()
            columns["selected"].append(errors[chosen])
            columns["mean_head"].append(vertex_errors(np.zeros_like(truth), truth, basis))
            columns["average"].append(errors.mean(0))
            columns["best"].append(errors[errors.mean(1).argmin()])
            columns["nearest"].append(errors[nearest])
            columns["mean"].append(vertex_errors(centre, truth, basis))
    median = {name: float(np.median(np.stack(values))) for name, values in columns.items()}
    mean = {name: float(np.mean(np.stack(values))) for name, values in columns.items()}
    closed = (mean["average"] - mean["selected"]) / max(mean["average"] - mean["best"], 1e-9)
    return IdentityErrors(
        median["selected"], median["mean_head"], median["selected"] / median["mean_head"],
        median["average"], median["best"], median["nearest"], median["mean"], closed,
    )  # fmt: skip


def expression_errors(
    bundle: Bundle, pictures: PictureSet, *, hypotheses: int | None = None, seed: int = 0
) -> ExpressionErrors:
    """Draw expression hypotheses for every picture and measure them on the true identity."""
    stages, head = StageSet(bundle, threads=2), bundle.head
    rng, count = np.random.default_rng(seed), hypotheses or bundle.hypotheses
    face = head.masks["face"]
    decode = HypothesisDecoder(head, face)
    seen, covered = (unpack(head, bits)[:, face] for bits in (pictures.visible, pictures.covered))
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("mean", "neutral", "closest", "spread_seen", "spread_covered")
    }
    clear: list[np.ndarray] = []
    for start in range(0, len(pictures), _BATCH):
        rows = slice(start, start + _BATCH)
        context = stages.expression_context(**encoder_arrays(pictures, rows))["context"]
        noise = hypothesis_noise(rng, (len(context), count, stages.expgen.n_coefficients))
        drawn = stages.expgen(context, noise, rng)
        expressions = drawn[..., : head.n_expression]
        jaws = drawn[..., head.n_expression :] * bundle.jaw_scale
        if bundle.expression_range:
            expressions = np.clip(expressions, *bundle.expression_range)
        for i, row in enumerate(range(len(pictures))[rows]):
            identity = head.identity(pictures.betas[row])
            truth = decode(identity, pictures.expression[row : row + 1], pictures.jaw[row : row + 1])[0]
            vertices = decode(identity, expressions[i], jaws[i])
            errors = 1000 * np.linalg.norm(vertices - truth, axis=-1)
            neutral = 1000 * np.linalg.norm(identity.vertices[face] - truth, axis=-1)
            moved = seen[row] & (neutral > MOVED)
            columns["mean"].append(1000 * np.linalg.norm(vertices.mean(0) - truth, axis=-1)[moved])
            columns["neutral"].append(neutral[moved])
            columns["closest"].append(errors[errors.mean(1).argmin()][moved])
            spread = 1000 * np.sqrt(vertices.var(0).sum(-1))
            columns["spread_seen"].append(spread[seen[row]])
            columns["spread_covered"].append(spread[covered[row]])
            clear.append(np.full(moved.sum(), pictures.occlusion[row] < 0.02))
    pooled = {name: np.concatenate(values) for name, values in columns.items()}
    median = {name: float(np.median(values)) for name, values in pooled.items()}
    plain = np.concatenate(clear)
    return ExpressionErrors(
        median["mean"], median["neutral"], median["mean"] / median["neutral"],
        float(np.median(pooled["mean"][plain]) / np.median(pooled["neutral"][plain])),
        median["closest"], median["spread_seen"], median["spread_covered"],
    )  # fmt: skip


def unpack(head: HeadModel, bits: np.ndarray) -> np.ndarray:
    """Packed vertex flags of a picture set to (n, V) bool."""
    return np.unpackbits(bits, axis=1, count=head.n_vertices).astype(bool)
