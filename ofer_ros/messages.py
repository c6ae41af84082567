"""Pipeline faces to ofer_msgs and back to arrays; the head model's description."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from ofer_models.head.conventions import HEAD_AXES, JAW_CONVENTION, UNITS, shape_names
from ofer_msgs.msg import Face, FaceArray, HeadModel
from ofer_ros.geometry import pose_message


def face_message(face) -> Face:
    """ofer_msgs/Face of an `ofer_models.pipeline.Face`."""
    left, top, width, height = (int(value) for value in face.roi)
    # A box may reach over the image's edge; RegionOfInterest cannot.
    clipped_left, clipped_top = max(left, 0), max(top, 0)
    roi = RegionOfInterest(
        x_offset=clipped_left,
        y_offset=clipped_top,
        width=max(left + width - clipped_left, 0),
        height=max(top + height - clipped_top, 0),
    )
    return Face(
        id=face.id,
        roi=roi,
        confidence=float(face.confidence),
        pose=pose_message(face.rotation, face.translation),
        metric=bool(face.metric),
        shape=_floats(face.shape),
        identity_revision=int(face.identity_revision),
        identity_score=float(face.identity_score),
        num_hypotheses=len(face.expressions),
        expressions=_floats(face.expressions),
        jaws=_floats(face.jaws),
        scores=_floats(face.scores),
        selected=int(face.selected),
        occlusion=float(face.occlusion),
        landmark_error=float(face.landmark_error),
    )


def face_array_message(faces: Iterable, header: Header, image_shape: tuple[int, ...]) -> FaceArray:
    """FaceArray of one image with shape (H, W, ...)."""
    return FaceArray(
        header=header,
        image_height=image_shape[0],
        image_width=image_shape[1],
        faces=[face_message(face) for face in faces],
    )


def coefficients(face: Face, row: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float32 shape (S,), expression (E,) and jaw (3,) of hypothesis `row` (None: the selected one) of a Face message.

    Raises ValueError when the arrays do not fit num_hypotheses or there is no such row.
    """
    count = face.num_hypotheses
    row = face.selected if row is None else row
    expressions = np.array(face.expressions, np.float32)
    jaws = np.array(face.jaws, np.float32)
    if count == 0 or row >= count or expressions.size % count or jaws.size != 3 * count:
        raise ValueError(
            f"face '{face.id}': {expressions.size} expression and {jaws.size} jaw numbers do not fit "
            f"{count} hypotheses with number {row} asked for"
        )
    return np.array(face.shape, np.float32), expressions.reshape(count, -1)[row], jaws.reshape(count, 3)[row]


def head_model_message(bundle, head, header: Header) -> HeadModel:
    """The latched description of a bundle (`ofer_models.bundle.Bundle`) and its head."""
    return HeadModel(
        header=header,
        bundle=str(bundle.name),
        bundle_version=str(bundle.version),
        head_sha256=head.sha256,
        n_shape=head.n_shape,
        n_expression=head.n_expression,
        n_vertices=len(head.v_template),
        n_triangles=len(head.faces),
        shape_names=shape_names(head.n_shape),
        expression_names=list(head.expression_names),
        units=UNITS,
        head_axes=HEAD_AXES,
        jaw_convention=JAW_CONVENTION,
    )


def _floats(values: np.ndarray) -> array:
    """Flat row-major float32 array of the type that generated messages take without looking at each number."""
    return array("f", np.ascontiguousarray(values, np.float32).tobytes())
