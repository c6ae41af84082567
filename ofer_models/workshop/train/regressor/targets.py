"""What a regressor should tell of a picture of people: all groups, also of a crop that was cut a little wrong."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ofer_models.bundle.regression import LIGHT, CropSpec, RegressorSpec
from ofer_models.head.albedo import Albedo
from ofer_models.head.decoders import LandmarkDecoder
from ofer_models.head.model import HeadModel
from ofer_models.perception.landmark_crop import CROP_TEMPLATE, INPUT, to_unit
from ofer_models.perception.regressor_crop import TO_CAMERA, crop_camera
from ofer_models.workshop.pictures.people.dataset import PeopleSet, PeopleTruth
from ofer_models.workshop.train.mirror import Mirror

_FACING = 0.3  # cosine from which a point of the mean head counts as turned to the camera
_PART = 1000  # heads decoded at a time


def open_regressor(head: HeadModel, albedo: Albedo | None = None) -> RegressorSpec:
    """The layout of the regressor that is trained here: the landmark network's crop, and all that renderings know;
    with an albedo also the groups albedo and light, which pixels alone teach."""
    groups = {"shape": head.n_shape, "expression": head.n_expression, "jaw": 3, "rotation": 3, "camera": 3,
              "occlusion": 1}  # fmt: skip
    if albedo is not None:
        groups |= {"albedo": albedo.n_coefficients, "light": LIGHT}
    half = np.full(3, 0.5, np.float32)
    return RegressorSpec(groups, CropSpec(INPUT, "five_points", half, half, CROP_TEMPLATE))


@dataclass(frozen=True)
class HeadTargets:
    """Of n pictures: coefficients (n, S + E + 3) with the jaw; turned (n, 3, 3), the head before a camera that looks at
    the middle of the picture, y up; root (n, 2) m of the root joint; camera (n, 3), scale and place (x, y) in the unit
    of the picture's inner crop, such that the root joint's place there is scale times (x, y).

    facing (n, 468) bool: points that are turned to the camera, of which those that are not seen are covered. margin: px
    of the picture around the inner crop.
    """

    coefficients: np.ndarray
    turned: np.ndarray
    root: np.ndarray
    camera: np.ndarray
    facing: np.ndarray
    margin: int

    @classmethod
    def of(cls, head: HeadModel, pictures: PeopleSet, truth: PeopleTruth) -> HeadTargets:
        """Work them out. The weak perspective is the one that fits all 468 points best."""
        count, size = len(pictures), pictures.images[0].shape[1]
        margin = (size - INPUT) // 2
        matrix = np.array([[1.0, 0, -margin], [0, 1, -margin]])
        decoder = LandmarkDecoder(head, head.embeddings["mediapipe"])
        normals = _normals(head)
        roots = head.joint_regressor[0]
        by_shape = np.einsum("v,vcs->sc", roots, head.shapedirs[..., : head.n_shape])
        root = roots @ head.v_template + truth.betas @ by_shape
        turned = np.stack([
            TO_CAMERA @ crop_camera(matrix, K, INPUT) @ pose[:, :3]
            for K, pose in zip(truth.camera.astype(np.float64), truth.pose, strict=True)
        ])  # fmt: skip
        camera = np.empty((count, 3))
        for start in range(0, count, _PART):
            rows = slice(start, min(start + _PART, count))
            identities = [head.identity(betas) for betas in truth.betas[rows]]
            landmarks = decoder.of_faces(identities, truth.expression[rows, None], truth.jaw[rows, None])[:, 0]
            away = np.einsum("nij,npj->npi", turned[rows], landmarks - root[rows, None])[..., :2]
            there = to_unit(pictures.points[rows, : away.shape[1]] - margin) * [1, -1]
            middle, seen = away.mean(1, keepdims=True), there.mean(1, keepdims=True)
            scale = ((away - middle) * (there - seen)).sum((1, 2)) / ((away - middle) ** 2).sum((1, 2))
            camera[rows, 0] = scale
            camera[rows, 1:] = seen[:, 0] / scale[:, None] - middle[:, 0]
        facing = turned[:, 2] @ normals.T > _FACING
        coefficients = np.concatenate([truth.betas, truth.expression, truth.jaw], axis=1).astype(np.float32)
        return cls(coefficients, turned, root[:, :2], camera, facing, margin)

    def __len__(self) -> int:
        return len(self.coefficients)

    def of_crops(
        self, indices: np.ndarray, visible: np.ndarray, matrices: np.ndarray | None = None,
        mirrored: np.ndarray | None = None, mirror: MirrorArrays | None = None,
    ) -> np.ndarray:  # fmt: skip
        """The regressor's truth (n, D) for pictures `indices` cut by matrices (n, 2, 3) and then mirrored (n,); the
        inner crop by default. visible (n, >= 468): of the points in the crop.
        """
        coefficients, facing = self.coefficients[indices].copy(), self.facing[indices].copy()
        turned, root, camera = self.turned[indices], self.root[indices].copy(), self.camera[indices].copy()
        if matrices is not None:
            turned, camera = _cut(turned, camera, matrices, self.margin)
        if mirrored is not None and mirrored.any():
            flip = np.array([-1.0, 1, 1])
            turned = np.where(mirrored[:, None, None], flip[:, None] * turned * flip, turned)
            sign = np.where(mirrored, -1.0, 1.0)
            root[:, 0] *= sign
            camera[:, 1] *= sign
            coefficients[mirrored] = mirror.coefficients(coefficients[mirrored])
            facing[mirrored] = facing[mirrored][:, mirror.points[: facing.shape[1]]]
        rotation = _vectors(turned)
        place = camera[:, 1:] - root
        seen = visible[:, : facing.shape[1]]
        covered = (facing & ~seen).sum(1) / np.maximum(facing.sum(1), 1)
        return np.concatenate(
            [coefficients, rotation, camera[:, :1], place, covered[:, None]], axis=1
        ).astype(np.float32)  # fmt: skip


@dataclass(frozen=True)
class MirrorArrays:
    """What a mirror does to a regressor's coefficients: shape (S, S), order and sign of the rest (E + 3,), and the
    order of the 478 points."""

    shape: np.ndarray
    order: np.ndarray
    sign: np.ndarray
    points: np.ndarray

    @classmethod
    def of(cls, head: HeadModel) -> MirrorArrays:
        mirror = Mirror.of(head)
        parts = (mirror.shape, mirror.coefficient_order, mirror.coefficient_sign, mirror.landmark_order)
        return cls(*(part.numpy() for part in parts))

    def coefficients(self, values: np.ndarray) -> np.ndarray:
        """Of betas, expression and jaw (n, S + E + 3)."""
        n = len(self.shape)
        return np.concatenate([values[:, :n] @ self.shape, values[:, n:][:, self.order] * self.sign], axis=1)


def _cut(
    turned: np.ndarray, camera: np.ndarray, matrices: np.ndarray, margin: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and cameras after the picture was moved, turned and scaled; the camera's direction stays."""
    scale = np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    cos, sin = matrices[:, 0, 0] / scale, -matrices[:, 1, 0] / scale  # y up: turned the other way
    roll = np.zeros((len(matrices), 3, 3))
    roll[:, 0, 0] = roll[:, 1, 1] = cos
    roll[:, 0, 1], roll[:, 1, 0], roll[:, 2, 2] = -sin, sin, 1
    middle = np.full(2, (INPUT - 1) / 2 + margin)  # of the inner crop, in the picture
    moved = to_unit(matrices[:, :, :2] @ middle + matrices[:, :, 2]) * [1, -1]
    new = np.empty_like(camera)
    new[:, 0] = camera[:, 0] * scale
    new[:, 1:] = np.einsum("nij,nj->ni", roll[:, :2, :2], camera[:, 1:]) + moved / new[:, :1]
    return roll @ turned, new


def _normals(head: HeadModel) -> np.ndarray:
    """(468, 3) of the mean head at MediaPipe's points."""
    a, b, c = np.moveaxis(head.v_template[head.faces[head.embeddings["mediapipe"].triangle]], 1, 0)
    normals = np.cross(b - a, c - a)
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _vectors(rotations: np.ndarray) -> np.ndarray:
    """Rotation vectors (n, 3) of matrices (n, 3, 3)."""
    return np.stack([cv2.Rodrigues(rotation)[0][:, 0] for rotation in rotations])
