"""Where a head's eyes look: how far its expression has moved the irises about the eyeballs' joints."""

from __future__ import annotations

import numpy as np

from ofer_models.head.landmark_sets import IRISES, tracked_landmarks
from ofer_models.head.model import LEFT_EYE, RIGHT_EYE, HeadModel, HeadModelError


class Gaze:
    """The direction that both eyes have in common."""

    def __init__(self, moved: np.ndarray, reach: float) -> None:
        """moved (E, 3) metres by which each unit of expression moves the irises' mean; reach: from eyeball to iris."""
        self._moved, self._reach = moved, reach

    @classmethod
    def of(cls, head: HeadModel) -> Gaze | None:
        """None for a head whose eyes its expressions do not turn, or that does not know where they are."""
        try:
            embedding, points = tracked_landmarks(head)
        except HeadModelError:
            return None
        rows = np.flatnonzero(np.isin(points, IRISES))
        if not rows.size:
            return None
        corners, weights = head.faces[embedding.triangle[rows]], embedding.bary[rows]  # (2, 3) each
        directions = head.shapedirs[:, :, head.n_shape :][corners]  # (2, 3, 3, E)
        irises = np.einsum("ik,ikc->ic", weights, head.v_template[corners])
        reach = (irises - (head.joint_regressor @ head.v_template)[[RIGHT_EYE, LEFT_EYE]])[:, 2].mean()
        return cls(np.einsum("ik,ikce->ec", weights, directions) / len(rows), float(reach))

    def __call__(self, expression: np.ndarray) -> np.ndarray:
        """Unit vector (3,) in the head frame (x to the person's left, y up, z out of the face) of expression (E,)."""
        towards = np.array([0.0, 0.0, self._reach]) + np.asarray(expression, np.float64) @ self._moved
        return towards / np.linalg.norm(towards)
