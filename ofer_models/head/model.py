"""A blend-shape head with linear blend skinning, in the array layout of FLAME.

Head frame: x to the person's left, y up, z out of the face, metres. Joints in FLAME's order: 0 the root (base of the
neck), 1 neck, 2 jaw, 3 left eye, 4 right eye. Rotations are axis-angle vectors in radians; a jaw of positive x opens
the mouth.

Formulas: Li et al., "Learning a model of facial shape and expression from 4D scans" (FLAME, 2017), after SMPL (2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofer_models.files.arrays import read_open_npz
from ofer_models.files.hashing import sha256_of_open
from ofer_models.files.refusal import FileRefused, one_line

NECK, JAW, LEFT_EYE, RIGHT_EYE = 1, 2, 3, 4

# The arrays every head has, and their numbers of dimensions.
_REQUIRED = {
    "v_template": 2,
    "shapedirs": 3,
    "posedirs": 2,
    "J_regressor": 2,
    "kintree_table": 2,
    "lbs_weights": 2,
    "faces": 2,
    "expression_names": 1,
}
# What a head without joints leaves out, all of it.
_OF_JOINTS = ("posedirs", "J_regressor", "kintree_table", "lbs_weights")
_N_JOINTS = 5
_ONE = np.eye(3)
_OPTIONAL = ("jaw_open_angle", "landmark_spread_mm")
_OF_MASKS, _OF_LANDMARKS = "mask_", ("_triangle", "_bary", "_points")
_LARGEST = 1 << 30  # bytes of all arrays


class HeadModelError(ValueError):
    """A head file is missing, damaged or not in FLAME layout."""


@dataclass(frozen=True)
class LandmarkEmbedding:
    """Landmarks fixed to the surface: point l = sum over c of bary[l, c] * vertices[faces[triangle[l], c]].

    points (L,): which of MediaPipe's points lie at the same places; None where that is unknown or they are all of them.
    """

    triangle: np.ndarray  # (L,) int64, index into the head's faces
    bary: np.ndarray  # (L, 3) float32, rows sum to 1
    points: np.ndarray | None = None


@dataclass(frozen=True)
class Identity:
    """What a track keeps of its head shape: betas (S,), neutral vertices (V, 3) and joints (J, 3) in metres."""

    betas: np.ndarray
    vertices: np.ndarray
    joints: np.ndarray


def rotation_matrices(axis_angle: np.ndarray) -> np.ndarray:
    """Rodrigues' formula: axis-angle (..., 3) in radians to rotation matrices (..., 3, 3)."""
    angle = np.sqrt(np.einsum("...i,...i->...", axis_angle, axis_angle))[..., None, None]
    cross = np.zeros((*axis_angle.shape, 3), axis_angle.dtype)
    for row, column, axis in ((2, 1, 0), (0, 2, 1), (1, 0, 2)):
        cross[..., row, column] = axis_angle[..., axis]
        cross[..., column, row] = -axis_angle[..., axis]
    # sin(a)/a and (1-cos(a))/a^2 through np.sinc stay exact at a = 0, where dividing by the angle would not.
    first = np.sinc(angle / np.pi)
    second = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    return (_ONE + first * cross + second * (cross @ cross)).astype(axis_angle.dtype)


class HeadModel:
    """An immutable head: arrays in FLAME layout and the functions that turn coefficients into vertices.

    Shapes: v_template (V, 3), shapedirs (V, 3, S + E), posedirs (9 (J - 1), 3 V), joint_regressor (J, V), parents (J,),
    lbs_weights (V, J), faces (F, 3). S = n_shape identity and E = n_expression expression coefficients.
    """

    def __init__(self, arrays: dict[str, np.ndarray], sha256: str = "") -> None:
        """Take arrays by their `head.npz` names; raises HeadModelError that names what is missing or mis-shaped.

        A head without joints has none of `posedirs`, `J_regressor`, `kintree_table`, `lbs_weights`: its root carries
        everything, and jaw, neck and eyes move nothing.
        """
        self.has_joints = any(name in arrays for name in _OF_JOINTS)
        if not self.has_joints:
            arrays = {**arrays, **_still_joints(len(np.atleast_1d(arrays.get("v_template", ()))))}
        missing = [name for name in _REQUIRED if name not in arrays]
        if missing:
            raise HeadModelError(
                f"head model lacks {', '.join(missing)}; rebuild it with `ofer build-head` or `ofer import`"
            )
        for name, dimensions in _REQUIRED.items():
            shape = np.shape(arrays[name])
            if len(shape) != dimensions or (0 in shape and name != "expression_names"):
                raise HeadModelError(
                    f"head model: {name} has shape {shape}, expected {dimensions} dimensions and none of them empty"
                )
        _check_numbers(arrays)
        self.sha256 = sha256
        self.v_template = np.ascontiguousarray(arrays["v_template"], np.float32)
        self.shapedirs = np.ascontiguousarray(arrays["shapedirs"], np.float32)
        self.posedirs = np.ascontiguousarray(arrays["posedirs"], np.float32)
        self.joint_regressor = np.ascontiguousarray(arrays["J_regressor"], np.float32)
        self.parents = np.asarray(arrays["kintree_table"])[0].astype(np.int64)
        self.parents[0] = -1  # FLAME stores the root's parent as 2**32 - 1
        self.lbs_weights = np.ascontiguousarray(arrays["lbs_weights"], np.float32)
        self.faces = np.ascontiguousarray(arrays["faces"], np.int32)
        self.expression_names = tuple(str(name) for name in arrays["expression_names"])
        self.n_expression = len(self.expression_names)
        self.n_shape = self.shapedirs.shape[2] - self.n_expression
        # The jaw pitch that equals ARKit's jawOpen = 1, where the head was built with one.
        self.jaw_open_angle = float(arrays["jaw_open_angle"]) if "jaw_open_angle" in arrays else None
        self._check_shapes()
        self._check_places(arrays)
        self.masks = {
            key.removeprefix("mask_"): np.asarray(value, np.int64)
            for key, value in arrays.items()
            if key.startswith("mask_")
        }
        self.embeddings = {
            key.removesuffix("_triangle"): LandmarkEmbedding(
                np.asarray(value, np.int64),
                np.asarray(arrays[key.removesuffix("_triangle") + "_bary"], np.float32),
                arrays.get(key.removesuffix("_triangle") + "_points"),
            )
            for key, value in arrays.items()
            if key.endswith("_triangle")
        }

    @classmethod
    def load(cls, path: str | Path) -> HeadModel:
        """Read `head.npz`. Raises HeadModelError when it is missing, truncated, lacks an array or has one too many."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                return cls(read_open_npz(file, _known, _LARGEST), sha256_of_open(file))
        except FileNotFoundError:
            raise HeadModelError(f"{path} does not exist; `ofer build-head` makes the open head") from None
        except OSError as error:
            raise HeadModelError(f"{path} cannot be read ({one_line(error)})") from None
        except FileRefused as error:
            raise HeadModelError(f"{path} {error}; restore or rebuild it") from None
        except HeadModelError as error:
            raise HeadModelError(f"{path}: {error}") from None

    @property
    def n_vertices(self) -> int:
        return len(self.v_template)

    def _check_shapes(self) -> None:
        vertices, joints = self.v_template.shape[0], len(self.parents)
        if self.n_shape < 0:
            raise HeadModelError(
                f"head model: {self.n_expression} expression_names for the {self.shapedirs.shape[2]} shapedirs"
            )
        expected = {
            "v_template": (self.v_template, (vertices, 3)),
            "shapedirs": (self.shapedirs, (vertices, 3, self.n_shape + self.n_expression)),
            "posedirs": (self.posedirs, (9 * (joints - 1), 3 * vertices)),
            "J_regressor": (self.joint_regressor, (joints, vertices)),
            "lbs_weights": (self.lbs_weights, (vertices, joints)),
        }
        for name, (array, shape) in expected.items():
            if array.shape != shape:
                raise HeadModelError(f"head model: {name} has shape {array.shape}, expected {shape}")
        if self.faces.shape[1] != 3 or self.faces.min() < 0 or self.faces.max() >= vertices:
            raise HeadModelError(f"head model: faces must be (F, 3) indices below {vertices}")
        if any(not 0 <= parent < joint for joint, parent in enumerate(self.parents[1:].tolist(), start=1)):
            raise HeadModelError("head model: kintree_table must list every joint after its parent")

    def _check_places(self, arrays: dict[str, np.ndarray]) -> None:
        """Masks must name vertices, and landmark embeddings triangles with three weights each."""
        limits = {"mask_": self.n_vertices, "_triangle": len(self.faces)}
        for name, array in arrays.items():
            limit = next((n for part, n in limits.items() if name.startswith(part) or name.endswith(part)), None)
            if limit is None:
                continue
            if np.ndim(array) != 1 or (np.size(array) and not 0 <= np.min(array) <= np.max(array) < limit):
                raise HeadModelError(f"head model: {name} must be a list of indices below {limit}")
            bary = name.removesuffix("_triangle") + "_bary"
            if name.endswith("_triangle") and np.shape(arrays.get(bary)) != (len(array), 3):
                raise HeadModelError(f"head model: {name} needs {bary} of shape ({len(array)}, 3)")
            points = name.removesuffix("_triangle") + "_points"
            if name.endswith("_triangle") and points in arrays and np.shape(arrays[points]) != (len(array),):
                raise HeadModelError(f"head model: {points} must name one of MediaPipe's points for each of {name}")

    def shaped(self, betas: np.ndarray, expression: np.ndarray | None = None) -> np.ndarray:
        """Vertices (..., V, 3) of betas (..., <= S) and expression (..., <= E) without any rotation; missing trailing
        coefficients are zero. Arithmetic in float32."""
        offsets = self._blend(np.asarray(betas, np.float32), 0, self.n_shape, "betas")
        if expression is not None:
            offsets = offsets + self._blend(
                np.asarray(expression, np.float32), self.n_shape, self.n_expression, "expression"
            )
        return self.v_template + offsets

    def _blend(self, coefficients: np.ndarray, start: int, limit: int, name: str) -> np.ndarray:
        count = coefficients.shape[-1]
        if count > limit:
            raise HeadModelError(f"{count} {name} given, this head has {limit}")
        basis = self.shapedirs[..., start : start + count].reshape(-1, count)
        return (coefficients @ basis.T).reshape(*coefficients.shape[:-1], self.n_vertices, 3)

    def decode(
        self,
        betas: np.ndarray,
        expression: np.ndarray | None = None,
        jaw: np.ndarray | None = None,
        neck: np.ndarray | None = None,
        rotation: np.ndarray | None = None,
        eyes: np.ndarray | None = None,
    ) -> np.ndarray:
        """Vertices (..., V, 3) in metres.

        betas (..., S), expression (..., E); jaw, neck, rotation (root) (..., 3) and eyes (..., 6: left, right)
        axis-angle in radians, each zero when not given. Leading dimensions broadcast.
        """
        parts = {0: rotation, NECK: neck, JAW: jaw}
        if eyes is not None:
            parts |= {LEFT_EYE: np.asarray(eyes)[..., :3], RIGHT_EYE: np.asarray(eyes)[..., 3:]}
        shaped = self.shaped(betas, expression)
        leading = np.broadcast_shapes(
            shaped.shape[:-2], *(np.shape(part)[:-1] for part in parts.values() if part is not None)
        )
        pose = np.zeros((*leading, len(self.parents), 3), np.float32)
        for joint, part in parts.items():
            if part is not None:
                pose[..., joint, :] = part
        return self.skin(np.broadcast_to(shaped, (*leading, self.n_vertices, 3)), pose)[0]

    def skin(self, shaped: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Linear blend skinning of shaped (..., V, 3) by pose (..., J, 3): vertices (..., V, 3), joints (..., J, 3)."""
        joints = self.joint_regressor @ shaped
        rotations = rotation_matrices(np.asarray(pose, np.float32))
        feature = (rotations[..., 1:, :, :] - np.eye(3, dtype=np.float32)).reshape(*pose.shape[:-2], -1)
        posed = shaped + (feature @ self.posedirs).reshape(shaped.shape)
        world_rotation, world_translation = [rotations[..., 0, :, :]], [joints[..., 0, :]]
        for joint in range(1, len(self.parents)):
            parent = self.parents[joint]
            bone = joints[..., joint, :] - joints[..., parent, :]
            world_translation.append(_rotate(world_rotation[parent], bone) + world_translation[parent])
            world_rotation.append(world_rotation[parent] @ rotations[..., joint, :, :])
        rotation, translation = np.stack(world_rotation, -3), np.stack(world_translation, -2)
        offset = translation - _rotate(rotation, joints)
        blended = np.einsum("vj,...jab->...vab", self.lbs_weights, rotation, optimize=True)
        return _rotate(blended, posed) + self.lbs_weights @ offset, translation

    def identity(self, betas: np.ndarray) -> Identity:
        """The neutral head of betas (S,), kept by a track so that expressions only add to it."""
        vertices = self.shaped(betas)
        return Identity(np.asarray(betas, np.float32), vertices, self.joint_regressor @ vertices)

    def landmarks(self, vertices: np.ndarray, name: str) -> np.ndarray:
        """Surface points (..., L, 3) of the embedding `name` on vertices (..., V, 3)."""
        embedding = self.embeddings[name]
        corners = vertices[..., self.faces[embedding.triangle], :]
        return np.einsum("lc,...lcx->...lx", embedding.bary, corners)


def _rotate(rotation: np.ndarray, points: np.ndarray) -> np.ndarray:
    return (rotation @ points[..., None])[..., 0]


def _still_joints(n_vertices: int) -> dict[str, np.ndarray]:
    """Joints in FLAME's order, all at the origin, of which the root carries every vertex."""
    weights = np.zeros((n_vertices, _N_JOINTS), np.float32)
    weights[:, 0] = 1
    return {
        "posedirs": np.zeros((9 * (_N_JOINTS - 1), 3 * n_vertices), np.float32),
        "J_regressor": np.zeros((_N_JOINTS, n_vertices), np.float32),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], range(_N_JOINTS)]), "lbs_weights": weights,
    }  # fmt: skip


def _known(name: str) -> bool:
    """Whether a head model may have an array of that name."""
    return name in _REQUIRED or name in _OPTIONAL or name.startswith(_OF_MASKS) or name.endswith(_OF_LANDMARKS)


def _check_numbers(arrays: dict[str, np.ndarray]) -> None:
    """Names must be text, places whole numbers, and everything else finite numbers."""
    for name, array in arrays.items():
        kind = np.asarray(array).dtype.kind
        wanted = "US" if name == "expression_names" else "iu" if _names_places(name) else "biuf"
        if kind not in wanted:
            raise HeadModelError(f"head model: {name} holds {np.asarray(array).dtype}, which it should not")
        if kind == "f" and not np.isfinite(array).all():
            raise HeadModelError(f"head model: {name} holds numbers that are not finite")
        if name in _OPTIONAL and np.ndim(array):
            raise HeadModelError(f"head model: {name} should be one number")


def _names_places(name: str) -> bool:
    return name.startswith(_OF_MASKS) or name.endswith(("_triangle", "_points")) or name in ("faces", "kintree_table")
