"""Expression on Open-545: hypotheses against a regressor, random faces and the neutral one, seen and occluded apart.

In mm at every third vertex of the face, in the head frame, with the true identity given unless said otherwise, so that
only expression and jaw are judged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.decoders import HypothesisDecoder
from ofer_models.head.model import HeadModel
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.drifting_noise import hypothesis_noise
from ofer_models.workshop.measure.metrics import hypotheses as metrics
from ofer_models.workshop.measure.open545.held_out import MOVED, encoder_arrays, unpack
from ofer_models.workshop.measure.open545.moved import Mover
from ofer_models.workshop.measure.open545.regressor import Regressor
from ofer_models.workshop.pictures.dataset import PictureSet
from ofer_models.workshop.pictures.population import Population
from ofer_models.workshop.progress import Progress

MANY = 100  # hypotheses that spread and coverage are measured with
SHARES = (0.5, 0.7, 0.8, 0.9, 0.95)
METHODS = ("hypotheses", "regressor", "random faces", "neutral face")
_EVERY, _BATCH = 3, 20
_PEOPLE = 4000  # expressions of the reference population
_FLOOR = 0.05  # mm: deviations below this count as this, where a vertex hardly moves or only along a line


@dataclass
class ExpressionResult:
    """A picture each: rows[method] CO-545's figures in mm, cse_seen / cse_hidden by method (NaN where nothing is
    hidden), mean_error and neutral_error at moved visible vertices, spread at visible, hidden and all vertices, inside
    and inside_seen: per share of SHARES whether the truth lies in the hypotheses' region at hidden and at visible
    vertices, own_se: SE with the ranked identity.
    """

    rows: dict[str, list[dict[str, float]]] = field(default_factory=lambda: {name: [] for name in METHODS})
    cse_seen: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in METHODS})
    cse_hidden: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in METHODS})
    mean_error: list[np.ndarray] = field(default_factory=list)
    neutral_error: list[np.ndarray] = field(default_factory=list)
    spread: list[np.ndarray] = field(default_factory=list)
    visible: list[np.ndarray] = field(default_factory=list)
    hidden: list[np.ndarray] = field(default_factory=list)
    inside: list[np.ndarray] = field(default_factory=list)
    inside_seen: list[np.ndarray] = field(default_factory=list)
    own_se: list[float] = field(default_factory=list)


class FaceDecoder:
    """Coefficients to every third face vertex in mm, clipped and scaled as the pipeline does with drawn ones."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.head = bundle, bundle.head
        self.indices = self.head.masks["face"][::_EVERY]
        self._decode = HypothesisDecoder(self.head, self.indices)

    def __call__(self, identity, coefficients: np.ndarray) -> np.ndarray:
        """Vertices (K, V', 3) mm of raw coefficients (K, E + 3) on an identity."""
        count = self.head.n_expression
        return 1000 * self._decode(identity, coefficients[:, :count], coefficients[:, count:])

    def drawn(self, coefficients: np.ndarray) -> np.ndarray:
        """Coefficients (..., E + 3) as the pipeline uses what ExpGen draws."""
        expression, jaw = np.split(np.asarray(coefficients, np.float32), [self.head.n_expression], axis=-1)
        if self.bundle.expression_range:
            expression = np.clip(expression, *self.bundle.expression_range)
        return np.concatenate([expression, jaw * np.float32(self.bundle.jaw_scale)], axis=-1)


def random_faces(head: HeadModel, count: int, seed: int) -> np.ndarray:
    """Coefficients (count, E + 3) of random people's expressions."""
    population, rng = Population(head.expression_names, head.n_shape, head.jaw_open_angle), np.random.default_rng(seed)
    return np.stack([np.concatenate(population.expression(rng)) for _ in range(count)])


def reference_population(bundle: Bundle) -> tuple[metrics.VertexPopulation, float, np.ndarray]:
    """How far vertices move in random expressions (mm from the neutral face), ASD-O's scale, and their spread (V',)."""
    decode, nobody = FaceDecoder(bundle), bundle.head.identity(np.zeros(bundle.n_shape, np.float32))
    moved = decode(nobody, random_faces(bundle.head, _PEOPLE, 1)) - 1000 * nobody.vertices[decode.indices]
    usual = np.maximum(metrics.spread(moved), _FLOOR)
    return metrics.VertexPopulation.fit(moved, _FLOOR), metrics.reference_scale(moved), usual


def measure_expression(
    bundle: Bundle,
    stages: StageSet,
    pictures: PictureSet,
    move: Mover,
    hidden: np.ndarray,
    selected: list[np.ndarray],
    regressor: Regressor,
    population: metrics.VertexPopulation,
    scale: float,
    *,
    seed: int,
    title: str,
    progress: Progress,
) -> ExpressionResult:
    """Draw the bundle's usual number of hypotheses for every picture, which the tables count, and MANY for spread and
    coverage.

    move: to the pictures' landmarks where the bundle says so, on the true identity as on the selected one. hidden
    (n, V) bool: vertices that count as occluded; visible ones are the pictures' own. selected: ranked betas.
    """
    head, rng, result, decode = bundle.head, np.random.default_rng(seed), ExpressionResult(), FaceDecoder(bundle)
    few = bundle.hypotheses
    seen, behind = unpack(head, pictures.visible)[:, decode.indices], hidden[:, decode.indices]
    anybody = random_faces(head, few * len(pictures), seed + 2).reshape(len(pictures), few, -1)
    starts = range(0, len(pictures), _BATCH)
    for start in progress(starts, title, len(starts)):
        rows = slice(start, start + _BATCH)
        encoded = stages.expression_context(**encoder_arrays(pictures, rows))
        context, open_ = encoded["context"], encoded.get("visible", [None] * len(encoded["context"]))
        # Drawn apart, the few as the node draws them.
        width = stages.expgen.n_coefficients
        drawn, drawn_many = (
            decode.drawn(stages.expgen(context, hypothesis_noise(rng, (len(context), count, width)), rng))
            for count in (few, MANY)
        )
        guesses = decode.drawn(regressor.coefficients(context))
        for i, row in enumerate(range(len(pictures))[rows]):
            identity = head.identity(pictures.betas[row])
            truth = decode(identity, pictures.coefficients[row : row + 1])[0]
            neutral = 1000 * identity.vertices[decode.indices]
            hypotheses, many = (
                decode(identity, move(row, open_[i], identity, some[i])) for some in (drawn, drawn_many)
            )
            samples = {
                "hypotheses": hypotheses, "regressor": decode(identity, guesses[i : i + 1]),
                "random faces": decode(identity, anybody[row]), "neutral face": neutral[None],
            }  # fmt: skip
            visible, covered = seen[row], behind[row]
            for name, meshes in samples.items():
                figures = metrics.hypothesis_figures(
                    meshes - neutral, truth - neutral, visible, covered, population, scale
                )
                result.rows[name].append(figures)
                for part, column in ((visible, result.cse_seen), (covered, result.cse_hidden)):
                    error = metrics.closest_sample_error(meshes[:, part], truth[part]) if part.any() else float("nan")
                    column[name].append(error)
            moved = visible & (np.linalg.norm(truth - neutral, axis=-1) > MOVED)
            result.mean_error.append(np.linalg.norm(hypotheses.mean(0) - truth, axis=-1)[moved])
            result.neutral_error.append(np.linalg.norm(neutral - truth, axis=-1)[moved])
            result.spread.append(metrics.spread(many).astype(np.float32))
            result.visible.append(visible)
            result.hidden.append(covered)
            for part, column in ((covered, result.inside), (visible, result.inside_seen)):
                column.append(metrics.inside_regions(many[:, part], truth[part], SHARES, _FLOOR))
            chosen = head.identity(selected[row])
            own = decode(chosen, move(row, open_[i], chosen, drawn[i]))
            own = own - own.mean(1, keepdims=True) + truth.mean(0)
            result.own_se.append(metrics.sample_error(own, truth))
    return result
