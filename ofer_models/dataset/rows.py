"""From the pipeline's faces to rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.tracking.face import Face


@dataclass(frozen=True)
class Row:
    """A face of frame number `frame` of `source`; stamp in s, None for a picture; camera: with which it was posed."""

    source: str
    frame: int
    stamp: float | None
    camera: Intrinsics
    face: Face


def face_rows(rows: Sequence[Row], schema: pa.Schema, bundle: str) -> pa.RecordBatch:
    """The rows as columns of `faces_schema`; bundle: hash of the bundle that they were made with."""
    values = [_values(row, bundle) for row in rows]
    columns = [_column([value[field.name] for value in values], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _values(row: Row, bundle: str) -> dict[str, Any]:
    face, camera = row.face, row.camera
    return {
        "source": row.source, "frame": row.frame, "stamp": row.stamp, "track": face.id, "roi": face.roi,
        "confidence": face.confidence, "image_size": (camera.width, camera.height), "camera_matrix": camera.K,
        "metric": face.metric, "rotation": face.rotation, "translation": face.translation, "betas": face.shape,
        "identity_revision": face.identity_revision, "identity_blend": face.identity_blend,
        "identity_score": face.identity_score, "selected": face.selected, "expressions": face.expressions,
        "jaws": face.jaws, "weights": face.scores, "occlusion": face.occlusion,
        "landmark_error": face.landmark_error, "bundle": bundle,
        **{f"spread_{region}": value for region, value in face.spread.items()},
    }  # fmt: skip


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    sizes, leaf = [], kind
    while pa.types.is_fixed_size_list(leaf):
        sizes.append(leaf.list_size)
        leaf = leaf.value_type
    flat = np.asarray(values, np.float32 if pa.types.is_floating(leaf) else np.int32)
    array = pa.array(flat.reshape(len(values) * int(np.prod(sizes))), leaf)
    for size in reversed(sizes):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array.cast(kind)
