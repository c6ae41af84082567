"""FLAME's licensed files as the arrays of a `head.npz`: the model's pickle, landmark embeddings, the frontal
region and the masks.

Everything is read without running code from the files (`safe_pickle`), checked, and cut to what OFER uses: the 300
identity and the first 50 expression directions. FLAME's layout is the head model's own, so nothing is converted but
types. Fields: Li et al. 2017 and the files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ofer_models.files.arrays import read_npz
from ofer_models.files.refusal import FileRefused
from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.workshop.official.pickle_machine import UnsafePickleError
from ofer_models.workshop.official.pickle_numbers import numbers
from ofer_models.workshop.official.safe_pickle import read_object_npy, read_pickle

N_JOINTS = 5
FRONTAL_SHA256 = "a99bf4b28f18046c4f1810c7aa5685acbe6ade9a2e33ed287f13f4e294a76ff5"  # of the released int64 values
NOW7_OF_INNER = (19, 22, 25, 28, 16, 31, 37)  # the NoW challenge's points among the 51 inside the face contour
_FIELDS = ("f", "v_template", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights")
_UNIONS = {
    "eyes": ("left_eyeball", "right_eyeball"),
    "left_eye": ("left_eyeball",),
    "right_eye": ("right_eyeball",),
    "ears": ("left_ear", "right_ear"),
    "neck": ("neck", "boundary"),
    "mouth": ("lips",),
    "face": ("face",),
    "lips": ("lips",),
}


class FlameError(ValueError):
    """A FLAME file is missing something, is damaged, or is another file than it should be; the message says which."""


@dataclass(frozen=True)
class HeadSizes:
    """What OFER expects of FLAME: S identity directions, E expression directions, all directions in the file,
    frontal vertices.
    """

    n_shape: int = 300
    n_expression: int = 50
    n_directions: int = 400
    n_frontal: int = 1785


def read_model(path: str | Path, sizes: HeadSizes = HeadSizes()) -> dict[str, np.ndarray]:
    """Arrays of a head model by their `head.npz` names, float32, from FLAME's pickle. Raises FlameError with one
    line.
    """
    path = Path(path)
    fields = _read(read_pickle, path)
    missing = [name for name in _FIELDS if not isinstance(fields, dict) or name not in fields]
    if missing:
        raise FlameError(f"{path.name} is not a FLAME model: it lacks {', '.join(missing)}; give generic_model.pkl")
    try:
        arrays = {name: numbers(fields[name], name) for name in _FIELDS}
    except UnsafePickleError as error:
        raise FlameError(f"{path.name} is not a usable FLAME model: {error}") from None
    vertices, triangles = (arrays[name].shape[0] if arrays[name].ndim else 0 for name in ("v_template", "f"))
    expected = {
        "v_template": (vertices, 3),
        "shapedirs": (vertices, 3, sizes.n_directions),
        "posedirs": (vertices, 3, 9 * (N_JOINTS - 1)),
        "J_regressor": (N_JOINTS, vertices),
        "kintree_table": (2, N_JOINTS),
        "weights": (vertices, N_JOINTS),
        "f": (triangles, 3),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise FlameError(f"{path.name}: {name} has the shape {arrays[name].shape}, FLAME's is {shape}")
        if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
            raise FlameError(f"{path.name}: {name} holds numbers that are not finite; download it again")
    faces = arrays["f"].astype(np.int64)
    if not (len(faces) and 0 <= faces.min() <= faces.max() < vertices):
        raise FlameError(f"{path.name}: triangles name vertices outside 0..{vertices - 1}; download it again")
    used = sizes.n_shape + sizes.n_expression
    kinematics = arrays["kintree_table"].astype(np.int64)
    kinematics[0, 0] = -1  # the root's parent, 2**32 - 1 in the file
    names = [f"expression_{i:03d}" for i in range(sizes.n_expression)]
    return {
        "v_template": arrays["v_template"].astype(np.float32),
        "shapedirs": np.ascontiguousarray(arrays["shapedirs"][..., :used], np.float32),
        "posedirs": np.ascontiguousarray(arrays["posedirs"].reshape(3 * vertices, -1).T, np.float32),
        "J_regressor": arrays["J_regressor"].astype(np.float32),
        "kintree_table": kinematics,
        "lbs_weights": arrays["weights"].astype(np.float32),
        "faces": faces.astype(np.int32),
        "expression_names": np.array(names),
    }


def read_landmarks(path: str | Path, n_faces: int) -> dict[str, np.ndarray]:
    """The 68-point and NoW embeddings by their `head.npz` names, from FLAME's or MICA's `landmark_embedding.npy`.

    MediaPipe's points that lie at the same places go with them (`landmarks68_points`). Raises FlameError with one line.
    """
    path = Path(path)
    table = _read(read_object_npy, path)
    wanted = ("full_lmk_faces_idx", "full_lmk_bary_coords")
    if not isinstance(table, dict) or any(name not in table for name in wanted):
        raise FlameError(f"{path.name} holds no full_lmk_* tables; give the landmark_embedding.npy of OFER or MICA")
    triangle, bary = (_field(table, name, path) for name in wanted)
    if triangle.size != 68 or bary.size != 68 * 3:
        raise FlameError(f"{path.name} has {triangle.size} landmarks, should have 68")
    triangle, bary = triangle.reshape(68), bary.reshape(68, 3)
    _check_embedding(path, triangle, bary, n_faces)
    inner = 17 + np.array(NOW7_OF_INNER)
    return {
        "landmarks68_triangle": triangle.astype(np.int64),
        "landmarks68_bary": bary.astype(np.float32),
        "landmarks68_points": np.array(LANDMARKS68),
        "now7_triangle": triangle[inner].astype(np.int64),
        "now7_bary": bary[inner].astype(np.float32),
    }


def read_mediapipe(path: str | Path, n_faces: int) -> dict[str, np.ndarray]:
    """The embedding of some of MediaPipe's points, from the FLAME site's `mediapipe_landmark_embedding.npz`."""
    path = Path(path)
    table = _read(read_npz, path)
    triangle, bary, points = (
        _field(table, name, path) for name in ("lmk_face_idx", "lmk_b_coords", "landmark_indices")
    )
    if triangle.ndim != 1 or not len(triangle) or bary.shape != (len(triangle), 3) or points.shape != triangle.shape:
        raise FlameError(f"{path.name}: triangles, weights and indices of the landmarks are of different number")
    if not 0 <= points.min() <= points.max() < 468:
        raise FlameError(f"{path.name}: landmark_indices are not MediaPipe's 0..467")
    _check_embedding(path, triangle, bary, n_faces)
    return {
        "mediapipe_triangle": triangle.astype(np.int64),
        "mediapipe_bary": bary.astype(np.float32),
        "mediapipe_points": points.astype(np.int64),
    }


def read_frontal(path: str | Path, n_vertices: int, sizes: HeadSizes = HeadSizes()) -> tuple[np.ndarray, bool]:
    """The frontal vertices (N,) int64 that IdRank looks at, from the release's `frontindices.npy`, and whether
    it is that very file.

    Raises FlameError when they are not increasing vertex indices, or not as many as IdRank was built for.
    """
    path = Path(path)
    indices = _read(read_object_npy, path)
    if not isinstance(indices, np.ndarray) or indices.shape != (sizes.n_frontal,) or indices.dtype.kind not in "iu":
        found = f"{indices.dtype} {indices.shape}" if isinstance(indices, np.ndarray) else type(indices).__name__
        raise FlameError(
            f"{path.name} is {found}, should be {sizes.n_frontal} vertex indices (OFER's frontindices.npy)"
        )
    indices = indices.astype(np.int64)
    if (np.diff(indices) <= 0).any() or indices[0] < 0 or indices[-1] >= n_vertices:
        raise FlameError(f"{path.name} should hold increasing vertex indices below {n_vertices}")
    return indices, hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest() == FRONTAL_SHA256


def read_masks(path: str | Path, n_vertices: int) -> dict[str, np.ndarray]:
    """Vertex masks by their `head.npz` names, from FLAME's `FLAME_masks.pkl`. Raises FlameError with one line."""
    path = Path(path)
    table = _read(read_pickle, path)
    wanted = {region for regions in _UNIONS.values() for region in regions}
    if not isinstance(table, dict) or not wanted <= table.keys():
        raise FlameError(f"{path.name} is not FLAME_masks.pkl: it lacks some of {', '.join(sorted(wanted))}")
    regions = {name: _field(table, name, path) for name in sorted(wanted)}
    for name, region in regions.items():
        if region.dtype.kind not in "iu" or (region.size and not 0 <= region.min() <= region.max() < n_vertices):
            raise FlameError(f"{path.name}: {name} is not a list of vertices below {n_vertices}")
    return {
        f"mask_{name}": np.unique(np.concatenate([regions[part].ravel() for part in parts])).astype(np.int64)
        for name, parts in _UNIONS.items()
    }


def _read(reader: Any, path: Path) -> Any:
    """Run a reader; what it refuses becomes a FlameError, a web page saved under the file's name is recognised."""
    if not path.is_file():
        raise FlameError(f"{path} does not exist")
    with path.open("rb") as file:
        if file.read(256).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
            raise FlameError(
                f"{path.name} is a web page, not the file: sign in on the FLAME site and download it again"
            )
    try:
        return reader(path)
    except UnsafePickleError as error:
        raise FlameError(str(error)) from None
    except FileRefused as error:
        raise FlameError(f"{error}; download it again") from None


def _field(table: dict[str, Any], name: str, path: Path) -> np.ndarray:
    try:
        return numbers(table[name], name)
    except KeyError:
        raise FlameError(f"{path.name} lacks {name}; download it again") from None
    except UnsafePickleError as error:
        raise FlameError(f"{path.name}: {error}") from None


def _check_embedding(path: Path, triangle: np.ndarray, bary: np.ndarray, n_faces: int) -> None:
    if triangle.dtype.kind not in "iu" or not 0 <= triangle.min() <= triangle.max() < n_faces:
        raise FlameError(
            f"{path.name}: landmarks lie on triangles outside 0..{n_faces - 1}; it is for another topology"
        )
    if not np.allclose(bary.sum(-1), 1, atol=1e-3):
        raise FlameError(f"{path.name}: barycentric weights do not sum to one; download it again")
