"""What hostile files are made of, and small ones of the kinds that several loaders get."""

from __future__ import annotations

import builtins
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CANARY = Path("canary")  # set by the child
Case = Callable[[Path], Path]  # makes a file or folder in an empty one and returns what the loader is given


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self._reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self._reduced


def payload() -> Call:
    return Call(os.system, f"touch {CANARY}")


def evaluated() -> Call:
    return Call(builtins.eval, f"open({str(CANARY)!r}, 'w').close()")


def raw(name: str, content: bytes | Callable[[], bytes]) -> Case:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content() if callable(content) else content)
        return folder / name

    return make


def pickled(content: Callable[[], Any], protocol: int = 2, name: str = "model.pkl") -> Case:
    return raw(name, lambda: pickle.dumps(content(), protocol))


def shared(levels: int, width: int, bottom: Any = 1.0) -> list[Any]:
    """width ** levels numbers in levels * width entries."""
    value: Any = bottom
    for _ in range(levels):
        value = [value] * width
    return value


def torch_saved(content: Callable[[], Any], **options: Any) -> Case:
    def make(folder: Path) -> Path:
        import torch

        torch.save(content(), folder / "model.tar", **options)
        return folder / "model.tar"

    return make


def zipped(pickle_: bytes, method: int = zipfile.ZIP_STORED, **entries: bytes) -> Case:
    """An archive as torch makes them, with any pickle; a double underscore is a slash."""

    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "model.tar", "w", method) as archive:
            archive.writestr("archive/data.pkl", pickle_)
            for name, content in entries.items():
                archive.writestr(f"archive/{name.replace('__', '/')}", content)
        return folder / "model.tar"

    return make


def torch_module() -> Any:
    import torch

    return torch


def cut_short(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def patched(path: Path, after: bytes, offset: int, content: bytes) -> Path:
    whole = bytearray(path.read_bytes())
    at = whole.find(after) + offset
    whole[at : at + len(content)] = content
    path.write_bytes(whole)
    return path


def object_npy(content: Callable[[], Any]) -> Case:
    def make(folder: Path) -> Path:
        np.save(folder / "a.npy", np.array(content(), dtype=object), allow_pickle=True)
        return folder / "a.npy"

    return make


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b" " * (118 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(9 * ['*' + chr(97 + n)])}]\n" for n in range(8))  # fmt: skip


def parameters(**arrays: Any) -> Case:
    def make(folder: Path) -> Path:
        np.savez(folder / "p.npz", **arrays)
        return folder / "p.npz"

    return make


Loader = Callable[[Path], Any]
Kind = tuple[Loader, dict[str, Case]]  # a loader, and by name the files that it is tried on
