"""Pictures of which no camera is known: read as a camera would have taken them that stood as far away as people do.

A face that fills its picture was cut out of a larger one or taken with a long lens. Under a usual field of view it
would be 20 cm away, and the head would be made flat to explain that its nose is no larger than from afar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.point_fusion import inter_ocular
from ofer_models.pipeline import FacePipeline
from ofer_models.tracking.face import Face

_EYES_APART = 0.063  # metres between an adult's pupils (Dodgson 2004)
_NEAREST = 0.6  # metres


def assumed_camera(width: int, height: int, between_eyes: float = 0.0) -> Intrinsics:
    """The guess for a picture with eyes `between_eyes` px apart: the usual field of view, or the lens that puts that
    face no nearer than people are photographed."""
    camera = Intrinsics.from_field_of_view(width, height)
    focal = max(float(camera.K[0, 0]), between_eyes * _NEAREST / _EYES_APART)
    return replace(camera, K=np.array([[focal, 0, camera.K[0, 2]], [0, focal, camera.K[1, 2]], [0, 0, 1]]))


def read_still(pipeline: FacePipeline, rgb: np.ndarray, restart: Callable[[], None]) -> tuple[list[Face], Intrinsics]:
    """The faces in a picture (H, W, 3), and the camera that was assumed. The pipeline knows nobody yet; restart: before
    a second reading."""
    height, width = rgb.shape[:2]
    camera = assumed_camera(width, height)
    faces = pipeline(rgb, 0.0, camera)
    further = assumed_camera(width, height, max((inter_ocular(face.landmarks) for face in faces), default=0.0))
    if further.K[0, 0] > camera.K[0, 0]:
        restart()
        camera, faces = further, pipeline(rgb, 0.0, further)
    return faces, camera
