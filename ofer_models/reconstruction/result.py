"""One face of one picture as the pipeline found it, with all its meshes and the spread between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofer_models.head.model import HeadModel
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.pipeline import FacePipeline
from ofer_models.tracking.face import Face
from ofer_models.tracking.spread import spread_mm


@dataclass(frozen=True)
class Reconstruction:
    """What the pipeline gave, and meshes in the head frame, metres.

    name: the face's in its picture. intrinsics: the camera assumed for the pose. identity (V, 3): the neutral head;
    hypotheses (H, V, 3); spread_mm (V,): how far the hypotheses lie apart at each vertex, weighed by
    their scores; NaN of a single one.
    """

    name: str
    face: Face
    head: HeadModel
    intrinsics: Intrinsics
    identity: np.ndarray
    hypotheses: np.ndarray
    spread_mm: np.ndarray

    @classmethod
    def of(cls, name: str, pipeline: FacePipeline, face: Face, intrinsics: Intrinsics) -> Reconstruction:
        """Decode a face that this pipeline has just found."""
        hypotheses = np.stack([pipeline.vertices(face, row) for row in range(len(face.expressions))])
        identity = pipeline.head.identity(face.shape).vertices
        return cls(name, face, pipeline.head, intrinsics, identity, hypotheses, spread_mm(hypotheses, face.scores))

    @property
    def face_spread_mm(self) -> float:
        """Mean spread over the face region."""
        return float(self.spread_mm[self.head.masks["face"]].mean())
