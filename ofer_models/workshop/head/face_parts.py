"""Lips and lids: which of MediaPipe's points lie on each, and which triangles of the open head are theirs.

A closed mouth's lips touch, and a lid lies on the eyeball: the surface nearest to a point is often the wrong one. What
moves with a part tells it: the jaw carries the lower lip, a blink the upper lid.
"""

from __future__ import annotations

import numpy as np

from ofer_models.head.model import JAW, HeadModel

# Without the corners of mouth and eyes, which belong to both.
PART_POINTS = {
    "upper lip": (185, 40, 39, 37, 0, 267, 269, 270, 409, 184, 74, 73, 72, 11, 302, 303, 304, 408,
                  183, 42, 41, 38, 12, 268, 271, 272, 407, 191, 80, 81, 82, 13, 312, 311, 310, 415),
    "lower lip": (146, 91, 181, 84, 17, 314, 405, 321, 375, 77, 90, 180, 85, 16, 315, 404, 320, 307,
                  96, 89, 179, 86, 15, 316, 403, 319, 325, 95, 88, 178, 87, 14, 317, 402, 318, 324),
    "right upper lid": (246, 161, 160, 159, 158, 157, 173),
    "right lower lid": (7, 163, 144, 145, 153, 154, 155),
    "left upper lid": (466, 388, 387, 386, 385, 384, 398),
    "left lower lid": (249, 390, 373, 374, 380, 381, 382),
}  # fmt: skip
_LOWER_LIP = 0.36  # least part of the jaw's turn with which a triangle belongs to the lower lip: the corners have 0.3
_LID_FALL = 0.001  # m that a full blink lowers an upper lid at least


def part_triangles(head: HeadModel) -> dict[str, np.ndarray]:
    """Part of PART_POINTS -> which triangles (F,) bool may carry its points."""
    jaw = head.lbs_weights[:, JAW][head.faces].mean(1) >= _LOWER_LIP
    parts = {"upper lip": ~jaw, "lower lip": jaw}
    for side in ("Right", "Left"):
        blink = head.shapedirs[:, 1, head.n_shape + head.expression_names.index(f"eyeBlink{side}")]
        falls = blink[head.faces].mean(1) < -_LID_FALL
        parts |= {f"{side.lower()} upper lid": falls, f"{side.lower()} lower lid": ~falls}
    return parts
