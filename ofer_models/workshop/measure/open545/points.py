"""What exact points would be worth: heads and hypotheses on Open-545 from points that are as wrong as one wants.

The shipped encoders and samplers draw as ever; what they draw is moved to points made of the truth: with errors that
are independent of each other, and with the landmark network's own errors on the same pictures, made smaller. Their
deviations are told as they are. So the curves say what of a figure is due to points, and what is left without errors is
due to the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.landmark_sets import IRISES, N_MEDIAPIPE, N_WITH_IRISES, tracked_landmarks
from ofer_models.head.model import HeadModel
from ofer_models.perception.intrinsics import project
from ofer_models.perception.point_fusion import PointEstimate, inter_ocular
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.identity_evidence import IdentityEvidence
from ofer_models.tracking.identity_state import View
from ofer_models.tracking.reprojection import SeenLandmarks
from ofer_models.workshop.errors import EvaluationError
from ofer_models.workshop.measure.open545.expression import measure_expression, reference_population
from ofer_models.workshop.measure.open545.held_out import encoder_arrays, unpack
from ofer_models.workshop.measure.open545.identity import RANDOM, FrontalErrors
from ofer_models.workshop.measure.open545.moved import Mover, Observer
from ofer_models.workshop.measure.open545.pictures import Open545
from ofer_models.workshop.measure.open545.protocol import expression_headline
from ofer_models.workshop.measure.open545.regressor import Regressor
from ofer_models.workshop.measure.open545.scenes import where_it_stands
from ofer_models.workshop.pictures.people.source import points_on_people
from ofer_models.workshop.progress import Progress, silent

EVEN, OWN = "independent errors", "the network's errors, made smaller"
ALONE, SHIPPED = "the network alone", "as shipped"
PERCENT = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)  # mean distances of independent errors, of the distance between the eyes
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the network's own errors
_EVERY = 5  # pictures
_LEAST = 0.005  # deviation, of the distance between the eyes, that exact points are told with
_MEAN = math.sqrt(math.pi / 2)  # mean distance of two independent normal coordinates, in their deviations
_SURE = 0.9  # chance of being seen from which a point's error counts


@dataclass(frozen=True)
class Level:
    """kind of the errors; error: mean distance of seen points from the truth, % of the distance between the eyes;
    figures: `expression_headline`'s and identity_ratio, the moved heads' median error / random heads' average, and
    own_se, SE mm of the face with that head, mean-aligned, clean pictures."""

    kind: str
    error: float
    figures: dict[str, float]


def measure_points(
    bundle: Bundle, data: Open545, regressor: Regressor, *, seed: int = 0, threads: int = 1, progress: Progress = silent
) -> list[Level]:
    """Every fifth picture at every level. Raises EvaluationError for a bundle without a landmark network or whose
    hypotheses are not moved to landmarks."""
    stages = StageSet(bundle, threads=threads)
    if stages.landmarks is None or not bundle.landmark_evidence:
        raise EvaluationError(f"bundle {bundle.name} has no landmark network, or landmarks do not move its hypotheses")
    bench = _Bench(bundle, stages, data.every(_EVERY), regressor, seed)
    levels: list[tuple[str, Callable[[_Half], Callable[[int], SeenLandmarks]]]] = [
        *((EVEN, lambda half, percent=percent: half.independent(percent / 100)) for percent in PERCENT),
        *((OWN, lambda half, share=share: half.scaled(share)) for share in SHARES),
        (ALONE, lambda half: half.alone), (SHIPPED, lambda half: half.observer),
    ]  # fmt: skip
    return [bench(kind, see) for kind, see in progress(levels, "levels of error", len(levels))]


class _Half:
    """One half's pictures: where points truly lie, what the network says of them, and both made into landmarks."""

    def __init__(self, bundle: Bundle, observer: Observer, truth: np.ndarray, meant: np.ndarray, seed: int) -> None:
        """truth (n, 478, 2) px of the landmarks that the head is compared by, meant (n, 468, 2) px: where the
        network learned them."""
        self.observer, self.truth, self._seed = observer, truth, seed
        self._numbers = tracked_landmarks(bundle.head)[1]
        self._own = [observer.own(row) for row in range(len(truth))]
        self._off = [own.points - where for own, where in zip(self._own, truth, strict=True)]
        for off, own, where in zip(self._off, self._own, meant, strict=True):
            off[:N_MEDIAPIPE] = own.points[:N_MEDIAPIPE] - where

    def independent(self, deviation: float) -> Callable[[int], SeenLandmarks]:
        """Mean distance `deviation` from the truth, in parts of the distance between the eyes."""

        def see(row: int) -> SeenLandmarks:
            rng, truth = np.random.default_rng([self._seed, row]), self.truth[row]
            each = deviation / _MEAN * inter_ocular(truth)
            told = max(each, _LEAST * inter_ocular(truth))
            points = truth + each * rng.standard_normal(truth.shape)
            return self._seen(row, PointEstimate(points, np.full(len(truth), told), self._own[row].visible))

        return see

    def scaled(self, share: float) -> Callable[[int], SeenLandmarks]:
        """A share of the network's errors from what it means, and of its deviations."""

        def see(row: int) -> SeenLandmarks:
            own = self._own[row]
            points = self.truth[row] + share * self._off[row]
            return self._seen(row, PointEstimate(points, share * own.deviation, own.visible))

        return see

    def alone(self, row: int) -> SeenLandmarks:
        """What the network says, without MediaPipe's points."""
        return self._seen(row, self._own[row])

    def error(self, see: Callable[[int], SeenLandmarks]) -> float:
        """Mean distance of seen points from the truth, % of the distance between the eyes."""
        apart = []
        for row, truth in enumerate(self.truth):
            off = np.linalg.norm(see(row).points - truth[self._numbers], axis=-1) / inter_ocular(truth)
            apart.append(off[self._own[row].visible[self._numbers] > _SURE])
        return 100 * float(np.concatenate(apart).mean())

    def _seen(self, row: int, told: PointEstimate) -> SeenLandmarks:
        face = SeenLandmarks.of(told.points, self._numbers, self.observer.camera(row))
        return replace(face, deviation=told.deviation[self._numbers] / face.between_eyes,
                       visible=told.visible[:N_WITH_IRISES])  # fmt: skip


class _Bench:
    """What is the same at every level, and the figures of one."""

    def __init__(self, bundle: Bundle, stages: StageSet, data: Open545, regressor: Regressor, seed: int) -> None:
        self._bundle, self._stages, self._regressor, self._seed = bundle, stages, regressor, seed
        self._population, self._scale, self._usual = reference_population(bundle)
        self._hidden = unpack(bundle.head, data.occluded.covered)
        evidence = LandmarkEvidence.of(bundle, every_point=True)
        self._fit, self._errors = IdentityEvidence(bundle.head, evidence), FrontalErrors(bundle.head)
        truth, meant = true_points(bundle.head, data)
        self._halves = {}
        for which, pictures, points, crops in (
            ("clean", data.clean, data.clean_points, data.clean_crop128),
            ("occluded", data.occluded, data.occluded_points, data.occluded_crop128),
        ):
            observer = Observer(bundle, stages, points, crops, data.camera)
            encoded = stages.expression_context(**encoder_arrays(pictures, slice(None)))
            visible = encoded.get("visible", [None] * len(pictures))
            self._halves[which] = (
                pictures, _Half(bundle, observer, truth, meant, seed), visible,
                self._candidates_mean(pictures), regressor.coefficients(encoded["context"]),
            )  # fmt: skip
        someone = np.random.default_rng(seed + 1).standard_normal((RANDOM, bundle.n_shape)).astype(np.float32)
        people = {betas.tobytes(): betas for betas in data.clean.betas}
        error_of = {key: self._errors(someone, betas).mean(0) for key, betas in people.items()}
        self._random = float(np.median(np.stack([error_of[betas.tobytes()] for betas in data.clean.betas])))

    def __call__(self, kind: str, see: Callable[[_Half], Callable[[int], SeenLandmarks]]) -> Level:
        expression, heads, off = {}, [], []
        for which, (pictures, half, visible, means, faces) in self._halves.items():
            seen = see(half)
            off.append(half.error(seen))
            moved = [self._head(means[row], seen(row), visible[row], faces[row]) for row in range(len(pictures))]
            heads += [self._errors(betas, truth) for betas, truth in zip(moved, pictures.betas, strict=True)]
            expression[which] = measure_expression(
                self._bundle, self._stages, pictures, Mover(self._bundle, seen, self._seed + 3), self._hidden, moved,
                self._regressor, self._population, self._scale, seed=self._seed, title=which, progress=silent,
            )  # fmt: skip
        figures = {"identity_ratio": float(np.median(np.stack(heads))) / self._random}
        figures |= expression_headline(expression, float(self._population.threshold.mean()), self._usual)
        figures["own_se"] = float(np.mean(expression["clean"].own_se))
        return Level(kind, float(np.mean(off)), figures)

    def _candidates_mean(self, pictures) -> np.ndarray:
        """(n, S): where the node's head begins."""
        rng, stages = np.random.default_rng(self._seed), self._stages
        context = stages.identity_context(**encoder_arrays(pictures, slice(None)))["context"]
        shape = (len(context), self._bundle.candidates, self._bundle.n_shape)
        return stages.idgen(context, rng.standard_normal(shape, dtype=np.float32), rng).mean(1).astype(np.float32)

    def _head(
        self, betas: np.ndarray, seen: SeenLandmarks, visible: np.ndarray | None, face: np.ndarray
    ) -> np.ndarray:
        """Betas (S,) moved to one view, with the regressed face (E + 3,) to start from."""
        expression, jaw = np.split(face, [self._bundle.n_expression])
        view = View(0.0, 1.0, np.zeros(0), seen=seen, visible=visible, expression=np.clip(expression, 0, 1), jaw=jaw)
        return self._fit(betas, [view], np.ones(1))[0]


def true_points(head: HeadModel, data: Open545) -> tuple[np.ndarray, np.ndarray]:
    """Where points lie in the pictures, px: (n, 478, 2) of the landmarks that the head is compared by, each iris as one
    point, and (n, 468, 2) where MediaPipe means them on people, lips as well, which the landmark network has
    learned."""
    embedding, numbers = tracked_landmarks(head)
    triangle, bary = points_on_people(head)
    iris_rows = [np.flatnonzero(numbers == iris) for iris in IRISES]
    if not all(len(rows) for rows in iris_rows):
        raise EvaluationError("the head knows no irises; Open-545 shows the open head")
    own, meant = [], []
    rows = zip(data.clean.index, data.clean.betas, data.clean.expression, data.clean.jaw, data.camera, strict=True)
    for index, betas, expression, jaw, camera in rows:
        rotation, translation = where_it_stands(head, int(index), betas, expression, camera)
        vertices = head.decode(betas, expression, jaw)
        for places, kept in (((embedding.triangle, embedding.bary), own), ((triangle, bary), meant)):
            points = np.einsum("kc,kcx->kx", places[1], vertices[head.faces[places[0]]])
            kept.append(project(points @ rotation.T + translation, camera))
    told = np.stack(own)
    irises = np.repeat(np.concatenate(iris_rows), (N_WITH_IRISES - N_MEDIAPIPE) // len(IRISES))
    return np.concatenate([told[:, :N_MEDIAPIPE], told[:, irises]], axis=1), np.stack(meant)
