"""A dataset's folder: which parts are done, and how a part becomes one of them exactly once.

    dataset.json            what the rows are made with
    manifest.jsonl          a line a part that is done
    faces/part=KEY/         its rows; failures/part=KEY/: what of it could not be read
    tmp/                    files that workers are writing

Only the process that holds the lock moves files out of tmp/ and appends to the manifest, in this order. So whatever was
killed, a file outside tmp/ that no line names is of a part that is not done, and is removed at the next start.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from ofer_models.dataset.parts import Part
from ofer_models.dataset.sources import PICTURE, Source
from ofer_models.files.documents import read_json
from ofer_models.files.refusal import FileRefused

FACES, FAILURES = "faces", "failures"
_ABOUT, _MANIFEST, _LOCK, _TMP = "dataset.json", "manifest.jsonl", ".lock", "tmp"
_MOST_ABOUT = 1 << 20
_FILE = "0.parquet"
_OWED = "owed"  # of a part that was taken back: its pictures that are to be done again
_NOTHING_DONE = {
    "sources": {}, "frames": 0, "faces": 0, "failures": 0, f"{FACES}_file": False, f"{FAILURES}_file": False,
}  # fmt: skip


class DatasetError(ValueError):
    """A dataset cannot be used as was asked; one line says why."""


@dataclass(frozen=True)
class PartResult:
    """What a worker made of a part: its files in tmp/ ('' where there is no row), counts, and processor time in s."""

    faces_file: str
    failures_file: str
    frames: int
    faces: int
    failures: int
    seconds: float


class DatasetStore:
    """A dataset that is written to. One process at a time: close it, or leave its `with` block."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        """about: what the rows are made with, of plain types. Raises DatasetError where the folder holds something
        else, or rows that were made otherwise, or is written to by another process; OSError."""
        self.folder = folder
        if folder.is_dir() and not (folder / _ABOUT).exists() and any(one.name != _LOCK for one in folder.iterdir()):
            raise DatasetError(f"{folder} is not empty and no dataset: give another folder for --out")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise DatasetError(f"{folder} is being written to by another process: wait for it, or stop it") from None
        try:
            self._check_about(about)
            self._entries = self._read_manifest()
            self._clean()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> DatasetStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        shutil.rmtree(self.tmp, ignore_errors=True)
        self._lock.close()

    @property
    def tmp(self) -> Path:
        """Where workers write."""
        return self.folder / _TMP

    def totals(self) -> dict[str, int]:
        """Counts over all parts that are done: sources, frames, faces, failures."""
        entries = self._entries.values()
        counts = {name: sum(entry[name] for entry in entries) for name in ("frames", "faces", "failures")}
        return {"sources": sum(len(entry["sources"]) for entry in entries), **counts}

    def pending(self, sources: Iterable[Source]) -> list[Source]:
        """Those that are not done. Parts one of whose sources has changed since are taken back as a whole, and those of
        their pictures that are not given here are owed: now, and after a kill until they are done."""
        done = {address: key for key, entry in self._entries.items() for address in entry["sources"]}
        given = {source.address: source for source in sources}
        stale = {
            done[address] for address, source in given.items()
            if address in done and self._entries[done[address]]["sources"][address] != source.version
        }  # fmt: skip
        for key in stale:
            owed = {one: version for one, version in self._entries[key]["sources"].items() if one not in given}
            self._entries[key] = _NOTHING_DONE | {"part": key, _OWED: owed}
        if stale:
            self._rewrite()
            self._clean()
        owed = {one: version for entry in self._entries.values() for one, version in entry.get(_OWED, {}).items()}
        left = [source for address, source in given.items() if done.get(address) in stale | {None}]
        return left + [
            Source(address, PICTURE, 0, version) for address, version in owed.items()
            if address not in given and done.get(address) in stale | {None}
        ]  # fmt: skip

    def commit(self, part: Part, result: PartResult) -> None:
        """Make the rows of a part, which its worker has written, part of the dataset. Raises OSError."""
        for kind, name in ((FACES, result.faces_file), (FAILURES, result.failures_file)):
            if name:
                target = self._target(kind, part.key)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self.tmp / name, target)
                _sync(target.parent)
        entry = asdict(result) | {"part": part.key, "sources": {one.address: one.version for one in part.sources}}
        entry[FACES + "_file"], entry[FAILURES + "_file"] = bool(result.faces_file), bool(result.failures_file)
        with (self.folder / _MANIFEST).open("a") as file:
            _append(file, [entry])
        self._entries[part.key] = entry

    def _target(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"part={key}" / _FILE

    def _check_about(self, about: dict[str, Any]) -> None:
        path = self.folder / _ABOUT
        if not path.exists():
            part = path.with_suffix(".part")
            part.write_text(json.dumps(about, indent=1))
            part.replace(path)
            return
        there = read_about(self.folder)
        for name in sorted(about.keys() | there.keys()):
            if about.get(name) != there.get(name):
                raise DatasetError(
                    f"{self.folder} holds rows made with {name} {there.get(name)}, not {about.get(name)}: give the "
                    "same again, or another folder for --out"
                )

    def _read_manifest(self) -> dict[str, dict[str, Any]]:
        path = self.folder / _MANIFEST
        entries: dict[str, dict[str, Any]] = {}
        lines = path.read_text().splitlines() if path.exists() else []
        for number, line in enumerate(lines):
            try:
                entry = json.loads(line)
                key = entry["part"]
                files = [kind for kind in (FACES, FAILURES) if entry[f"{kind}_file"]]
            except (ValueError, KeyError, TypeError):
                if number < len(lines) - 1:  # the last may have been broken off
                    raise DatasetError(f"{path} is damaged at line {number + 1}: remove the line") from None
                continue
            if all(self._target(kind, key).is_file() for kind in files):  # else somebody has taken the rows away
                entries[key] = entry
        if len(entries) != len(lines) or (lines and not path.read_text().endswith("\n")):
            self._entries = entries
            self._rewrite()
        return entries

    def _rewrite(self) -> None:
        path, part = self.folder / _MANIFEST, self.folder / (_MANIFEST + ".part")
        with part.open("w") as file:
            _append(file, self._entries.values())
        part.replace(path)
        _sync(self.folder)

    def _clean(self) -> None:
        """Remove what no line of the manifest names."""
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.tmp.mkdir()
        for kind in (FACES, FAILURES):
            folder = self.folder / kind
            folder.mkdir(exist_ok=True)
            for one in folder.glob("part=*"):
                entry = self._entries.get(one.name.removeprefix("part="))
                if entry is None or not entry[f"{kind}_file"]:
                    shutil.rmtree(one)


def is_dataset(folder: Path) -> bool:
    """Whether a folder is, or is becoming, a dataset."""
    return (folder / _ABOUT).is_file()


def read_about(folder: Path) -> dict[str, Any]:
    """What a dataset's rows are made with. Raises DatasetError for a folder that is none."""
    try:
        about = read_json(folder / _ABOUT, _MOST_ABOUT)
    except FileNotFoundError:
        raise DatasetError(f"{folder} is no dataset of `ofer reconstruct --ray`: it has no {_ABOUT}") from None
    except FileRefused as error:
        raise DatasetError(f"{folder / _ABOUT} {error}") from None
    if not isinstance(about, dict):
        raise DatasetError(f"{folder / _ABOUT} is no dataset's")
    return about


def _append(file: TextIO, entries: Iterable[dict[str, Any]]) -> None:
    file.writelines(json.dumps(entry) + "\n" for entry in entries)
    file.flush()
    os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Let renames in a folder outlive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
