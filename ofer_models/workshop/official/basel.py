"""The Basel Face Model as Deep3D and CFR-GAN use it, `BFM_model_front.mat` or `BFM_model_80.mat`, as a head without
joints and its albedo.

Facts of the files: N vertices in decimetres (35,709 of the face, or 53,215 with ears and neck), x to the person's left,
y up, z out; rows of three numbers a vertex; triangles, landmarks from one in Microsoft's file and from zero in CFR's,
colours 0..255 in the one and 0..1 in the other. Both subtract the mean shape's centre.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ofer_models.files.refusal import FileRefused
from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.workshop.official.mat_file import read_mat

METRES = 0.1  # of the file's unit
_FIELDS = ("meanshape", "idBase", "exBase", "meantex", "texBase", "tri", "keypoints")
_SKIN = "skinmask"
_NOW7 = (36, 39, 42, 45, 33, 48, 54)  # the NoW challenge's points among the 68
_BRIGHTEST = 2.0  # a mean colour above this is not in 0..1


class BaselError(ValueError):
    """A file of the Basel Face Model lacks something, is damaged, or another file; the message says which."""


def read_basel(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arrays of `head.npz` and of `albedo.npz` from a `.mat` file. Raises BaselError with one line."""
    path = Path(path)
    try:
        fields = read_mat(path, (*_FIELDS, _SKIN))
    except FileRefused as error:
        raise BaselError(str(error)) from None
    except OSError as error:
        raise BaselError(f"{path} cannot be read ({error.strerror})") from None
    if missing := [name for name in _FIELDS if name not in fields]:
        raise BaselError(
            f"{path.name} is no face model of CFR or Deep3D: it lacks {', '.join(missing)}; give BFM_model_80.mat or "
            "BFM_model_front.mat"
        )
    n = fields["meanshape"].size // 3
    for name, columns in (("meanshape", 1), ("meantex", 1), ("idBase", None), ("exBase", None), ("texBase", None)):
        array = fields[name]
        fits = array.size == 3 * n if columns else array.ndim == 2 and array.shape[0] == 3 * n and array.size
        if not n or not fits:
            raise BaselError(f"{path.name}: {name} has the shape {array.shape}, which does not fit {n} vertices")
        if not np.isfinite(array).all():
            raise BaselError(f"{path.name}: {name} holds numbers that are not finite; download it again")
    faces = _places(fields["tri"], path)
    first = int(faces.min())
    faces, marks = faces - first, _places(fields["keypoints"], path).ravel() - first
    if faces.ndim != 2 or faces.shape[1] != 3 or first not in (0, 1) or faces.max() >= n:
        raise BaselError(f"{path.name}: tri has the shape {faces.shape} or names vertices that are not there")
    if marks.shape != (68,) or not 0 <= marks.min() <= marks.max() < n:
        raise BaselError(f"{path.name}: keypoints should be 68 vertices")
    if not np.isin(marks, faces).all():
        raise BaselError(f"{path.name}: keypoints name vertices that no triangle has")
    return _head(fields, faces, marks, n), _albedo(fields, n)


def five_points(head_arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Eyes, nose and mouth corners (5, 2) of the mean face, x and y in metres: what CFR's crops are aligned by."""
    corners = head_arrays["faces"][head_arrays["landmarks68_triangle"]]
    points = np.einsum("lc,lcx->lx", head_arrays["landmarks68_bary"], head_arrays["v_template"][corners])[:, :2]
    eyes = [points[[36, 39]].mean(0), points[[42, 45]].mean(0)]
    return np.array([*eyes, points[30], points[48], points[54]])


def _head(fields: dict[str, np.ndarray], faces: np.ndarray, marks: np.ndarray, n: int) -> dict[str, np.ndarray]:
    mean = fields["meanshape"].reshape(n, 3).astype(np.float64)
    bases = [fields[name].astype(np.float32).reshape(n, 3, -1) for name in ("idBase", "exBase")]
    triangle, bary = _embedding(faces, marks)
    names = [f"expression_{i:03d}" for i in range(bases[1].shape[2])]
    skin = fields.get(_SKIN, np.ones(n)).ravel()
    return {
        "v_template": (METRES * (mean - mean.mean(0))).astype(np.float32),
        "shapedirs": np.float32(METRES) * np.concatenate(bases, axis=2),
        "faces": faces.astype(np.int32), "expression_names": np.array(names),
        "landmarks68_triangle": triangle, "landmarks68_bary": bary, "landmarks68_points": np.array(LANDMARKS68),
        "now7_triangle": triangle[list(_NOW7)], "now7_bary": bary[list(_NOW7)],
        "mask_face": np.arange(n), "mask_skin": np.flatnonzero(skin) if len(skin) == n else np.arange(n),
    }  # fmt: skip


def _albedo(fields: dict[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    mean = fields["meantex"].reshape(n, 3).astype(np.float32)
    scale = np.float32(1 / 255 if mean.max() > _BRIGHTEST else 1)
    return {"mean": scale * mean, "tex_dir": scale * fields["texBase"].astype(np.float32).reshape(n, 3, -1)}


def _embedding(faces: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks that are vertices as points of triangles: the first triangle with the vertex, and its corner."""
    used, first = np.unique(faces.ravel(), return_index=True)
    triangle, corner = np.divmod(first[np.searchsorted(used, marks)], 3)
    return triangle.astype(np.int64), np.eye(3, dtype=np.float32)[corner]


def _places(values: np.ndarray, path: Path) -> np.ndarray:
    """Whole numbers, which MATLAB keeps as doubles at times."""
    whole = values.astype(np.int64)
    if not values.size or not np.array_equal(whole, values):
        raise BaselError(f"{path.name}: tri and keypoints should be whole numbers")
    return whole
