"""Compiled engines as a cache in the bundle's folder: `<graph>.<key>.engine`, beside each a record in JSON.

An engine fits one graph, one TensorRT of one version, the GPUs it was built for, a precision and a range of sizes: the
key. What the record says is compared before an engine is given to TensorRT, which only then says that it does not fit,
or crashes. Needs no TensorRT.

Quantized graphs for ONNX Runtime (`<graph>.<key>.int8`) are kept in the same way; in the place of the GPU is a kind of
processor.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ofer_models.bundle.tensors import StageError
from ofer_models.files import schema
from ofer_models.files.documents import read_json
from ofer_models.files.hashing import sha256_of
from ofer_models.files.refusal import FileRefused, one_line

SUFFIX, INT8_SUFFIX = ".engine", ".int8"
ONNXRUNTIME = "onnxruntime"  # the flavour of quantized graphs
_FORMAT, _MOST_RECORD = 1, 256 << 10
_TEXT, _HASH = schema.text(most=200), schema.text(r"[0-9a-f]{64}", 64, "64 hexadecimal digits")
_KEY = schema.record(
    {
        "graph": schema.text(r"[A-Za-z0-9_][A-Za-z0-9._-]*", 128, "the plain name of a file in the bundle's folder"),
        "graph_sha256": _TEXT, "flavour": _TEXT, "version": _TEXT, "precision": _TEXT,
        "gpus": schema.sequence(_TEXT, 0, 32),
        "profile": schema.mapping(_TEXT, schema.sequence(schema.integer(0, 1 << 20), 3, 3), 16),
    }
)  # fmt: skip
_SHAPES = schema.mapping(_TEXT, schema.sequence(schema.integer(-1, 1 << 24), 0, 8), 64)
_RECORD = schema.record(
    {
        "format": schema.integer(_FORMAT, _FORMAT), "key": _KEY,
        "bindings": schema.mapping(schema.choice("inputs", "outputs"), _SHAPES, 2),
        "sha256": _HASH, "size": schema.integer(0, 1 << 40), "seconds": schema.number(0, 1e9),
    }
)  # fmt: skip
PREFERRED = "fp16"  # whoever built half precision wants it used


@dataclass(frozen=True)
class EngineKey:
    """What an engine fits. gpus: such as sm86 (native TensorRT: `sm86 <name>`); profile: dimension -> least, usual and
    largest size.
    """

    graph: str
    graph_sha256: str
    flavour: str
    version: str
    gpus: tuple[str, ...]
    precision: str
    profile: Mapping[str, tuple[int, int, int]]

    @property
    def file_name(self) -> str:
        """Name of the engine's file, with the start of this key's hash."""
        text = json.dumps(asdict(self), sort_keys=True)
        suffix = INT8_SUFFIX if self.flavour == ONNXRUNTIME else SUFFIX
        return f"{Path(self.graph).stem}.{hashlib.sha256(text.encode()).hexdigest()[:12]}{suffix}"

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> EngineKey:
        """From a record; raises FileRefused when it is incomplete or says what no key can."""
        fields = _KEY(content, "key")
        profile = {name: tuple(sizes) for name, sizes in fields["profile"].items()}
        return cls(**fields | {"gpus": tuple(fields["gpus"]), "profile": profile})


@dataclass(frozen=True)
class Runtime:
    """The TensorRT and GPU of a machine (or its ONNX Runtime and processor): gpus are the names under which engines
    for it may be filed.
    """

    flavour: str
    version: str
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One engine file. problem is why it can never be used, '' if nothing is wrong with the files themselves.

    bindings: {'inputs' | 'outputs': {tensor: shape}}, where -1 is free; seconds: how long the build took.
    """

    path: Path
    key: EngineKey | None = None
    bindings: Mapping[str, Any] | None = None
    sha256: str = ""
    size: int = 0
    seconds: float = 0.0
    problem: str = ""

    def refuse(self, graph: Path, here: Runtime | None = None) -> str:
        """Why this engine must not run `graph` on `here` (leave out where only the files matter); '' if it may."""
        if self.problem or self.key is None:
            return self.problem
        if not self.path.is_file():
            return "is no file"
        size = self.path.stat().st_size
        if size != self.size:
            return f"is cut short or changed: {size} bytes, its record says {self.size}"
        if sha256_of(self.path) != self.sha256:
            return "is damaged: its sha256 is not its record's"
        if not graph.is_file() or sha256_of(graph) != self.key.graph_sha256:
            return f"is stale: it was built from another {graph.name}"
        if here is None:
            return ""
        if self.key.flavour != here.flavour:
            return f"is foreign: built by {self.key.flavour}, this machine has {here.flavour}"
        if self.key.version != here.version:
            return f"is stale: built by {here.flavour} {self.key.version}, this machine has {here.version}"
        if not set(self.key.gpus) & set(here.gpus):
            what = "processor" if here.flavour == ONNXRUNTIME else "GPU"
            return f"is foreign: built for {', '.join(self.key.gpus)}, this {what} is {here.gpus[0]}"
        return ""


def write(folder: Path, key: EngineKey, plan: bytes, bindings: Mapping[str, Any], seconds: float) -> Path:
    """Store an engine and its record; whoever reads meanwhile sees the old ones, the new ones, or a clear mismatch."""
    path = folder / key.file_name
    record = {
        "format": _FORMAT, "key": asdict(key), "bindings": bindings, "size": len(plan),
        "sha256": hashlib.sha256(plan).hexdigest(), "seconds": round(seconds, 2),
    }  # fmt: skip
    with locked(folder):
        write_whole(path, plan)
        write_whole(_record_of(path), json.dumps(record, indent=1).encode())
    return path


def entries(folder: Path, suffixes: Sequence[str] = (SUFFIX, INT8_SUFFIX)) -> list[Entry]:
    """All engines in a bundle's folder, by name; what is wrong with a record is in its entry's problem."""
    return [_entry(path) for suffix in suffixes for path in sorted(folder.glob(f"*{suffix}"))]


def find(folder: Path, graph: Path, here: Runtime, command: str) -> Entry:
    """The engine of a graph for this machine, half precision first.

    Raises StageError with what is wrong with the one there is, and `command`, which builds it.
    """
    found = _fitting(folder, graph, here, command, SUFFIX)
    if not found:
        raise StageError(f"{graph.name} has no engine for {here.gpus[0]}; run `{command}`")
    return min(found, key=lambda entry: entry.key.precision != PREFERRED)


def find_int8(folder: Path, graph: Path, here: Runtime, command: str) -> Entry | None:
    """The quantized form of a graph, if there is one. Raises StageError, as `find`, where none that is there fits."""
    return next(iter(_fitting(folder, graph, here, command, INT8_SUFFIX)), None)


def _fitting(folder: Path, graph: Path, here: Runtime, command: str, suffix: str) -> list[Entry]:
    own = [entry for entry in entries(folder, [suffix]) if entry.path.name.startswith(f"{graph.stem}.")]
    refusals = [entry.refuse(graph, here) for entry in own]
    found = [entry for entry, refusal in zip(own, refusals, strict=True) if not refusal]
    if own and not found:
        newest = max(range(len(own)), key=lambda i: own[i].path.lstat().st_mtime)  # a link may lead nowhere
        raise StageError(f"{own[newest].path.name} {refusals[newest]}; run `{command}`")
    return found


def prune(folder: Path, graphs: Mapping[str, Path], here: Sequence[Runtime]) -> list[Path]:
    """Remove engines (and records) that no graph of the bundle can use, and those of other versions of what is `here`.

    Engines for other GPUs stay. Returns what was removed.
    """
    versions = {runtime.flavour: runtime.version for runtime in here}
    removed: list[Path] = []
    with locked(folder):
        for entry in entries(folder):
            graph = graphs.get(entry.key.graph) if entry.key else None
            old = bool(entry.key and versions.get(entry.key.flavour, entry.key.version) != entry.key.version)
            if graph is None or old or entry.refuse(graph):
                removed += [path for path in _files_of(entry.path) if path.exists()]
        for suffix in (SUFFIX, INT8_SUFFIX):
            orphans = folder.glob(f"*{suffix}.json")
            removed += [path for path in orphans if not path.with_suffix("").exists() and path not in removed]
            removed += folder.glob(f".*{suffix}*.tmp")
        for path in removed:
            path.unlink()
    return removed


def remove(folder: Path, key: EngineKey) -> None:
    """Take away the engine of a key, if it is there."""
    path = folder / key.file_name
    with locked(folder):
        for part in _files_of(path):
            part.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for oneself among processes that build or prune."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _entry(path: Path) -> Entry:
    record = _record_of(path)
    if not record.is_file():
        return Entry(path, problem=f"was renamed or left unfinished: {record.name} is missing")
    try:
        content = _RECORD(read_json(record, _MOST_RECORD), "")
        key = EngineKey.from_json(content["key"])
    except (FileRefused, OSError) as error:
        return Entry(path, problem=f"has a damaged record (it {one_line(error)})")
    stored = {name: content[name] for name in ("bindings", "sha256", "size", "seconds")}
    if key.file_name != path.name:
        return Entry(path, key, problem=f"was renamed: its record says it is {key.file_name}, made of {key.graph}")
    return Entry(path, key, **stored)


def _files_of(path: Path) -> tuple[Path, ...]:
    return path, _record_of(path), kernels_of(path)


def kernels_of(path: Path) -> Path:
    """Where the kernels that TensorRT-RTX compiled for an engine, on the machine that runs it, are kept."""
    return path.with_name(f"{path.name}.kernels")


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file at once: readers see the old content or the new. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
