"""The scenes of Open-545: someone making a face, without and with an occluder, as MediaPipe finds it in both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ofer_models.head.landmark_sets import LANDMARKS68, N_MEDIAPIPE
from ofer_models.head.model import HeadModel
from ofer_models.perception.landmark_crop import landmark_crop
from ofer_models.workshop.errors import EvaluationError
from ofer_models.workshop.pictures.camera_effects import SIZE, camera_effects
from ofer_models.workshop.pictures.occluders import add_occluder
from ofer_models.workshop.pictures.people.assets import Library
from ofer_models.workshop.pictures.people.light import photograph
from ofer_models.workshop.pictures.people.looks import random_look
from ofer_models.workshop.pictures.people.source import PeopleSource, covered
from ofer_models.workshop.pictures.pictures import PictureSource, Sample, Scene, View, place
from ofer_models.workshop.pictures.population import Population

SEED, PEOPLE = 545, 11
GROUPS = ("hand", "object", "random")
BOTH = ("clean", "occluded")
_LEAST = 0.05  # share of the visible face that an occluder covers at least
_ATTEMPTS = 40
_VIEW = View(yaw=np.radians(8), pitch=np.radians(6), roll=np.radians(5))  # CO-545's pictures are frontal

Stream = Callable[[int], np.random.Generator]  # random numbers of one purpose each
Seen = tuple[list[np.ndarray], list[Sample | None]]  # both pictures (256, 256, 3) uint8 RGB and what is seen in them


class Scenes(Protocol):
    """Draws scenes of one kind."""

    def __call__(self, person: int, group: str, stream: Stream) -> Seen | None:
        """A person making a face, without and with an occluder; None where that covers too little."""


class PlainScenes:
    """Heads in flat paint."""

    def __init__(self, head: HeadModel) -> None:
        self._source = PictureSource(head, SEED)

    def __call__(self, person: int, group: str, stream: Stream) -> Seen | None:
        """As `Scenes` says."""
        source, rng = self._source, stream(0)
        scene = source.scene(_betas(source, person), *source.population.expression(rng), rng, _VIEW, paint=person)
        occluded, cover = add_occluder(scene.image, scene.points68, stream(1), group)
        truths = _truths(source, scene, cover)
        if truths is None:
            return None
        images = [camera_effects(image, stream(2)) for image in (scene.image, occluded)]
        return images, [
            source.observe(image, truth, stream(3), stream(4)) for image, truth in zip(images, truths, strict=True)
        ]


class PeopleScenes:
    """People with skin, brows, lashes, teeth, hair, glasses and shadows."""

    def __init__(self, head: HeadModel, library: Library) -> None:
        self._people, self._library = PeopleSource(head, library, SEED, size=SIZE), library
        self._source = PictureSource(head, SEED)

    def __call__(self, person: int, group: str, stream: Stream) -> Seen | None:
        """As `Scenes` says."""
        source, rng = self._source, stream(0)
        head, betas = source.head, _betas(source, person)
        look = random_look(self._library, np.random.default_rng([SEED, 3, person]))
        expression, jaw = source.population.expression(rng)

        def view(landmarks: np.ndarray, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            camera, rotation, translation = place(vertices, vertices[head.masks["eyes"]].mean(0), rng, _VIEW)[1:]
            return camera, np.concatenate([rotation, translation[:, None]], axis=1)

        shown = self._people.scene(betas, expression, jaw, look, view, rng)
        points468 = shown.place[:N_MEDIAPIPE]
        points68 = points468[LANDMARKS68]
        occluded, cover = covered(shown.light, lambda image: add_occluder(image, points68, stream(1), group))
        scene = Scene(
            shown.light, betas, expression, jaw, shown.seen, shown.points, points468, points68, shown.camera,
            shown.pose[:, :3], shown.pose[:, 3],
        )  # fmt: skip
        truths = _truths(source, scene, cover)
        if truths is None:
            return None
        images = [photograph(light, stream(2)) for light in (shown.light, occluded)]
        return images, [
            source.observe(image, truth, stream(3), None) for image, truth in zip(images, truths, strict=True)
        ]


def draw(scenes: Scenes, index: int) -> dict[str, np.ndarray]:
    """Picture `index` both ways: the first attempt at which MediaPipe finds the face and the occluder covers some.

    Raises EvaluationError when none of forty succeeds.
    """
    person, group = index % PEOPLE, index // PEOPLE % len(GROUPS)
    for attempt in range(_ATTEMPTS):

        def stream(number: int, attempt: int = attempt) -> np.random.Generator:
            return np.random.default_rng([SEED, 2, index, attempt, number])

        seen = scenes(person, GROUPS[group], stream)
        if seen is None or None in seen[1]:
            continue
        row = {"person": np.int64(person), "group": np.int64(group), "camera": seen[1][0].camera}
        for which, image, sample in zip(BOTH, *seen, strict=True):
            row[f"{which}_index"], row[f"{which}_points"] = np.int64(index), sample.points.astype(np.float32)
            row[f"{which}_crop128"] = landmark_crop(image, sample.points)[0]
            for name in ("landmarks", "crop", "betas", "expression", "jaw", "visible", "covered"):
                row[f"{which}_{name}"] = getattr(sample, name)
            row[f"{which}_occlusion"] = np.float32(sample.occlusion)
        return row
    raise EvaluationError(
        f"Open-545: no face was found in picture {index} at {_ATTEMPTS} attempts; is MediaPipe whole?"
    )


def where_it_stands(
    head: HeadModel, index: int, betas: np.ndarray, expression: np.ndarray, camera: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and translation (3,) m from the head's frame to the camera's in picture `index` of either set,
    whose truth and camera matrix (3, 3) are given: drawn again from the same numbers.

    Raises EvaluationError where no attempt at the picture has that truth.
    """
    population = Population(head.expression_names, head.n_shape, head.jaw_open_angle)
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([SEED, 2, index, attempt, 0])
        drawn, jaw = population.expression(rng)
        if np.abs(drawn - expression).max() < 1e-6:
            vertices = head.decode(betas, drawn, jaw)
            again, rotation, translation = place(vertices, vertices[head.masks["eyes"]].mean(0), rng, _VIEW)[1:]
            if np.allclose(again, camera):
                return rotation, translation
    raise EvaluationError(f"Open-545: picture {index} shows something else than its number says; draw the set again")


def _betas(source: PictureSource, person: int) -> np.ndarray:
    return source.population.betas(np.random.default_rng([SEED, 1, person]))


def _truths(source: PictureSource, scene: Scene, cover: np.ndarray) -> list[dict] | None:
    """The truth without and with the cover (S, S), or None where that covers too little of the face."""
    truths = [source.truth(scene, np.zeros_like(cover)), source.truth(scene, cover)]
    return truths if truths[1]["occlusion"] >= _LEAST else None
