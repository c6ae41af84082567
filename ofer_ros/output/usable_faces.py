"""FaceArrays that arrive from elsewhere: which of their faces can be used, so that one that cannot costs no other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ofer_models.head import HeadModel
from ofer_msgs.msg import Face, FaceArray
from ofer_ros.base.geometry import pose_arrays
from ofer_ros.output.messages import coefficients, hypotheses

_ID_SHOWN = 40  # characters of an id that a line of text shows


class UsableFaces:
    """usable(message) -> a FaceArray of those faces that fit the head, whose numbers are finite, and whose ids none
    before them has. Why one is left out is told in one line."""

    def __init__(self, head: HeadModel, report: Callable[[str], object]) -> None:
        self._sizes = head.n_shape, head.n_expression
        self._report = report

    def __call__(self, message: FaceArray) -> FaceArray:
        used: dict[str, Face] = {}
        for face in message.faces:
            try:
                if face.id in used:
                    raise ValueError("another face of this message has the same id, which is used")
                self._check(face)
            except ValueError as error:
                self._report(f"face {face.id[:_ID_SHOWN]!r} is left out: {error}")
            else:
                used[face.id] = face
        if len(used) == len(message.faces):
            return message
        return FaceArray(
            header=message.header, image_height=message.image_height, image_width=message.image_width,
            faces=list(used.values()),
        )  # fmt: skip

    def _check(self, face: Face) -> None:
        """Raises ValueError."""
        shape, expression, jaw = coefficients(face)
        expressions, jaws = hypotheses(face)
        sizes = len(shape), expressions.shape[1]
        if sizes != self._sizes or len(expression) != sizes[1]:
            raise ValueError(
                f"it has {sizes[0]} shape and {sizes[1]} expression coefficients, this head model {self._sizes[0]} and "
                f"{self._sizes[1]}"
            )
        if len(face.scores) != len(jaws) or face.selected >= len(jaws):
            raise ValueError(
                f"{len(face.scores)} scores and the selected row {face.selected} do not fit {len(jaws)} hypotheses"
            )
        numbers = (shape, expression, jaw, expressions, jaws, np.array(face.scores), *pose_arrays(face.pose))
        if not all(np.isfinite(part).all() for part in numbers):
            raise ValueError("its coefficients or its pose are not finite")
