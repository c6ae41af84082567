"""The columns of a dataset: one row a face and frame, and one a failure; units go along in the metadata."""

from __future__ import annotations

import json

import pyarrow as pa

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.conventions import HEAD_AXES, JAW_CONVENTION, JAW_NAMES, shape_names
from ofer_models.reconstruction.coefficients import CAMERA_AXES
from ofer_models.tracking.spread import REGIONS

FORMAT = 1
INFO = b"ofer"  # key of the schema's metadata, whose value is JSON

FAILURES = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("frame", pa.int32()),  # null: the source as a whole
        pa.field("reason", pa.string(), nullable=False),
    ]
)


def faces_schema(bundle: Bundle, hypotheses: int) -> pa.Schema:
    """Columns of faces with S betas, E expression coefficients and H hypotheses. Every field's metadata has its `unit`
    and `about`; the schema's, under `ofer`, has axes, conventions and the coefficients' names as JSON.
    """
    f32, i32 = pa.float32(), pa.int32()
    expression = pa.list_(f32, bundle.n_expression)
    columns: list[tuple[str, pa.DataType, str, str]] = [
        ("source", pa.string(), "", "path or address of the picture, video or bag"),
        ("frame", i32, "", "number of the frame in its source, from 0"),
        ("stamp", pa.float64(), "s", "on the source's own clock; null for a picture"),
        ("track", pa.string(), "", "one face over the frames of one source"),
        ("roi", pa.list_(i32, 4), "px", "x, y, width, height"),
        ("confidence", f32, "1", "of the landmarks, 0 to 1"),
        ("image_size", pa.list_(i32, 2), "px", "width, height"),
        ("camera_matrix", pa.list_(f32, 9), "px", "row by row"),
        ("metric", pa.bool_(), "", "whether the camera was calibrated; otherwise distances are a guess"),
        ("rotation", pa.list_(f32, 9), "1", "head to camera, row by row"),
        ("translation", pa.list_(f32, 3), "m", "head to camera"),
        ("betas", pa.list_(f32, bundle.n_shape), "1", "head shape as shown in this frame"),
        ("identity_revision", i32, "", "grows with each replacement of the track's head"),
        ("identity_blend", f32, "1", "how far the betas have come to that revision's, 0 to 1"),
        ("identity_score", f32, "1", "0 to 1"),
        ("selected", i32, "", "row of expressions, jaws and weights that is shown"),
        ("expressions", pa.list_(expression, hypotheses), "1", "coefficients of every hypothesis"),
        ("jaws", pa.list_(pa.list_(f32, 3), hypotheses), "rad", "of every hypothesis"),
        ("weights", pa.list_(f32, hypotheses), "1", "of every hypothesis, sum 1"),
        *((f"spread_{region}", f32, "m", f"how far the hypotheses lie apart at the {region}") for region in REGIONS),
        ("occlusion", f32, "1", "0 to 1"),
        ("landmark_error", f32, "1", "mean reprojection error over the inter-ocular distance"),
        ("bundle", pa.string(), "", "sha256 of the bundle's manifest"),
    ]
    info = {
        "format": FORMAT, "bundle": {"name": bundle.name, "version": bundle.version}, "head_axes": HEAD_AXES,
        "camera_axes": CAMERA_AXES, "jaw": JAW_CONVENTION, "jaw_names": list(JAW_NAMES),
        "shape_names": list(shape_names(bundle.n_shape)), "expression_names": list(bundle.head.expression_names),
    }  # fmt: skip
    fields = [
        pa.field(name, kind, nullable=name == "stamp", metadata={"unit": unit, "about": about})
        for name, kind, unit, about in columns
    ]
    return pa.schema(fields, {INFO: json.dumps(info).encode()})
