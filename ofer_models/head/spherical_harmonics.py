"""Light from all around as nine spherical harmonics a colour, with the constants of Deep3D and of what followed it.

Idea: Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment maps" (2001). The constants and
signs are those of Deng et al., "Accurate 3D face reconstruction with weakly-supervised learning" (2019); its x points
to the person's left, y up, z out of the face.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import TypeVar

import numpy as np

Values = TypeVar("Values")  # a numpy array or a torch tensor

TERMS = 9
AMBIENT = 0.8  # added to the first coefficient: a regressor's zeros are an evenly lit face
_A0, _A1, _A2 = pi, 2 * pi / sqrt(3), 2 * pi / sqrt(8)
_C0, _C1, _C2 = 1 / sqrt(4 * pi), sqrt(3) / sqrt(4 * pi), 3 * sqrt(5) / sqrt(12 * pi)


def harmonics(x: Values, y: Values, z: Values) -> list[Values]:
    """The nine terms of unit normals, each of the shape of x; arithmetic alone, so that arrays of any library do."""
    first, second = _A1 * _C1, _A2 * _C2
    return [
        x * 0 + _A0 * _C0, -first * y, first * z, -first * x, second * x * y, -second * y * z,
        second * 0.5 / sqrt(3) * (3 * z * z - 1), -second * x * z, second * 0.5 * (x * x - y * y),
    ]  # fmt: skip


def irradiance(normals: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Light (..., V, 3) on unit normals (..., V, 3) of coefficients (..., 27), red's nine, green's, blue's; albedo
    times this is the colour."""
    terms = np.stack(harmonics(*np.moveaxis(normals, -1, 0)), axis=-1)
    gains = np.array(light).reshape(*light.shape[:-1], 3, TERMS)
    gains[..., 0] += AMBIENT
    return terms @ np.swapaxes(gains, -1, -2)
