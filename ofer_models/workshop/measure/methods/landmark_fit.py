"""What MediaPipe's points alone say: a head and an expression fitted to them from the mean head at rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.landmark_sets import tracked_landmarks
from ofer_models.head.model import Identity
from ofer_models.perception.head_pose import HeadPose
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.tracking.evidence import LandmarkEvidence
from ofer_models.tracking.identity_evidence import IdentityEvidence
from ofer_models.tracking.identity_state import View
from ofer_models.tracking.reprojection import SeenLandmarks, poses_of
from ofer_models.workshop.errors import EvaluationError


@dataclass(frozen=True)
class Fitted:
    """A head's betas (S,), expression and jaw (E + 3,), and its pose before the camera."""

    betas: np.ndarray
    coefficients: np.ndarray
    pose: HeadPose


class LandmarkFit:
    """The pipeline's own fit to landmarks, with the population for its prior and no network's word."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises EvaluationError for a bundle whose hypotheses are not moved to landmarks."""
        evidence = LandmarkEvidence.of(bundle)
        if evidence is None:
            raise EvaluationError(f"bundle {bundle.name} is not one that landmarks move (landmark_evidence)")
        self._head, self._evidence, self._identity = bundle.head, evidence, IdentityEvidence(bundle.head, evidence)
        self._numbers = tracked_landmarks(bundle.head)[1]

    def __call__(self, points: np.ndarray, intrinsics: Intrinsics, identity: Identity | None = None) -> Fitted | None:
        """Fit points (478, >= 2) px; identity: a head that is known. None where they fit no pose."""
        head = self._head
        rest = np.zeros(head.n_expression + 3, np.float32)
        seen = SeenLandmarks.of(points, self._numbers, intrinsics)
        betas = np.zeros(head.n_shape, np.float32)
        if identity is None:
            view = View(0.0, 1.0, np.zeros(0), seen=seen, expression=rest[:-3], jaw=rest[-3:])
            betas, _ = self._identity(betas, [view], np.ones(1))
            identity = head.identity(betas)
        system = self._evidence.system
        resting = system.decoder.at_rest([identity])
        (pose,) = poses_of([seen.at(system.rows)], system.models(resting, rest[None, None])[0], [None])
        if pose is None:
            return None
        told, (pose,) = self._evidence([seen], [None], resting, rest[None, None], np.zeros((1, 1, len(rest))), [pose])
        return Fitted(betas, told[0, 0], pose)
