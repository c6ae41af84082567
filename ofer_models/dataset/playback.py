"""A dataset's rows played again: the faces of one source frame by frame, as an avatar's performer takes them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ofer_models.avatar.performer import SeenFace
from ofer_models.dataset.meshes import open_faces
from ofer_models.dataset.store import DatasetError
from ofer_models.dataset.where import condition

_COLUMNS = (
    "frame", "stamp", "track", "roi", "expressions", "jaws", "weights", "selected", "rotation", "translation", "betas"
)  # fmt: skip


def played(dataset: Path, where: str = "") -> Iterator[tuple[list[SeenFace], dict[str, np.ndarray], float]]:
    """For each frame with a face, in order: its faces, the betas (S,) of each by its track, and the stamp in s (0 for a
    picture).

    where: which rows, as `ofer meshes` has it. Raises DatasetError, before the first frame where it can: for no row,
    and rows of several sources, which have clocks and tracks of their own.
    """
    faces = open_faces(dataset)
    chosen = condition(where, faces.schema.names) if where else None
    try:
        sources = sorted(pc.unique(faces.to_table(columns=["source"], filter=chosen)["source"]).to_pylist())
    except pa.ArrowException as error:
        raise DatasetError(f"--where cannot be applied: {str(error).splitlines()[0]}") from None
    if not sources:
        raise DatasetError(f"{dataset} has no such row: --where {where!r}")
    if len(sources) > 1:
        raise DatasetError(
            f"{dataset} has {len(sources)} such sources: choose one by --where 'source == \"{sources[0]}\"'"
        )
    return _frames(faces.to_batches(columns=list(_COLUMNS), filter=chosen, batch_size=256))


def _frames(
    batches: Iterator[pa.RecordBatch],
) -> Iterator[tuple[list[SeenFace], dict[str, np.ndarray], float]]:
    rows = (row for batch in batches for row in batch.to_pylist())
    for _, group in groupby(rows, key=lambda row: row["frame"]):
        frame = list(group)
        betas = {row["track"]: np.array(row["betas"], np.float32) for row in frame}
        yield [_seen(row) for row in frame], betas, frame[0]["stamp"] or 0.0


def _seen(row: dict[str, Any]) -> SeenFace:
    return SeenFace(
        row["track"], row["roi"][2] * row["roi"][3], np.array(row["expressions"], np.float32),
        np.array(row["jaws"], np.float32), np.array(row["weights"], np.float32), row["selected"],
        np.array(row["rotation"], np.float64).reshape(3, 3), np.array(row["translation"], np.float64),
    )  # fmt: skip
