"""Training pictures: a random person in random light behind random things, the exact truth, and what MediaPipe sees."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ofer_models.head.model import HeadModel, rotation_matrices
from ofer_models.perception.crops import aligned_crop, in_crop_unit, landmark_features
from ofer_models.perception.intrinsics import project
from ofer_models.perception.landmarks import FaceLandmarker, Roi
from ofer_models.workshop.pictures.camera_effects import SIZE, camera_effects
from ofer_models.workshop.pictures.occluders import add_occluders
from ofer_models.workshop.pictures.paint import paint_head
from ofer_models.workshop.pictures.population import Population
from ofer_models.workshop.pictures.render import random_light, render, vertex_visibility
from ofer_models.workshop.pictures.surface import describe_surface
from ofer_models.workshop.pictures.teeth import show_teeth
from ofer_models.workshop.pictures.texture import smooth_noise

_PAINTS = 200  # paints are costly, so each worker draws from a pool of its own
_TO_CAMERA = np.array([1.0, -1.0, -1.0])  # head axes to a camera that looks at the face


@dataclass(frozen=True)
class Sample:
    """One picture's truth and observation.

    betas (S,), expression (E,), jaw (3,), landmarks (478, 6) as encoders get them, crop (112, 112, 3) uint8 RGB,
    visible (V,) bool (neither turned away nor covered), covered (V,) bool (behind an occluder though facing the
    camera), occlusion (share of the facing face vertices that is covered), points (478, 3) px as MediaPipe sees them,
    true_points (468, 2) px where they really are, true_landmarks (468, 2) the same in the aligned crop, in the unit of
    landmarks, points68 (68, 2) px; camera (3, 3), rotation (3, 3) and translation
    (3,) m from the head frame to the camera's (x right, y down, z forward).
    """

    betas: np.ndarray
    expression: np.ndarray
    jaw: np.ndarray
    landmarks: np.ndarray
    crop: np.ndarray
    visible: np.ndarray
    covered: np.ndarray
    occlusion: float
    points: np.ndarray
    true_points: np.ndarray
    true_landmarks: np.ndarray
    points68: np.ndarray
    camera: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray


@dataclass(frozen=True)
class View:
    """How heads stand before the camera: deviations of yaw, pitch and roll and the largest yaw and pitch, radians."""

    yaw: float = np.radians(24)
    pitch: float = np.radians(11)
    roll: float = np.radians(10)
    most_yaw: float = np.radians(65)
    most_pitch: float = np.radians(35)


WIDE = View(yaw=np.radians(28), most_yaw=np.radians(75))  # as far as MediaPipe still finds faces


@dataclass(frozen=True)
class Scene:
    """A rendered head before anything covers it: image (SIZE, SIZE, 3) float32, its coefficients, seen (V,) bool the
    vertices that face the camera openly, points (V, 2) px of all of them, true_points (468, 2) and points68 (68, 2) px
    of its landmarks, camera matrix (3, 3), and rotation (3, 3), translation (3,) m from the head frame to the camera's.
    """

    image: np.ndarray
    betas: np.ndarray
    expression: np.ndarray
    jaw: np.ndarray
    seen: np.ndarray
    points: np.ndarray
    true_points: np.ndarray
    points68: np.ndarray
    camera: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray


class PictureSource:
    """Draws pictures of one head. Sample n of a seed is always the same picture, whoever draws it and in what order.

    wide: also hats, and yaw to 75 degrees, which sets drawn before there was the choice (the held-out one) do not have.
    """

    def __init__(self, head: HeadModel, seed: int, occluded_share: float = 0.6, wide: bool = False) -> None:
        self.head, self.seed, self.occluded_share, self.wide = head, seed, occluded_share, wide
        self.population = Population(head.expression_names, head.n_shape, head.jaw_open_angle)
        self.surface = describe_surface(head)
        self._landmarker = FaceLandmarker()
        self._landmarks68 = head.landmarks(head.v_template, "landmarks68")
        self._paints: dict[int, np.ndarray] = {}
        self._facing = np.zeros(head.n_vertices, bool)
        self._facing[head.masks["face"]] = True

    def picture(self, index: int) -> tuple[np.ndarray, dict]:
        """The picture (SIZE, SIZE, 3) uint8 RGB and its truth by name, whatever MediaPipe thinks of it."""
        rng = np.random.default_rng([self.seed, index])
        betas = self.population.betas(rng)
        view = WIDE if self.wide else View()
        scene = self.scene(betas, *self.population.expression(rng), rng, view)
        image, cover = add_occluders(scene.image, scene.points68, rng, self.occluded_share, self.wide)
        return camera_effects(image, rng), self.truth(scene, cover)

    def scene(
        self,
        betas: np.ndarray,
        expression: np.ndarray,
        jaw: np.ndarray,
        rng: np.random.Generator,
        view: View | None = None,
        paint: int | None = None,
    ) -> Scene:
        """Someone making a face, in random light before something random; paint chooses one of the source's skins."""
        vertices = self.head.decode(betas, expression, jaw)
        eyes = vertices[self.head.masks["eyes"]].mean(0)
        vertices, camera, rotation, translation = place(vertices, eyes, rng, view or View())
        background = _background(rng)
        _shoulders(background, project(vertices, camera), rng)
        skin = self._paint(int(rng.integers(_PAINTS)) if paint is None else paint)
        drawn = render(self.head, self.surface, vertices, camera, skin, random_light(rng), background)
        points68, points468 = (
            project(self.head.landmarks(vertices, name), camera) for name in ("landmarks68", "mediapipe")
        )
        seen = vertex_visibility(self.head, drawn)
        return Scene(
            drawn.image, betas, expression, jaw, seen, drawn.points, points468.astype(np.float32), points68, camera,
            rotation, translation,
        )  # fmt: skip

    def truth(self, scene: Scene, cover: np.ndarray) -> dict[str, np.ndarray | float]:
        """What a `Sample` holds beside its observation, with the part of the picture (SIZE, SIZE) that is covered."""
        pixel = np.round(scene.points).astype(int)
        inside = ((pixel >= 0) & (pixel < SIZE)).all(1)
        x, y = np.clip(pixel, 0, SIZE - 1).T
        covered = scene.seen & ((cover[y, x] > 0.5) | ~inside)
        facing = scene.seen & self._facing
        return {
            "betas": scene.betas, "expression": scene.expression, "jaw": scene.jaw,
            "visible": scene.seen & ~covered, "covered": covered,
            "occlusion": float((covered & facing).sum() / max(facing.sum(), 1)),
            "true_points": scene.true_points, "points68": scene.points68,
            "camera": scene.camera, "rotation": scene.rotation, "translation": scene.translation,
        }  # fmt: skip

    def sample(self, index: int) -> Sample | None:
        """Sample `index`, or None where MediaPipe finds no face in the picture."""
        picture, truth = self.picture(index)
        return self.observe(picture, truth, *(np.random.default_rng([self.seed, index, n]) for n in (1, 3)))

    def observe(
        self, picture: np.ndarray, truth: dict, looking: np.random.Generator, teeth: np.random.Generator | None
    ) -> Sample | None:
        """The sample of a picture and its truth, or None where MediaPipe finds no face. teeth: to paint some with,
        where the picture shows none."""
        result = self._landmarker(picture, _rough_region(truth["true_points"], looking))
        if result is None or result.presence < 0.5:
            return None
        crop, to_crop = aligned_crop(picture, result.points)
        landmarks = landmark_features(result.points)
        if teeth is not None and not truth["covered"][self.head.masks["lips"]].any():
            crop = show_teeth(crop, landmarks.astype(np.float16), teeth)
        truly = in_crop_unit(truth["true_points"], to_crop)
        return Sample(**truth, landmarks=landmarks, true_landmarks=truly, crop=crop, points=result.points)

    def _paint(self, number: int) -> np.ndarray:
        if number not in self._paints:
            paint = paint_head(self.surface, self._landmarks68, np.random.default_rng([self.seed, number, 2]))
            self._paints[number] = np.clip(paint * 255, 0, 255).astype(np.uint8)
        return self._paints[number].astype(np.float32) * np.float32(1 / 255)


def place(
    vertices: np.ndarray, eyes: np.ndarray, rng: np.random.Generator, view: View
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Turn a head, whose eyes' centre is (3,), before a random camera: vertices (V, 3) in the optical frame, the camera
    matrix (3, 3), and the rotation (3, 3) and translation (3,) m that put them there.
    """
    yaw = np.clip(rng.normal(0, view.yaw), -view.most_yaw, view.most_yaw)
    pitch = np.clip(rng.normal(0, view.pitch), -view.most_pitch, view.most_pitch)
    roll = rng.normal(0, view.roll)
    turn = np.eye(3, dtype=np.float32)
    for axis, angle in enumerate((pitch, yaw, roll)):
        turn = rotation_matrices((np.eye(3)[axis] * angle).astype(np.float32)) @ turn
    middle = eyes - [0, 0.035, 0.02]
    distance = rng.uniform(0.35, 1.6)
    eye_pixels = np.exp(rng.uniform(np.log(26), np.log(84)))  # between the eyeballs, about 62 mm apart
    focal = eye_pixels * distance / 0.062
    shift = rng.normal(0, 0.06, 2) * SIZE * (1 - eye_pixels / 110)
    placed = (vertices - middle) @ turn.T * _TO_CAMERA + [0, 0, distance]
    camera = np.array([[focal, 0, SIZE / 2 + shift[0]], [0, focal, SIZE / 2 + shift[1]], [0, 0, 1]])
    rotation = _TO_CAMERA[:, None] * turn
    return placed.astype(np.float32), camera, rotation, np.array([0, 0, distance]) - rotation @ middle


def _rough_region(points: np.ndarray, rng: np.random.Generator) -> Roi:
    """A region as a tracker or detector would give it: near the face, not exact."""
    low, high = points.min(0), points.max(0)
    size = 1.5 * float((high - low).max())
    centre = (low + high) / 2 + rng.normal(0, 0.025, 2) * size
    right, left = points[33], points[263]
    angle = float(np.arctan2(left[1] - right[1], left[0] - right[0])) + rng.normal(0, np.radians(3))
    return Roi(float(centre[0]), float(centre[1]), size * float(np.exp(rng.normal(0, 0.05))), angle)


def _background(rng: np.random.Generator) -> np.ndarray:
    """Something blurred: a gradient, blotches and a few shapes, (SIZE, SIZE, 3) float32."""
    base = rng.uniform(0.05, 0.95, 3)
    picture = np.broadcast_to(base, (SIZE, SIZE, 3)).astype(np.float32).copy()
    for channel in range(3):
        picture[..., channel] += rng.uniform(0, 0.3) * smooth_noise(SIZE, int(rng.integers(2, 9)), rng)
    for _ in range(int(rng.integers(0, 7))):
        corner, size = rng.uniform(-40, SIZE, 2).astype(int), rng.uniform(10, 160, 2).astype(int)
        cv2.rectangle(picture, corner.tolist(), (corner + size).tolist(), rng.uniform(0, 1, 3).tolist(), -1)
    blur = rng.uniform(0.1, 6)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), blur), 0, 1)


def _shoulders(background: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> None:
    """A piece of clothing behind the end of the neck."""
    low, high = points.min(0), points.max(0)
    width, neck = high[0] - low[0], np.array([points[:, 0].mean(), high[1]])
    half = width * rng.uniform(0.7, 1.3)
    outline = neck + np.array(
        [
            [-0.4 * width, -0.12 * width],
            [0.4 * width, -0.12 * width],
            [half, 0.3 * width],
            [half, 3 * width],
            [-half, 3 * width],
            [-half, 0.3 * width],
        ]
    )
    cv2.fillPoly(background, [np.round(outline).astype(np.int32)], rng.uniform(0, 1, 3).tolist(), cv2.LINE_AA)
