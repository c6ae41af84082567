"""Names and units of a head's coefficients, in the words that messages and files repeat."""

from __future__ import annotations

UNITS = "metres; angles in radians"
HEAD_AXES = "x to the person's left, y up, z out of the face"
JAW_CONVENTION = "axis-angle rotation of the jaw joint, rad; positive x opens the mouth"
JAW_NAMES = ("jaw_x", "jaw_y", "jaw_z")


def shape_names(n_shape: int) -> list[str]:
    """Names of the identity coefficients, in order: principal components have no others."""
    return [f"shape_{i}" for i in range(n_shape)]
