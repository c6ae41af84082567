"""Identity on Open-545: the ranked candidate against random heads, the mean head, a regressor, and two plain rivals.

Errors in mm at every third frontal vertex, mean-aligned: where a head stands is not its shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.decoders import LandmarkDecoder
from ofer_models.head.landmark_sets import tracked_landmarks
from ofer_models.head.model import HeadModel
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.identity_candidates import COMPARED, RANK_SHARE
from ofer_models.tracking.reprojection import SeenLandmarks, best_pose_log_weights
from ofer_models.workshop.head.frontal import frontal_basis, vertex_errors
from ofer_models.workshop.measure.open545.held_out import encoder_arrays
from ofer_models.workshop.measure.open545.ranking import RankFigures, nearest_to_mean, picked_errors, rank_figures
from ofer_models.workshop.measure.open545.regressor import Regressor
from ofer_models.workshop.pictures.dataset import PictureSet
from ofer_models.workshop.progress import Progress

RANDOM = 1000  # random heads, the same for all pictures
_EVERY = 3
_BATCH = 20
MIXTURES = {"50 random + 50 drawn": 50, "80 random + 20 drawn": 80}


@dataclass
class IdentityResult:
    """errors: method -> vertex errors (V',) in mm, a picture each; candidates: mean errors (n, N) of all drawn; chosen,
    nearest (n,) indices of the ranked candidate and of the one nearest to the candidates' mean; mean_error (n,) of that
    mean; selected (n, S) betas of the ranked one; contexts (n, C) and the candidates drawn (n, N, S) from them.
    """

    errors: dict[str, list[np.ndarray]] = field(default_factory=dict)
    candidates: list[np.ndarray] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    nearest: list[int] = field(default_factory=list)
    mean_error: list[float] = field(default_factory=list)
    selected: list[np.ndarray] = field(default_factory=list)
    contexts: list[np.ndarray] = field(default_factory=list)
    drawn: list[np.ndarray] = field(default_factory=list)

    def add(self, method: str, errors: np.ndarray) -> None:
        self.errors.setdefault(method, []).append(errors.astype(np.float32))

    def ranking(self) -> RankFigures:
        return rank_figures(
            np.stack(self.candidates), np.array(self.chosen), np.array(self.nearest), np.array(self.mean_error)
        )


class FrontalErrors:
    """Vertex errors (..., V') in mm of betas (..., S) from true ones (S,), at every third frontal vertex."""

    def __init__(self, head: HeadModel) -> None:
        self.basis = frontal_basis(head, _EVERY)

    def __call__(self, betas: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return vertex_errors(betas, truth, self.basis)


def measure_identity(
    bundle: Bundle,
    stages: StageSet,
    pictures: PictureSet,
    points: np.ndarray,
    cameras: np.ndarray,
    regressor: Regressor,
    *,
    candidates: int,
    seed: int,
    landmarks: bool,
    progress: Progress,
) -> IdentityResult:
    """Draw and rank `candidates` heads for every picture; points (n, 478, 3) px through cameras (n, 3, 3).

    landmarks: also choose as the node does, by rank score and agreement with the landmarks, with the true camera and
    the regressed expression.
    """
    head, rng, result = bundle.head, np.random.default_rng(seed), IdentityResult()
    measure = FrontalErrors(head)
    someone = np.random.default_rng(seed + 1).standard_normal((RANDOM, head.n_shape)).astype(np.float32)
    agree = LandmarkAgreement(head) if landmarks else None
    starts = range(0, len(pictures), _BATCH)
    for start in progress(starts, "identity", len(starts)):
        rows = slice(start, start + _BATCH)
        inputs = encoder_arrays(pictures, rows)
        context = stages.identity_context(**inputs)["context"]
        noise = rng.standard_normal((len(context), candidates, head.n_shape), dtype=np.float32)
        drawn = stages.idgen(context, noise, rng).astype(np.float32)
        scores = stages.idrank(betas=drawn, context=context)["score"]
        guesses = regressor.betas(context)
        faces = regressor.coefficients(stages.expression_context(**inputs)["context"])
        for i, row in enumerate(range(len(pictures))[rows]):
            truth = pictures.betas[row]
            errors, best = measure(drawn[i], truth), int(scores[i].argmax())
            meshes = drawn[i] @ measure.basis
            nearest = int(nearest_to_mean(meshes))
            mean = measure(drawn[i].mean(0), truth)
            result.candidates.append(errors.mean(1))
            result.chosen.append(best)
            result.nearest.append(nearest)
            result.mean_error.append(float(mean.mean()))
            result.selected.append(drawn[i, best])
            result.contexts.append(context[i])
            result.drawn.append(drawn[i])
            for name, picked in picked_errors(errors, best).items():
                result.add(name, picked)
            result.add("nearest to mean", errors[nearest])
            result.add("mean of candidates", mean)
            result.add("regressor", measure(guesses[i], truth))
            result.add("mean head", measure(np.zeros_like(truth), truth))
            _random_heads(result, measure(someone, truth), errors, drawn[i], someone, context[i : i + 1], stages)
            if agree:
                likely = np.argsort(-scores[i])[:COMPARED]
                score = RANK_SHARE * scores[i, likely] + agree(drawn[i, likely], faces[i], points[row], cameras[row])
                result.add("ranked with landmarks", errors[likely[score.argmax()]])
    return result


def _random_heads(
    result: IdentityResult,
    random_errors: np.ndarray,
    errors: np.ndarray,
    drawn: np.ndarray,
    someone: np.ndarray,
    context: np.ndarray,
    stages: StageSet,
) -> None:
    """OFER's table 1 for one face: random heads alone, and mixed with drawn ones and ranked together."""
    for count in (200, RANDOM):
        result.add(f"random best of {count}", picked_errors(random_errors[:count])["best"])
    result.add("random heads", random_errors.mean(0))
    for name, count in MIXTURES.items():
        share = len(drawn) * count // 100
        some = np.linspace(0, len(drawn) - 1, len(drawn) - share).astype(int)  # of every temperature
        mixed = np.concatenate([someone[:share], drawn[some]])
        best = int(stages.idrank(betas=mixed[None], context=context)["score"][0].argmax())
        together = np.concatenate([random_errors[:share], errors[some]])
        for what, picked in picked_errors(together, best).items():
            result.add(f"{name}, {what}", picked)


class LandmarkAgreement:
    """Log weights (N,) of candidate heads by how well they explain a face's landmarks, as the pipeline weighs them."""

    def __init__(self, head: HeadModel) -> None:
        embedding, self._points = tracked_landmarks(head)
        self._landmarks, self._n_expression = LandmarkDecoder(head, embedding), head.n_expression

    def __call__(self, betas: np.ndarray, face: np.ndarray, points: np.ndarray, camera: np.ndarray) -> np.ndarray:
        """betas (N, S) with one expression and jaw face (E + 3,), landmarks points (478, 3) px, camera matrix (3, 3).

        Zeros where the landmarks fit no pose.
        """
        expression, jaw = np.split(face, [self._n_expression])
        models = self._landmarks.of_candidates(betas, np.clip(expression, 0, 1), jaw)
        seen = SeenLandmarks.of(points, self._points, Intrinsics(camera, 256, 256))
        return best_pose_log_weights(seen, models)
