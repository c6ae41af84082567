"""The colours of a head's skin without light: a mean and directions, at vertices or in a texture.

The arrays are named as FLAME's texture space has them. `albedo.npz` holds `mean` and `tex_dir`, and for a texture where
it lies on the head: `vt` and `ft`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ofer_models.files.arrays import read_npz
from ofer_models.files.refusal import FileRefused, one_line
from ofer_models.head.model import HeadModel, HeadModelError

_NAMES, _PLACES = ("mean", "tex_dir"), ("vt", "ft")
_LARGEST = 1 << 30  # bytes of all arrays
_BYTE = 255.0


class Albedo:
    """mean (V, 3) and directions (V, 3, K) RGB in 0..1 at the vertices; or mean (T, T, 3) and directions (T, T, 3, K)
    of a texture, with vt (P, 2) in 0..1, v up, and ft (F, 3), which of them the corners of the head's triangles have.
    """

    def __init__(self, arrays: dict[str, np.ndarray], head: HeadModel) -> None:
        """Take arrays by their names; raises HeadModelError that says which does not fit the head."""
        if missing := [name for name in _NAMES if name not in arrays]:
            raise HeadModelError(f"albedo lacks {', '.join(missing)}")
        for name, array in arrays.items():
            if array.dtype.kind not in ("iu" if name == "ft" else "biuf") or not np.isfinite(array).all():
                raise HeadModelError(f"albedo: {name} holds {array.dtype}, or numbers that are not finite")
        mean, directions = (_unit(arrays[name]) for name in _NAMES)
        shape = (*mean.shape[:-1], 3)
        self.at_vertices = not any(name in arrays for name in _PLACES)
        fits = mean.shape == (head.n_vertices, 3) if self.at_vertices else mean.ndim == 3 and mean.size > 0
        if not fits or mean.shape != shape or directions.shape[:-1] != shape or directions.ndim != mean.ndim + 1:
            raise HeadModelError(
                f"albedo: mean {mean.shape} and tex_dir {directions.shape} do not fit each other or the head"
            )
        self.mean, self.directions = mean, directions
        if not self.at_vertices:
            self.vt, self.ft = self._places(arrays, len(head.faces))

    @classmethod
    def load(cls, path: Path, head: HeadModel) -> Albedo:
        """Read `albedo.npz`. Raises HeadModelError with one line."""
        try:
            return cls(read_npz(path, (*_NAMES, *_PLACES).__contains__, _LARGEST), head)
        except OSError as error:
            raise HeadModelError(f"{path} cannot be read ({one_line(error)})") from None
        except (FileRefused, HeadModelError) as error:
            raise HeadModelError(f"{path.parent}: {error}; restore or rebuild it") from None

    @property
    def n_coefficients(self) -> int:
        return self.directions.shape[-1]

    def colours(self, coefficients: np.ndarray) -> np.ndarray:
        """Albedo (V, 3) or (T, T, 3) float32 RGB of coefficients (<= K,); may leave 0..1."""
        count = len(coefficients)
        if count > self.n_coefficients:
            raise HeadModelError(f"{count} albedo coefficients given, there are {self.n_coefficients}")
        return self.mean + self.directions[..., :count] @ np.asarray(coefficients, np.float32)

    def on_vertices(self, head: HeadModel) -> Albedo:
        """The same at the head's vertices: of a texture the texel that a vertex lies in, where seams cut it one of
        several."""
        if self.at_vertices:
            return self
        place = np.zeros((head.n_vertices, 2), np.float32)
        place[head.faces.ravel()] = self.vt[self.ft.ravel()]
        size = np.array(self.mean.shape[1::-1])
        x, y = np.clip(np.floor(place * [1, -1] % 1 * size).astype(int), 0, size - 1).T
        return Albedo({"mean": self.mean[y, x], "tex_dir": self.directions[y, x]}, head)

    @staticmethod
    def _places(arrays: dict[str, np.ndarray], n_faces: int) -> tuple[np.ndarray, np.ndarray]:
        vt, ft = (arrays.get(name, np.zeros(0)) for name in _PLACES)
        if vt.ndim != 2 or vt.shape[1] != 2 or ft.shape != (n_faces, 3) or not 0 <= ft.min() <= ft.max() < len(vt):
            raise HeadModelError(
                f"albedo: vt {vt.shape} and ft {ft.shape} do not place a texture on {n_faces} triangles"
            )
        if vt.min() < 0 or vt.max() > 1:
            raise HeadModelError("albedo: vt leaves 0..1")
        return vt.astype(np.float32), ft.astype(np.int32)


def _unit(values: np.ndarray) -> np.ndarray:
    """Bytes as 0..1, anything else as it is."""
    return values.astype(np.float32) / (_BYTE if values.dtype.kind == "u" else 1)
