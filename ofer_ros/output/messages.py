"""Pipeline faces to ofer_msgs and back to arrays; the head model's description."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from copy import copy

import numpy as np
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from ofer_models.head.conventions import HEAD_AXES, JAW_CONVENTION, UNITS, shape_names
from ofer_models.head.model import JAW
from ofer_models.head.region import region_triangles
from ofer_msgs.msg import Face, FaceArray, HeadModel
from ofer_ros.base.geometry import pose_message


def face_message(face) -> Face:
    """ofer_msgs/Face of an `ofer_models.pipeline.Face`."""
    left, top, width, height = (int(value) for value in face.roi)
    roi = RegionOfInterest(x_offset=left, y_offset=top, width=width, height=height)
    return Face(
        id=face.id,
        roi=roi,
        confidence=float(face.confidence),
        pose=pose_message(face.rotation, face.translation),
        metric=bool(face.metric),
        shape=_floats(face.shape),
        identity_revision=int(face.identity_revision),
        identity_score=float(face.identity_score),
        identity_state=str(face.identity_state),
        identity_blend=float(face.identity_blend),
        num_hypotheses=len(face.expressions),
        expressions=_floats(face.expressions),
        jaws=_floats(face.jaws),
        scores=_floats(face.scores),
        selected=int(face.selected),
        expression=_floats(face.expression),
        jaw=_floats(face.jaw),
        **{f"spread_{region}": float(metres) for region, metres in face.spread.items()},
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
    """Float32 shape (S,), expression (E,) and jaw (3,) of a Face message.

    row: a hypothesis; None: the one that is shown, the selected hypothesis smoothed over time. Raises ValueError as
    `hypotheses` does, and when there is no such row.
    """
    if row is None and len(face.expression):
        if len(face.jaw) != 3:
            raise ValueError(f"face '{face.id}' has {len(face.jaw)} jaw numbers, not 3")
        return np.array(face.shape, np.float32), np.array(face.expression, np.float32), np.array(face.jaw, np.float32)
    row = face.selected if row is None else row
    expressions, jaws = hypotheses(face)
    if row >= len(jaws):
        raise ValueError(f"face '{face.id}' has {len(jaws)} hypotheses, number {row} is asked for")
    return np.array(face.shape, np.float32), expressions[row], jaws[row]


def hypotheses(face: Face) -> tuple[np.ndarray, np.ndarray]:
    """Float32 expressions (H, E) and jaws (H, 3) of a Face message.

    Raises ValueError when the arrays do not fit num_hypotheses.
    """
    count = face.num_hypotheses
    expressions = np.array(face.expressions, np.float32)
    jaws = np.array(face.jaws, np.float32)
    if count == 0 or expressions.size % count or jaws.size != 3 * count:
        raise ValueError(
            f"face '{face.id}': {expressions.size} expression and {jaws.size} jaw numbers do not fit {count} hypotheses"
        )
    return expressions.reshape(count, -1), jaws.reshape(count, 3)


def selected_only(message: FaceArray) -> FaceArray:
    """The same faces with nothing but what is shown of each: one hypothesis, the smoothed selected one."""
    faces = []
    for face in message.faces:
        _, expression, jaw = coefficients(face)
        small = copy(face)
        small.num_hypotheses, small.selected, small.scores = 1, 0, array("f", [1.0])
        small.expressions, small.jaws = _floats(expression), _floats(jaw)
        small.expression, small.jaw = array("f"), array("f")
        faces.append(small)
    return FaceArray(
        header=message.header, image_height=message.image_height, image_width=message.image_width, faces=faces
    )


def head_model_message(bundle, head, header: Header, arrays: bool = True) -> HeadModel:
    """The latched description of a bundle (`ofer_models.bundle.Bundle`) and its head, with the head's own arrays."""
    return HeadModel(
        **(_head_arrays(head) if arrays else {}),
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


def _head_arrays(head) -> dict[str, array]:
    """Fields of HeadModel that hold the head with neck and eyes at rest, where only the jaw turns."""
    rows = slice(9 * (JAW - 1), 9 * JAW)
    return {
        "template_vertices": _floats(head.v_template),
        "directions": _floats(head.shapedirs),
        "jaw_correctives": _floats(head.posedirs[rows].T),  # (9, 3 V) -> (3 V, 9)
        "jaw_weights": _floats(head.lbs_weights[:, JAW]),
        "jaw_joint": _floats(head.joint_regressor[JAW] @ head.v_template),
        "jaw_joint_directions": _floats(np.einsum("v,vxc->xc", head.joint_regressor[JAW], head.shapedirs)),
        "triangles": _indices(head.faces),
        "face_triangles": _indices(region_triangles(head, "face")),
    }


def _indices(values: np.ndarray) -> array:
    return array("I", np.ascontiguousarray(values, np.uint32).tobytes())


def _floats(values: np.ndarray) -> array:
    """Flat row-major float32 array of the type that generated messages take without looking at each number."""
    return array("f", np.ascontiguousarray(values, np.float32).tobytes())
