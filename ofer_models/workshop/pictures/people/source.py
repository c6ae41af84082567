"""Pictures of people for the landmark network: someone random, drawn into the crop that the network will see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ofer_models.files.arrays import read_npz
from ofer_models.head.landmark_sets import LANDMARKS68, N_MEDIAPIPE
from ofer_models.head.model import HeadModel
from ofer_models.workshop.pictures.occluders import add_occluders
from ofer_models.workshop.pictures.people.assets import Library
from ofer_models.workshop.pictures.people.body import Body, between_lids, eye_paint
from ofer_models.workshop.pictures.people.light import add_shoulders, photograph, random_background, random_lighting
from ofer_models.workshop.pictures.people.looks import Look, random_look
from ofer_models.workshop.pictures.people.raster import LINEAR, brightness, draw, shade
from ofer_models.workshop.pictures.people.view import SIZE, crop_camera, placed, project, random_turn
from ofer_models.workshop.pictures.population import Population
from ofer_models.workshop.pictures.raster import vertex_normals

SEEN_POINTS = Path(__file__).with_name("mediapipe_points.npz")  # see `workshop.head.people_points`
_SUPERSAMPLING = 2
_SHADOW = 192  # px of the shadow map's side
_SHADOW_SPAN = 0.36  # metres across it
_MOUTH_DARK = (-0.045, -0.005)  # metres behind the front of teeth or tongue: where light ends, and where it is whole
_HIDDEN_BEHIND = 0.008  # metres: what lies nearer before a point than this does not hide it (brows, lashes)


@dataclass(frozen=True)
class Picture:
    """image (SIZE, SIZE, 3) uint8 RGB; points (478, 2) px, where truly lies what MediaPipe means on people; visible
    (478,) bool:
    seen by the camera and covered by nothing; the head's coefficients: betas (S,), expression (E,), jaw (3,); camera
    (3, 3) and pose (3, 4) m from the head's frame to the camera's (x right, y down, z forward).
    """

    image: np.ndarray
    points: np.ndarray
    visible: np.ndarray
    betas: np.ndarray
    expression: np.ndarray
    jaw: np.ndarray
    camera: np.ndarray
    pose: np.ndarray


# Where a head stands: its landmarks (478, 3) and vertices (V, 3) in its own frame to a camera (3, 3) and a pose (3, 4).
View = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Scene:
    """Someone before anything covers the face: light (S, S, 3) linear; depth (2 S, 2 S) metres; points (V, 2) px of the
    head's vertices, and seen (V,) bool which of them the camera sees; far (478,) metres and place (478, 2) px of
    MediaPipe's points; camera (3, 3) and pose (3, 4) m from the head's frame to the camera's.
    """

    light: np.ndarray
    depth: np.ndarray
    points: np.ndarray
    seen: np.ndarray
    far: np.ndarray
    place: np.ndarray
    camera: np.ndarray
    pose: np.ndarray


class PeopleSource:
    """Draws pictures of one head model. Picture n of a seed is always the same, whoever draws it and in what order.

    size: px of a picture's side.
    """

    def __init__(
        self, head: HeadModel, library: Library, seed: int, occluded_share: float = 0.5, size: int = SIZE
    ) -> None:
        self.head, self.library, self.seed, self.occluded_share = head, library, seed, occluded_share
        self._size = size
        self._population = Population(head.expression_names, head.n_shape, head.jaw_open_angle)
        self._body = Body(head, library)
        self._textures = library.textures.copy()
        for number in library.textures_of("eyes"):
            self._textures[number] = eye_paint(library.textures[number])
        self._seen_triangle, self._seen_bary = points_on_people(head)
        self._brightness: dict[int, float] = {}
        rng = np.random.default_rng(0)
        fine = rng.normal(0, 1, (512, 512)).astype(np.float32)
        self._noise = (cv2.GaussianBlur(fine, (0, 0), 1.5) * 3 + cv2.GaussianBlur(fine, (0, 0), 6) * 8) / 2
        self._fabrics = library.textures[library.textures_of("fabric")]

    def picture(self, index: int) -> Picture:
        """Picture `index` and its truth."""
        rng = np.random.default_rng([self.seed, index])
        betas = self._population.betas(rng)
        expression, jaw = self._expression(rng)

        def view(_landmarks: np.ndarray, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            middle = self.head.shaped(betas)[self.head.masks["eyes"]].mean(0) - [0, 0.035, 0.02]
            return crop_camera(self.meant(vertices), middle, random_turn(rng), float(rng.uniform(0.3, 1.5)))

        scene = self.scene(betas, expression, jaw, random_look(self.library, rng), view, rng)
        image, cover = self._covered(scene.light, scene.place, rng)
        place, far = scene.place.copy(), scene.far.copy()
        points = placed(self.meant(self.head.decode(betas, expression, jaw)), scene.pose)
        far[:N_MEDIAPIPE], place[:N_MEDIAPIPE] = project(points, scene.camera)
        near = _nearest_depth(scene.depth, place)
        inside = ((place > -0.5) & (place < self._size - 0.5)).all(1)
        x, y = np.clip(np.round(place), 0, self._size - 1).astype(int).T
        visible = (near > far - _HIDDEN_BEHIND) & (cover[y, x] < 0.5) & inside
        visible[N_MEDIAPIPE:] &= between_lids(place)
        return Picture(photograph(image, rng), place, visible, betas, expression, jaw, scene.camera, scene.pose)

    def scene(
        self, betas: np.ndarray, expression: np.ndarray, jaw: np.ndarray, look: Look, view: View,
        rng: np.random.Generator,
    ) -> Scene:  # fmt: skip
        """Someone with that look making a face, in random light before something random."""
        head = self.head
        neutral, vertices = head.shaped(betas), head.decode(betas, expression, jaw)
        parts = [(vertices, head.faces, self._body.uv)]
        for worn in look.worn:
            mesh = self.library.meshes[worn.mesh]
            parts.append((self._body.worn(worn.mesh, neutral, vertices, jaw, worn.height), mesh.faces, mesh.uv))
        irises = self._body.irises(neutral, vertices)
        landmarks = np.concatenate([head.landmarks(vertices, "mediapipe"), irises])
        camera, pose = view(landmarks, vertices)
        far, place = project(placed(landmarks, pose), camera)
        drawn = [placed(part[0], pose) for part in parts]
        light, depth, triangle = self._render(drawn, parts, look, camera, rng)
        own = triangle[(triangle >= 0) & (triangle < len(head.faces))]
        seen = np.zeros(head.n_vertices, bool)
        seen[head.faces[own]] = True
        return Scene(light, depth, project(drawn[0], camera)[1], seen, far, place, camera, pose)

    def meant(self, vertices: np.ndarray) -> np.ndarray:
        """(468, 3): the places on a head's vertices (V, 3) that MediaPipe means by its points on people."""
        return np.einsum("kc,kcx->kx", self._seen_bary, vertices[self.head.faces[self._seen_triangle]])

    def _expression(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """As people make them; one in five a strong mixture of anything, and more closed eyes and winks."""
        expression, jaw = self._population.expression(rng)
        names = self.head.expression_names
        if rng.uniform() < 0.2:
            for unit in rng.choice(len(names), 5, replace=False):
                if names[unit] != "mouthClose":
                    expression[unit] = max(expression[unit], rng.uniform(0, 1))
        if rng.uniform() < 0.12:
            sides = ("Left", "Right") if rng.uniform() < 0.5 else (rng.choice(["Left", "Right"]),)
            for side in sides:
                expression[names.index(f"eyeBlink{side}")] = rng.uniform(0.3, 1)
        return expression, jaw

    def _render(
        self, drawn: list[np.ndarray], parts: list[tuple], look: Look, camera: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Linear light (S, S, 3), and of the supersampled picture the depth map and which triangle is where."""
        vertices = np.concatenate(drawn)
        starts = np.cumsum([0, *(len(part) for part in drawn)])
        faces = np.concatenate([part[1] + start for part, start in zip(parts, starts[:-1], strict=True)])
        faces = faces.astype(np.int32)
        uv = np.concatenate([part[2] for part in parts]).astype(np.float32)
        material = np.repeat(np.arange(1, len(parts) + 1), [len(part[1]) for part in parts]).astype(np.int32)
        material[: len(self._body.eye_faces)] = self._body.eye_faces  # 0 skin, 1 eye
        look_rows, colour = self._materials(look)
        cutoff = np.array([-1.0, -1.0, *(worn.cutoff for worn in look.worn)], np.float32)[material]
        texture = look_rows[material, 0].astype(np.int32)
        normals = vertex_normals(vertices, faces)
        openness = np.ones(len(vertices), np.float32)
        openness[: self.head.n_vertices] = self._body.openness
        for worn, start, end in zip(look.worn, starts[1:-1], starts[2:], strict=True):
            if worn.mesh.startswith(("teeth", "tongue")):
                # The light that comes between the lips does not reach far.
                depth = self.library.meshes[worn.mesh].vertices[:, 2]
                openness[start:end] = rng.uniform(0.25, 0.8) * np.interp(depth - depth.max(), _MOUTH_DARK, (0.1, 1))
        tint = np.ones((len(vertices), 3), np.float32)
        tint[: self.head.n_vertices] = self._tint(look)
        lighting, softness = random_lighting(rng)
        shadow, to_shadow = self._shadow(vertices, faces, uv, texture, cutoff, lighting.directions[0])
        side = self._size * _SUPERSAMPLING
        far, pixels = project(vertices, camera)
        background = random_background(self._size, self._fabrics, rng)
        add_shoulders(background, pixels[: self.head.n_vertices], self._fabrics, rng)
        screen = np.concatenate([(pixels + 0.5) * _SUPERSAMPLING - 0.5, far[:, None]], axis=1).astype(np.float32)
        triangle, bary, depth = draw(screen, faces, uv, texture, cutoff, self._textures, side, side)
        behind = cv2.resize(background, (side, side), interpolation=cv2.INTER_LINEAR)
        picture = shade(
            triangle, bary, faces, uv, vertices, normals, openness, tint, material, look_rows, colour, self._textures,
            LINEAR, self._noise, lighting.directions, lighting.colours, lighting.ambient, shadow, to_shadow, softness,
            behind,
        )  # fmt: skip
        return cv2.resize(picture, (self._size, self._size), interpolation=cv2.INTER_AREA), depth, triangle

    def _materials(self, look: Look) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `shade`'s look (M, 8) and colours (M, 3): skin, eye, then what is worn."""
        one, two, share = look.skins
        skin = [one, two, share, look.gloss, look.exponent, 0, 0.35, look.grain]
        rows = [skin, [look.eye, look.eye, 0, 0.5, 90, 0, 0.15, 0]]
        colours = [look.skin, look.eye_colour]
        for worn in look.worn:
            rows.append([worn.texture] * 2 + [0, worn.gloss, worn.exponent, worn.recolour, worn.wrap, 0])
            if worn.texture not in self._brightness:
                self._brightness[worn.texture] = brightness(self._textures[worn.texture])
            colours.append(worn.colour / self._brightness[worn.texture] if worn.recolour else worn.colour)
        return np.array(rows, np.float32), np.array(colours, np.float32)

    def _tint(self, look: Look) -> np.ndarray:
        """(V, 3) factors on the skin's albedo: lipstick, eye shadow, blush, stubble, scalp, dark inside the mouth."""
        tint = np.ones((self.head.n_vertices, 3), np.float32)
        areas, skin = self._body.areas, 0.35 * look.skin  # about what the textures show

        def lay(weight: np.ndarray, colour: np.ndarray) -> None:
            nonlocal tint
            tint = tint * (1 - weight[:, None] + weight[:, None] * np.clip(colour / skin, 0.02, 2.5))

        lay(areas["lips"] * look.lipstick[0] * 0.8, look.lipstick[1])
        lay(areas["lids"] * look.eye_shadow[0], look.eye_shadow[1])
        lay(areas["cheeks"] * look.blush, skin * [1.05, 0.7, 0.7])
        lay(areas["beard"] * look.stubble * 0.6, look.hair_colour * 0.5 + 0.35 * skin)
        lay(areas["scalp"] * look.scalp * 0.7, look.hair_colour)
        tint[self._body.inner_mouth] = [0.35, 0.15, 0.15]
        return tint.astype(np.float32)

    def _shadow(
        self, vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, texture: np.ndarray, cutoff: np.ndarray,
        towards: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Depths (S, S) metres seen from the light at `towards`, and the map (3, 4) from the camera's frame to it."""
        right = np.cross([0.0, 1.0, 0.0], towards)
        right /= np.linalg.norm(right) + 1e-9
        axes = np.stack([right, np.cross(-towards, right), -towards])
        scale = _SHADOW / _SHADOW_SPAN
        rows = axes * [[scale], [scale], [1.0]]
        centre = rows @ vertices[: self.head.n_vertices].mean(0)
        shift = np.array([_SHADOW / 2, _SHADOW / 2, 0]) - centre * [1, 1, 0]
        seen = (vertices @ rows.T + shift).astype(np.float32)
        depth = draw(seen, faces, uv, texture, np.maximum(cutoff, 0.0), self._textures, _SHADOW, _SHADOW)[2]
        return depth, np.concatenate([rows, shift[:, None]], axis=1).astype(np.float32)

    def _covered(self, light: np.ndarray, place: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Things in front of the face: the picture (SIZE, SIZE, 3) and the covered part (SIZE, SIZE) 0..1."""
        if rng.uniform() >= self.occluded_share:
            return light, np.zeros(light.shape[:2], np.float32)
        return covered(light, lambda shown: add_occluders(shown, place[list(LANDMARKS68)], rng, 1.0, hats=True))


def covered(
    light: np.ndarray, add: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Linear light (S, S, 3) with occluders, which know pictures as screens show them, and the covered part (S, S)."""
    middle = slice(len(light) // 4, 3 * len(light) // 4)
    level = float(np.clip(light[middle, middle].mean() * 2, 0.05, 2))
    image, cover = add(np.clip(light / level, 0, 4) ** 0.5)
    return np.where(cover[..., None] > 0, image**2 * level, light).astype(np.float32), cover


def points_on_people(head: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (468,) and barycentric coordinates (468, 3) of where MediaPipe means its points on people; the head's
    own embedding where its mesh is not the open head's."""
    embedding = head.embeddings["mediapipe"]
    known = read_npz(SEEN_POINTS) if SEEN_POINTS.is_file() else {}
    if known.get("triangle", np.array([len(head.faces)])).max() >= len(head.faces):
        return embedding.triangle, embedding.bary
    return known["triangle"], known["bary"]


def _nearest_depth(depth: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The farthest of the depths (H, W) in the 3 x 3 samples round each point (P, 2) px: is there a way past?"""
    around = cv2.dilate(np.minimum(depth, 10.0), np.ones((3, 3)))
    x, y = np.clip(np.round((place + 0.5) * _SUPERSAMPLING - 0.5), 0, len(depth) - 1).astype(int).T
    return around[y, x]
