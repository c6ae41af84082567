"""What a worker does: the frames of a part through the pipeline, their rows to a file. No Ray in here."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ofer_models.bundle.manifest import Bundle
from ofer_models.dataset.frames import ArchivedFrame, FrameReader
from ofer_models.dataset.parts import Part
from ofer_models.dataset.places import on_this_machine, picture_bytes
from ofer_models.dataset.rows import Row, face_rows
from ofer_models.dataset.schema import FAILURES, faces_schema
from ofer_models.dataset.sources import PICTURE, Source
from ofer_models.dataset.store import PartResult
from ofer_models.files.refusal import one_line
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.pictures import decode_picture, printable, read_picture
from ofer_models.pipeline import FacePipeline
from ofer_models.pipeline_settings import PipelineSettings
from ofer_models.reconstruction.reconstruct import MAX_FACES
from ofer_models.reconstruction.unknown_camera import read_still
from ofer_models.tracking.face import Face

_ROWS_A_GROUP = 512  # rows kept in memory, and of one row group
_MOST_PROBLEMS = 1000  # frames of one source that are told one by one


@dataclass(frozen=True)
class Job:
    """What every worker needs: the bundle's folder, expressions and head shapes a face, the seed, and the reader of
    videos and bags as `module:function`, a `FrameReader`, which is imported where the work is done."""

    bundle: str
    hypotheses: int
    candidates: int
    seed: int
    reader: str

    def about(self) -> dict[str, object]:
        """What the rows are made with."""
        bundle = Bundle.load(self.bundle)
        return {
            "bundle": {"name": bundle.name, "version": bundle.version, "sha256": bundle.sha256},
            "hypotheses": self.hypotheses, "candidates": self.candidates, "seed": self.seed,
        }  # fmt: skip


class PartWorker:
    """Keeps a pipeline for pictures and one for videos, each made when it is first needed."""

    def __init__(self, job: Job) -> None:
        """Raises BundleError, and ImportError for a reader that is not installed here."""
        self._job = job
        self._read = _reader(job.reader)
        self._bundle = Bundle.load(job.bundle)
        self._hash = self._bundle.sha256
        self._schema = faces_schema(self._bundle, job.hypotheses)
        self._pipelines: dict[str, FacePipeline] = {}
        self._ids = _TrackIds()
        self._now = 0.0  # of the source's clock, s: what a face becomes must not depend on when it is looked at
        self.counts = (0, 0)  # frames and faces of all that was begun

    def progress(self) -> tuple[int, int]:
        """Frames and faces until now. From any thread."""
        return self.counts

    def do(self, part: Part, folder: str) -> PartResult:
        """Write a part's rows to new files in `folder`. Whatever is wrong with a source becomes a row of failures.

        Raises OSError when they cannot be written.
        """
        if not Path(folder).is_dir():
            here = socket.gethostname()
            raise FileNotFoundError(f"{folder} is not on {here}: a dataset has to be on a file system of all nodes")
        started, name, before = time.process_time(), uuid.uuid4().hex, self.counts
        with ExitStack() as stack:
            faces = stack.enter_context(_RowFile(Path(folder), f"{name}.faces.parquet", self._schema))
            failures = stack.enter_context(_RowFile(Path(folder), f"{name}.failures.parquet", FAILURES))
            for source in part.sources:
                if source.problem:
                    failures.add([_failure(source, None, source.problem)])
                else:
                    self._source(source, faces, failures)
        frames, found = (now - then for now, then in zip(self.counts, before, strict=True))
        return PartResult(
            faces.written, failures.written, frames, found, failures.rows, time.process_time() - started
        )

    def _source(self, source: Source, faces: _RowFile, failures: _RowFile) -> None:
        pipeline = self._pipeline(source.kind)

        def restart() -> None:
            self._ids.reset()
            pipeline.reset(seed_of(self._job.seed, source.address))

        restart()
        name, problems = printable(source.address), 0
        rows: list[Row] = []
        frames = self._frames(source)
        for number in itertools.count():
            try:
                frame = next(frames, None)
                again = restart if source.kind == PICTURE else None
                found = self._faces(pipeline, frame, again) if frame and frame.rgb is not None else []
            except Exception as error:  # files of unknown origin: readers raise nearly everything
                failures.add([_failure(source, number or None, error)])
                break
            if frame is None:
                if not number:
                    failures.add([_failure(source, None, "has no frames")])
                break
            if frame.rgb is None:
                problems += 1
                if problems <= _MOST_PROBLEMS:
                    failures.add([_failure(source, number, frame.problem)])
                continue
            stamp = None if source.kind == PICTURE else frame.stamp
            rows += [Row(name, number, stamp, camera, face) for camera, face in found]
            self.counts = self.counts[0] + 1, self.counts[1] + len(found)
            if len(rows) >= _ROWS_A_GROUP:
                faces.add_batch(face_rows(rows, self._schema, self._hash))
                rows = []
        if rows:
            faces.add_batch(face_rows(rows, self._schema, self._hash))
        if pipeline.identity_failure:  # its faces have the mean head
            failures.add([_failure(source, None, f"no identity could be drawn: {pipeline.identity_failure}")])

    def _faces(
        self, pipeline: FacePipeline, frame: ArchivedFrame, restart: Callable[[], None] | None
    ) -> list[tuple[Intrinsics, Face]]:
        """restart: of a picture alone, which may be read twice."""
        self._now = frame.stamp
        if restart:
            faces, camera = read_still(pipeline, frame.rgb, restart)
        else:
            height, width = frame.rgb.shape[:2]
            camera = frame.camera or Intrinsics.from_field_of_view(width, height)
            faces = pipeline(frame.rgb, frame.stamp, camera)
        return [(camera, face) for face in faces]

    def _frames(self, source: Source) -> Iterator[ArchivedFrame]:
        if source.kind == PICTURE:
            data = picture_bytes(source.address)
            rgb = read_picture(Path(source.address)) if data is None else decode_picture(data, turned=True)
            yield ArchivedFrame(rgb, 0.0)
            return
        with on_this_machine(source.address) as path:
            yield from self._read(path)

    def _pipeline(self, kind: str) -> FacePipeline:
        if kind not in self._pipelines:
            settings = PipelineSettings(
                hypotheses=self._job.hypotheses, candidates=self._job.candidates, max_faces=MAX_FACES,
                small_faces=kind == PICTURE, ids=self._ids,
            )  # fmt: skip
            self._pipelines[kind] = FacePipeline(self._bundle, settings, arrival=lambda: self._now)
        return self._pipelines[kind]


def seed_of(seed: int, address: str) -> int:
    """Random numbers of a source: its own, and the same whenever and wherever it is done."""
    digest = hashlib.sha256(f"{seed}\0{address}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "little")


def _reader(name: str) -> FrameReader:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _failure(source: Source, frame: int | None, reason: object) -> dict[str, object]:
    return {"source": printable(source.address), "frame": frame, "reason": one_line(reason)}


class _TrackIds:
    """t1, t2, ... of one source."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._numbers = itertools.count(1)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return f"t{next(self._numbers)}"


class _RowFile:
    """A Parquet file that is there once it has a row."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self._path, self._schema = folder / name, schema
        self._writer: pq.ParquetWriter | None = None
        self.rows = 0

    @property
    def written(self) -> str:
        """Its name; '' without rows."""
        return self._path.name if self._writer else ""

    def add(self, rows: list[dict[str, object]]) -> None:
        self.add_batch(pa.RecordBatch.from_pylist(rows, self._schema))

    def add_batch(self, batch: pa.RecordBatch) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        self._writer.write_batch(batch)
        self.rows += batch.num_rows

    def __enter__(self) -> _RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()
