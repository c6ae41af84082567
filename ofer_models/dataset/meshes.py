"""`ofer meshes`: meshes of chosen rows of a dataset, made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from ofer_models.bundle.manifest import Bundle
from ofer_models.dataset.store import FACES, DatasetError, read_about
from ofer_models.dataset.where import condition
from ofer_models.head.decoders import HypothesisDecoder
from ofer_models.head.model import Identity
from ofer_models.reconstruction.mesh_files import MeshFormat, write_mesh

SELECTED, ALL, IDENTITY = "selected", "all", "identity"
_COLUMNS = ("part", "source", "frame", "track", "betas", "selected", "expressions", "jaws")


def open_faces(dataset: Path) -> pads.Dataset:
    """The rows of a dataset, with `part` as a column. Raises DatasetError."""
    read_about(dataset)
    try:
        faces = pads.dataset(
            dataset / FACES, format="parquet",
            partitioning=pads.partitioning(pa.schema([("part", pa.string())]), flavor="hive"),
        )  # fmt: skip
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{dataset} cannot be read: {str(error).splitlines()[0]}") from None
    if not set(_COLUMNS) <= set(faces.schema.names):
        raise DatasetError(f"{dataset} has no faces yet")
    return faces


def hypotheses_with(dataset: Path, bundle: Bundle) -> int:
    """Hypotheses a face. Raises DatasetError for a dataset that was made with another bundle."""
    about = read_about(dataset)
    made = about.get("bundle", {})
    if made.get("sha256") != bundle.sha256:
        raise DatasetError(
            f"{dataset} was made with bundle {made.get('name')} {made.get('version')}, not {bundle.name} "
            f"{bundle.version}: give that by --bundle"
        )
    return int(about["hypotheses"])


def write_meshes(
    dataset: Path, out: Path, bundle: Bundle, where: str = "", which: str = SELECTED, mesh_format: MeshFormat = "ply"
) -> Iterator[Path]:
    """Write a mesh in the head frame, metres, for every row that `where` holds for, and yield its path:
    `PART/frame000012_t1.ply`, with the hypothesis' number where all are written.

    which: `selected`, `all`, `identity` (the neutral head), or the number of a hypothesis. Raises DatasetError, before
    the first mesh where it can.
    """
    count = hypotheses_with(dataset, bundle)
    if which not in (SELECTED, ALL, IDENTITY) and not (which.isdecimal() and int(which) < count):
        raise DatasetError(f"--hypothesis {which!r} is none of {SELECTED}, {ALL}, {IDENTITY} and 0 to {count - 1}")
    faces = open_faces(dataset)
    chosen = condition(where, faces.schema.names) if where else None
    return _written(faces, chosen, out, bundle, which, mesh_format)


def _written(
    faces: pads.Dataset, chosen: Any, out: Path, bundle: Bundle, which: str, mesh_format: MeshFormat
) -> Iterator[Path]:
    head, decode = bundle.head, HypothesisDecoder(bundle.head)
    try:
        for batch in faces.to_batches(columns=list(_COLUMNS), filter=chosen, batch_size=256):
            for row in batch.to_pylist():
                identity = head.identity(np.array(row["betas"], np.float32))
                stem = out / row["part"] / f"frame{row['frame']:06d}_{row['track']}"
                stem.parent.mkdir(parents=True, exist_ok=True)
                for suffix, vertices in _meshes(row, which, identity, decode):
                    path = stem.with_name(f"{stem.name}{suffix}.{mesh_format}")
                    write_mesh(path, vertices, head.faces)
                    yield path
    except pa.ArrowException as error:
        raise DatasetError(f"--where cannot be applied: {str(error).splitlines()[0]}") from None


def _meshes(
    row: dict[str, Any], which: str, identity: Identity, decode: HypothesisDecoder
) -> Iterator[tuple[str, np.ndarray]]:
    if which == IDENTITY:
        yield "_identity", identity.vertices
        return
    rows = range(len(row["jaws"])) if which == ALL else [row["selected"] if which == SELECTED else int(which)]
    expressions, jaws = (np.array([row[name][k] for k in rows], np.float32) for name in ("expressions", "jaws"))
    for k, vertices in zip(rows, decode(identity, expressions, jaws), strict=True):
        yield (f"_{k:02d}" if which == ALL else ""), vertices
