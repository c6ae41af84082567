"""What the pipeline tells of a face."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Face:
    """One tracked face of one frame.

    id: never given twice by a pipeline; roi (x, y, w, h) px, inside the image, zeros for a face beside it; confidence
    0..1; landmarks (478, 3) px. rotation (3, 3) and translation (3,) m take the head frame (FLAME axes) to the camera's
    optical frame (x right, y down, z forward), filtered over time; metric is False when the intrinsics were guessed.

    shape (S,) betas as they are shown now: while identity_blend < 1, on the way to those of identity_revision, which
    grows with each replacement. identity_state: gathering, locked, reviewed or lost (see docs/identity.md);
    identity_score 0..1.

    expressions (H, E), jaws (H, 3) rad, without the trembling of a face that holds still where the bundle moves them to
    landmarks; scores (H,) sum to 1; selected: the row to show, steady over time.
    expression (E,) and jaw (3,): the selected row, filtered over time.

    occlusion 0..1; landmark_error is the mean reprojection error, as a part of the inter-ocular distance, of the
    selected row in its unfiltered pose. spread: how far the hypotheses lie apart at the mouth, the eyes and the brows,
    metres: root mean square distance from their mean, weighed by their scores; NaN where the head has no landmarks, and
    of a single hypothesis. regressed: with the method `regressor`, the groups rotation, camera or translation, albedo
    and light of its manifest, as far as it tells them. visible (468,): the chance that each of MediaPipe's points is
    open to sight; None where nobody tells.
    """

    id: str
    roi: tuple[int, int, int, int]
    confidence: float
    landmarks: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    metric: bool
    shape: np.ndarray
    identity_revision: int
    identity_score: float
    identity_state: str
    identity_blend: float
    expressions: np.ndarray
    jaws: np.ndarray
    scores: np.ndarray
    selected: int
    expression: np.ndarray
    jaw: np.ndarray
    occlusion: float
    landmark_error: float
    spread: dict[str, float]
    regressed: dict[str, np.ndarray] = field(default_factory=dict)
    visible: np.ndarray | None = None
