"""Annotated faces beside photographs: `points.json`, {"picture.jpg": [{"points68": [[x, y], ...]}, ...]} in px."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ofer_models.files import schema
from ofer_models.files.documents import read_json
from ofer_models.files.refusal import FileRefused
from ofer_models.workshop.errors import DataError

ANNOTATIONS = "points.json"
_MOST_BYTES = 64 << 20
_POINTS = schema.sequence(schema.sequence(schema.number(-1e6, 1e6), 2, 2), 68, 68)
_CONTENT = schema.mapping(
    schema.text(r"(?!.*\.\.)[^/].*", what="a file in this folder"),
    schema.sequence(schema.record({"points68": _POINTS}, others=True), 0, 1000),
    100_000,
)


def read_annotations(folder: Path) -> dict[str, list[np.ndarray]]:
    """Picture's name in the folder -> iBUG's 68 points (68, 2) float64 px of each annotated face, pixel centres at
    integers. Empty where the folder has no such file; raises DataError for another content.
    """
    path = folder / ANNOTATIONS
    if not path.is_file():
        return {}
    try:
        content = _CONTENT(read_json(path, _MOST_BYTES), "")
    except FileRefused as error:
        raise DataError(f"{path} {error}") from None
    return {name: [np.array(face["points68"], np.float64) for face in faces] for name, faces in content.items()}
