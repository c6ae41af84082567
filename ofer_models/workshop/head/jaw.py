"""A jaw joint that opens the mouth as the face unit `jawOpen` does.

The unit is a displacement of every vertex. A rotation about the jaw joint with smooth weights explains most of it; what
is left becomes a pose corrective of FLAME's kind, linear in the joint's rotation matrix and driven by the sine of the
opening, so that at the unit's own angle the template is reproduced exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofer_models.head.model import rotation_matrices

_SINE_ENTRIES = ((2, 1, 0.5), (1, 2, -0.5))  # of R(x, angle): sin(angle) = (R[2, 1] - R[1, 2]) / 2


@dataclass(frozen=True)
class JawFit:
    """angle (rad) that equals jawOpen = 1, joint (3,), weights (V,) in 0..1, corrective (9, V, 3) of R - I by rows.

    joint_share is the part of the displacement (root mean square) that joint and weights explain without it.
    """

    angle: float
    joint: np.ndarray
    weights: np.ndarray
    corrective: np.ndarray
    joint_share: float


def fit_jaw(template: np.ndarray, opening: np.ndarray, bone_joint: np.ndarray, chin: np.ndarray) -> JawFit:
    """Fit a jaw to the displacements `opening` (V, 3) of `template` (V, 3), both metres in the head frame.

    bone_joint (3,) is where the search for the joint starts; chin (n,) are vertices that the jaw carries fully.
    """
    best = None
    for dy in np.linspace(-0.02, 0.02, 9):
        for dz in np.linspace(-0.03, 0.03, 13):
            joint = bone_joint + np.array([0.0, dy, dz])
            angle = _rigid_angle(template[chin] - joint, opening[chin])
            error = np.sum((_turn(angle, template[chin] - joint) - opening[chin]) ** 2)
            if best is None or error < best[0]:
                best = (error, angle, joint)
    _, angle, joint = best
    full = _turn(angle, template - joint)
    weights = np.einsum("vx,vx->v", full, opening) / np.maximum(np.einsum("vx,vx->v", full, full), 1e-12)
    weights = np.clip(weights, 0, 1)
    weights[weights < 0.02] = 0
    left = opening - weights[:, None] * full
    blend = np.eye(3) + weights[:, None, None] * (rotation_matrices(np.array([angle, 0.0, 0.0])) - np.eye(3))
    at_rest = np.linalg.solve(blend, left[..., None])[..., 0]  # the corrective is added before skinning turns it
    corrective = np.zeros((9, len(template), 3))
    for row, column, share in _SINE_ENTRIES:
        corrective[3 * row + column] = share * at_rest / np.sin(angle)
    share = 1 - np.sqrt(np.sum(left**2) / np.sum(opening**2))
    return JawFit(float(angle), joint, weights, corrective, float(share))


def _turn(angle: float, offsets: np.ndarray) -> np.ndarray:
    return offsets @ (rotation_matrices(np.array([angle, 0.0, 0.0])) - np.eye(3)).T


def _rigid_angle(offsets: np.ndarray, displacement: np.ndarray) -> float:
    """Least-squares rotation about x (Kabsch in the y-z plane) that takes offsets to offsets + displacement."""
    y, z = offsets[:, 1], offsets[:, 2]
    y2, z2 = y + displacement[:, 1], z + displacement[:, 2]
    return float(np.arctan2(np.sum(y * z2 - z * y2), np.sum(y * y2 + z * z2)))
