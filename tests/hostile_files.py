"""Files as nobody means well with: made by functions of a folder, and tried on the loader that would get them.

    python tests/hostile_files.py GROUP FOLDER CANARY [FIRST]

tries the cases of a group from number FIRST on, under limits of memory and time, and prints a line of JSON for each.
A payload that was run leaves the file CANARY.
"""

from __future__ import annotations

import builtins
import json
import os
import pickle
import resource
import signal
import sqlite3
import struct
import sys
import traceback
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
OPEN = ROOT / "engines" / "open"
MEMORY, SECONDS = 4 << 30, 20
CANARY = Path("canary")  # set by the child

Case = Callable[[Path], Path]  # makes a file or folder in an empty one and returns what the loader is given


class OutOfTime(BaseException):
    """A loader took longer than it may."""


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


def sparse(**state: Any) -> Any:
    from official_inputs import CscMatrix

    return CscMatrix(**state)


def python2(content: Callable[[], Any]) -> Case:
    from official_inputs import dump_python2

    return lambda folder: dump_python2(content(), folder / "model.pkl")


def select(**state: Any) -> Any:
    from official_inputs import Select

    return Select(**state)


def itself(kind: Callable[..., Any], field: str, **state: Any) -> Any:
    made = kind(**state)
    setattr(made, field, made)
    return made


_DTYPE = b"cnumpy\ndtype\n(U\x02f8K\x00K\x01tR"
_BAD_STATE = b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
_RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
PICKLES: dict[str, Case] = {
    "os.system": pickled(payload), "eval": pickled(evaluated), "protocol 0": pickled(payload, 0),
    "protocol 4": pickled(payload, 4), "in a field": pickled(lambda: {"f": payload(), "v_template": 1}),
    "in a set": pickled(lambda: {"f": [{"a": evaluated()}]}), "getattr": pickled(lambda: Call(getattr, dict, "get")),
    "importlib": pickled(lambda: Call(__import__, "os")), "an INST": raw("a", b"(S'touch x'\nios\nsystem\n."),
    "a dotted name": raw("a", b"\x80\x04\x8c\x05numpy\x8c\x07f2py.os\x93."),
    "a dtype's state": raw("a", b"\x80\x02}U\x01f" + _DTYPE + b"(K\x03U\x01<K\x01NNNNNtbs."),
    "a dtype of a structure": raw("a", b"\x80\x02}U\x01f" + _DTYPE + b"(K\x03U\x01<NU\x01a}NNNtbs."),
    "a dtype of a gigabyte": raw("a", b"cnumpy\ndtype\n(S'V2000000000'\ntR."),
    "many scalars of a gigabyte": raw("a", b"\x80\x02" + 6 * b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"
                                      b"(U\x0bV2000000000tR\x85R" + b"."),
    "state of ndarray's own": raw(
        "a", b"\x80\x02" + _RECONSTRUCT + b"(K\x01(J\xff\xff\xff\x7ftcnumpy\ndtype\n(U\x02f8tR\x89U\x00tb."),
    "negative shape": raw("a", b"\x80\x02" + _RECONSTRUCT + b"(K\x01J\xff\xff\xff\xff\x85" + _DTYPE + b"\x89U\x00tb."),
    "no array": pickled(lambda: {"f": "text"}), "objects": pickled(lambda: {"f": np.array([1, None], object)}),
    "lists of 1000^3": pickled(lambda: {"f": shared(3, 1000)}),
    "lists of 2^31": pickled(lambda: {"f": shared(31, 2)}),
    "empty lists of 1000^3": pickled(lambda: {"f": shared(3, 1000, [])}),
    "lists of arrays": pickled(lambda: {"f": [[np.zeros(1000)] * 1000] * 1000}),
    "a list that holds itself": raw("a", b"\x80\x02}U\x01f]q\x00h\x00as."),
    "200,000 brackets": raw("a", b"\x80\x02}U\x01f" + 200_000 * b"](" + b"s."),
    "a list 200,000 deep": raw("a", b"\x80\x02}U\x01f" + 200_000 * b"]" + 199_999 * b"a" + b"s."),
    "600,000 lists": raw("a", b"\x80\x02" + 600_000 * b"]" + b"."),
    "a key 200,000 deep": raw("a", b"\x80\x02})" + 200_000 * b"\x85" + b"Ns."),
    "a set of deep tuples": raw("a", b"\x80\x04\x8f()" + 200_000 * b"\x85" + b"\x90."),
    "a place of 2^31 in the memo": raw("a", b"\x80\x02]r\xff\xff\xff\x7f."),
    "a text of 2 GB that is not there": raw("a", b"\x80\x04\x8d" + struct.pack("<Q", 2 << 30) + b"x."),
    "bytes of 2^40 that are not there": raw("a", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x."),
    "a bytearray of 2^40": raw("a", b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x."),
    "a frame of 2^40": raw("a", b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"x."),
    "a number of 200,000 digits": raw("a", b"I" + 200_000 * b"9" + b"\n."),
    "a number of 200,000 bytes": raw("a", b"\x80\x02\x8b" + struct.pack("<i", 200_000) + 200_000 * b"\x7f" + b"."),
    "_codecs.encode 8000 times": raw(
        "a", b"\x80\x02X" + struct.pack("<I", 1 << 20) + (1 << 20) * b"a" + b"q\x00"
        + 8000 * b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" + b"."),
    "dict of a shared list": raw("a", b"\x80\x02](" + 50_000 * b"K\x01K\x02\x86" + b"eq\x00"
                                 + 3000 * b"ccollections\nOrderedDict\nh\x00\x85R" + b"."),
    "a matrix that is its own data": python2(lambda: {"f": itself(sparse, "data", _shape=(3, 3))}),
    "a matrix that is its own indices": python2(
        lambda: {"f": itself(sparse, "indices", _shape=(3, 3), data=np.ones(1))}),
    "indptr from -4e9": python2(lambda: {"f": sparse(
        _shape=(2, 1), data=np.ones(1), indices=np.zeros(1, int), indptr=np.array([-4_000_000_000, 1]))}),
    "a matrix of 1e9 x 1e9": python2(lambda: {"f": sparse(
        _shape=(10**9, 10**9), data=np.ones(0), indices=np.zeros(0, int), indptr=np.zeros(2, int))}),
    "a matrix of no shape": python2(lambda: {"f": sparse(_shape="12", data=np.ones(1))}),
    "a selection of itself": python2(lambda: {"f": itself(select, "a", idxs=np.zeros(1, int))}),
    "a selection outside": python2(lambda: {"f": select(a=np.ones(3), idxs=np.array([7]))}),
    "a persistent id": raw("a", b"Pfile\n."), "an extension": raw("a", b"\x80\x02\x82\x01."),
    "nothing": raw("a", b""), "a web page": raw("a", b"<html>quota</html>"), "zeros": raw("a", bytes(1000)),
    "random": raw("a", np.random.default_rng(0).bytes(10_000)), "only STOP": raw("a", b"."),
    "a pop too many": raw("a", b"00000."), "no mark": raw("a", b"\x80\x02K\x01t."),
}  # fmt: skip


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


def _tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, count: int = 4) -> bytes:
    """A pickle of one tensor in storage 0."""
    numbers = [b"(" + b"".join(b"J" + struct.pack("<i", n) if abs(n) < 2**31 else b"\x8a\x08" + struct.pack("<q", n)
                               for n in part) + b"t" for part in (size, stride)]  # fmt: skip
    stored = (b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ"
              + struct.pack("<i", count) + b"tQ")  # fmt: skip
    return (b"\x80\x02}X\x03\x00\x00\x00net}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(" + stored + b"J"
            + struct.pack("<i", offset) + b"".join(numbers) + b"\x89ccollections\nOrderedDict\n)RtRss.")  # fmt: skip


def _bomb(folder: Path) -> Path:
    """Ten gigabytes in an archive of ten megabytes."""
    with zipfile.ZipFile(folder / "model.tar", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", _tensor((4,), (1,)))
        with archive.open("archive/data/0", "w", force_zip64=True) as entry:
            for _ in range(16):
                entry.write(bytes(1 << 24))
    content = bytearray((folder / "model.tar").read_bytes())
    at = content.rfind(b"PK\1\2")
    content[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)  # told larger still
    (folder / "model.tar").write_bytes(content)
    return folder / "model.tar"


def _entries(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "model.tar", "w") as archive:
        for number in range(60_000):
            archive.writestr(f"archive/data/{number}{'x' * 60}", b"")
    return folder / "model.tar"


CHECKPOINTS: dict[str, Case] = {
    "os.system": torch_saved(lambda: {"net": payload()}), "eval": torch_saved(lambda: {"net": {"a": evaluated()}}),
    "os.system, old format": torch_saved(lambda: {"net": payload()}, _use_new_zipfile_serialization=False),
    "a plain pickle": pickled(lambda: {"net": payload()}, name="model.tar"),
    "the 93 bytes": zipped(b"\x80\x02" + _DTYPE + _BAD_STATE + b"."),
    "a dtype's state in a scalar": zipped(b"\x80\x02cnumpy.core.multiarray\nscalar\n" + _DTYPE
                                          + b"(K\x03U\x01<K\x01NNNNNtb\x85R."),
    "six scalars of 2 GB": zipped(b"\x80\x02" + 6 * b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"
                                  b"(U\x0bV2000000000tR\x85R" + b"."),
    "a stride of zero": zipped(_tensor((100_000, 1_000_000), (0, 0)), data__0=bytes(16)),
    "a tensor outside its storage": zipped(_tensor((4,), (1,), 3), data__0=bytes(16)),
    "a negative offset": zipped(_tensor((4,), (1,), -1), data__0=bytes(16)),
    "a negative stride": zipped(_tensor((4,), (-1,)), data__0=bytes(16)),
    "a storage of another size": zipped(_tensor((4,), (1,), count=400), data__0=bytes(16)),
    "no storage": zipped(_tensor((4,), (1,))), "no state dict": zipped(_tensor((4,), (1,)), data__0=bytes(16)),
    "a storage beside the file": zipped(_tensor((4,), (1,)).replace(b"\x01\x00\x00\x000", b"\x04\x00\x00\x00../x")),
    "a meta tensor": torch_saved(lambda: {"net": {"w": _torch().empty(10**6, 10**5, device="meta")}}),
    "a sparse tensor": torch_saved(lambda: {"net": {"w": _torch().eye(3).to_sparse()}}),
    "an expanded tensor": torch_saved(lambda: {"net": {"w": _torch().zeros(1).expand(10**11)}, "arcface": {}}),
    "a quantized tensor": torch_saved(lambda: {"net": {"w": _torch().quantize_per_tensor(
        _torch().ones(3), 0.1, 0, _torch().qint8)}}),
    "a network": torch_saved(lambda: _torch().nn.Linear(2, 2)), "a list": torch_saved(lambda: [1, 2]),
    "a number": torch_saved(lambda: 3), "names that are numbers": torch_saved(lambda: {"net": {3: _torch().ones(1)}}),
    "an OrderedDict with a get of its own": zipped(
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x03\x00\x00\x00getcposix\nsystem\nsb."),
    "not finite": torch_saved(lambda: {"net": {"init_conv.weight": _torch().full((6, 6, 1), float("nan"))}}),
    "a compressed pickle": zipped(b"\x80\x02}.", zipfile.ZIP_DEFLATED), "a bomb": _bomb, "60,000 entries": _entries,
    "cut short": lambda folder: _cut(torch_saved(lambda: {"net": {"w": _torch().ones(1000)}})(folder), 0.6),
    "cut short, old format": lambda folder: _cut(torch_saved(
        lambda: {"net": {"w": _torch().ones(1000)}}, _use_new_zipfile_serialization=False)(folder), 0.8),
    "a directory that lies": lambda folder: _patched(zipped(b"\x80\x02}.")(folder), b"PK\1\2", 42, b"\xff\xff\xff\x7f"),
    "nothing": raw("model.tar", b""), "a web page": raw("model.tar", b"<!DOCTYPE html><html>"),
    "only a beginning": raw("model.tar", b"PK\3\4"), "random": raw("model.tar", np.random.default_rng(1).bytes(5000)),
    "an end without a directory": raw("model.tar", b"PK\3\4" + b"PK\5\6" + 18 * b"\xff"),
    "a folder": lambda folder: folder,
}  # fmt: skip


def _torch() -> Any:
    import torch

    return torch


def _cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def _patched(path: Path, after: bytes, offset: int, content: bytes) -> Path:
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


NPYS: dict[str, Case] = {
    "os.system": object_npy(lambda: {"a": payload()}), "objects": object_npy(lambda: [1, None, "x"]),
    "a hostile storage": object_npy(lambda: {"t": Call(
        _torch().storage._load_from_bytes, pickle.dumps(payload()))}),
    "a header that is a call": raw("a.npy", npy("__import__('os').system('x')")),
    "1e15 numbers": raw("a.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000000), }")),
    "a structure": raw("a.npy", npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }", bytes(8))),
    "a shape of text": raw("a.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': ('x',), }")),
    "a header of 20,000 brackets": raw("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 40_000) + 40_000 * b"("),
    "nothing": raw("a.npy", b""), "no numbers": raw("a.npy", b"\x93NUMPY\x09\x00aa"),
}  # fmt: skip


def npz(changes: Callable[[dict[str, np.ndarray]], Any], method: int = zipfile.ZIP_STORED) -> Case:
    """A small head model, changed."""

    def make(folder: Path) -> Path:
        from test_bundle import tiny_head

        arrays = tiny_head()
        changes(arrays)
        (np.savez if method == zipfile.ZIP_STORED else np.savez_compressed)(folder / "head.npz", **arrays)
        return folder / "head.npz"

    return make


def npz_of(method: int = zipfile.ZIP_DEFLATED, **entries: bytes) -> Case:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "head.npz", "w", method) as archive:
            for name, content in entries.items():
                archive.writestr(f"{name}.npy", content)
        return folder / "head.npz"

    return make


_NINE_GB = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1200000000,), }", bytes(1 << 20))
HEADS: dict[str, Case] = {
    "an extra array": npz(lambda a: a.update(surprise=np.zeros(3))),
    "an extra array of 9 GB": npz_of(mask_face=_NINE_GB), "an unknown array of 9 GB": npz_of(surprise=_NINE_GB),
    "zeros that unpack to 400 MB": npz(lambda a: a.update(mask_x=np.zeros(50_000_000, np.int64)), zipfile.ZIP_DEFLATED),
    "objects": npz(lambda a: a.update(faces=np.array([payload()], object))),
    "a missing array": npz(lambda a: a.pop("faces")), "text for numbers": npz(lambda a: a.update(
        v_template=np.full((4, 3), "x"))),
    "not finite": npz(lambda a: a.update(shapedirs=np.full((4, 3, 5), np.inf))),
    "triangles outside": npz(lambda a: a.update(faces=np.array([[0, 1, 9]]))),
    "joints in a circle": npz(lambda a: a.update(kintree_table=np.array([[-1, 2, 1, 1, 1], range(5)]))),
    "another shape": npz(lambda a: a.update(posedirs=np.zeros((3, 12)))),
    "no dimensions": npz(lambda a: a.update(v_template=np.float64(1))),
    "a mask outside": npz(lambda a: a.update(mask_face=np.array([400]))),
    "a mask of floats": npz(lambda a: a.update(mask_face=np.array([0.5]))),
    "a pitch that is a list": npz(lambda a: a.update(jaw_open_angle=np.zeros(3))),
    "landmarks without weights": npz(lambda a: a.update(now7_triangle=np.zeros(7, int))),
    "no array in it": lambda folder: _renamed(zipped(b"x")(folder), "head.npz"),
    "two entries of one name": lambda folder: _twice(folder), "nothing": raw("head.npz", b""),
    "random": raw("head.npz", np.random.default_rng(2).bytes(3000)), "no file": lambda folder: folder / "head.npz",
    "a folder": lambda folder: folder, "a header of its own": npz_of(faces=npy("{'descr': 'O'}")),
}  # fmt: skip


def _renamed(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


def _twice(folder: Path) -> Path:
    import warnings

    with zipfile.ZipFile(folder / "head.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("faces.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (0,), }"))
    return folder / "head.npz"


def bundle(change: Callable[[Path, dict[str, Any]], Any]) -> Case:
    """A bundle that is whole as far as its manifest tells, changed; text that is returned becomes the manifest."""

    def make(folder: Path) -> Path:
        import test_bundle

        from ofer_models.files.hashing import sha256_of

        inside = folder / "bundle"
        inside.mkdir()
        np.savez(inside / "head.npz", **test_bundle.tiny_head())
        stages = test_bundle.stage_entries()
        for entry in stages.values():
            for file in entry["files"].values():
                (inside / file).write_bytes(b"a graph")
        files = {path.name: {"sha256": sha256_of(path), "origin": "a test", "licence": "CC0-1.0",
                             "commercial_use": True} for path in inside.iterdir()}  # fmt: skip
        document = {"format": 1, "name": "tiny", "version": "1", "n_shape": 3, "n_expression": 2, "candidates": 7,
                    "hypotheses": 5, "expression_range": [0.0, 1.0], "stages": stages, "files": files}  # fmt: skip
        text = change(inside, document)
        (inside / "manifest.yaml").write_text(text if isinstance(text, str) else yaml.safe_dump(document))
        return inside

    return make


def setting(**values: Any) -> Case:
    return bundle(lambda folder, document: document.update(values) and None)


def _outside(folder: Path, document: dict[str, Any], name: str) -> None:
    """IdRank's graph elsewhere, with a hash that is right."""
    from ofer_models.files.hashing import sha256_of

    target = Path(name.format(folder.parent)) if "{" in name else folder / name
    target.parent.mkdir(exist_ok=True)
    (folder / "idrank.onnx").rename(target)
    document["stages"]["idrank"]["files"]["graph"] = name.format(folder.parent)
    document["files"][name.format(folder.parent)] = document["files"].pop("idrank.onnx")
    assert sha256_of(target) == document["files"][name.format(folder.parent)]["sha256"]


def _linked(folder: Path, document: dict[str, Any]) -> None:
    (folder / "idrank.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "idrank.onnx").symlink_to(folder.parent / "elsewhere.onnx")


_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(9 * ['*' + chr(97 + n)])}]\n" for n in range(8))  # fmt: skip
BUNDLES: dict[str, Case] = {
    "billion laughs": bundle(lambda *_: f"format: 1\n{_LAUGHS}"), "20,000 brackets": bundle(lambda *_: 20_000 * "["),
    "20,000 braces": bundle(lambda *_: 20_000 * "{a: "), "20,000 dashes": bundle(lambda *_: 20_000 * "- "),
    "2 MB of spaces": bundle(lambda *_: (2 << 20) * " "), "no YAML": bundle(lambda *_: "{]"),
    "a tag that calls": bundle(lambda *_: f"!!python/object/apply:os.system ['touch {CANARY}']"),
    "a number of 10,000 digits": bundle(lambda *_: f"format: {10_000 * '9'}"), "a list": bundle(lambda *_: "[1]"),
    "hypotheses: .inf": setting(hypotheses=float("inf")), "candidates: -3": setting(candidates=-3),
    "candidates: 1e9": setting(candidates=10**9), "candidates: yes": setting(candidates=True),
    "integer keys": setting(**{"stages": {1: 2}}), "n_shape of text": setting(n_shape="many"),
    "a name of lines": setting(name="a\nb\x1b[2J"), "jaw_scale: .nan": setting(jaw_scale=float("nan")),
    "a range of one": setting(expression_range=[1.0]), "same_face of three": setting(same_face=[1, 0.5, 0]),
    "an unknown field": setting(candidate=3), "another format": setting(format=9), "no files": setting(files={}),
    "files of text": setting(files="x"), "stages of null": setting(stages=None),
    "a hash of another length": bundle(lambda f, d: d["files"]["idrank.onnx"].update(sha256="00")),
    "steps: 1e12": bundle(lambda f, d: d["stages"]["idgen"].update(steps=10**12)),
    "temperature: -1": bundle(lambda f, d: d["stages"]["idgen"].update(temperature=-1)),
    "a mean of text": bundle(lambda f, d: d["stages"]["idgen"]["coefficients"].update(mean=["x"])),
    "unequal coefficients": bundle(lambda f, d: d["stages"]["idgen"]["coefficients"].update(mean=[0.0])),
    "a shape of -1": bundle(lambda f, d: d["stages"]["idgen"]["inputs"].update(noise=["F", -1])),
    "a graph outside": bundle(lambda f, d: _outside(f, d, "../outside/idrank.onnx")),
    "a graph anywhere": bundle(lambda f, d: _outside(f, d, "{}/idrank.onnx")), "a link outside": bundle(_linked),
    "a changed graph": bundle(lambda f, d: (f / "idrank.onnx").write_text("other") and None),
    "a graph that is a folder": bundle(
        lambda f, d: [(f / "idrank.onnx").unlink(), (f / "idrank.onnx").mkdir()] and None),
    "no such folder": lambda folder: folder / "bundle",
}  # fmt: skip


def graph(external: str = "", dims: int = 3) -> bytes:
    """One initializer in a graph, outside of the file if a name is given."""
    onnx = __import__("onnx")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[dims])
    if external:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=external))
    else:
        tensor.raw_data = bytes(4 * min(dims, 3))
    value = onnx.helper.make_tensor_value_info("y", 1, [dims])
    made = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [], [value], [tensor])
    model = onnx.helper.make_model(made, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    return model.SerializeToString()


GRAPHS: dict[str, Case] = {
    "nothing": raw("g.onnx", b""), "random": raw("g.onnx", np.random.default_rng(3).bytes(5000)),
    "text": raw("g.onnx", b"a graph"), "weights elsewhere": raw("g.onnx", lambda: graph("../x.bin")),
    "weights anywhere": raw("g.onnx", lambda: graph("/etc/passwd")),
    "weights missing": raw("g.onnx", lambda: graph("x")),
    "weights of 4 GB": raw("g.onnx", lambda: graph(dims=1 << 30)), "cut short": raw("g.onnx", lambda: graph()[:-9]),
    "a length of 2^60": raw("g.onnx", b"\x3a" + 8 * b"\xff" + b"\x0f"), "a graph in itself": raw(
        "g.onnx", 3000 * b"\x3a\x7f" + bytes(400)), "an endless number": raw("g.onnx", 1000 * b"\xff"),
}  # fmt: skip


def engine(record: Callable[[dict[str, Any]], Any], plan: bytes = b"plan", name: str = "") -> Case:
    """An engine beside a graph, with its record changed; text that is returned becomes the record."""

    def make(folder: Path) -> Path:
        from ofer_models.files.hashing import sha256_of
        from ofer_models.runtime import engine_cache

        (folder / "g.onnx").write_bytes(b"a graph")
        key = engine_cache.EngineKey("g.onnx", sha256_of(folder / "g.onnx"), "tensorrt_rtx", "1.2", ("sm86",), "fp16",
                                     {"F": (1, 1, 4)})  # fmt: skip
        path = engine_cache.write(folder, key, b"plan", {"inputs": {}, "outputs": {}}, 1.0)
        beside = path.with_name(f"{path.name}.json")
        content = json.loads(beside.read_text())
        text = record(content)
        beside.write_text(text if isinstance(text, str) else json.dumps(content))
        path.write_bytes(plan)
        return folder

    return make


ENGINES: dict[str, Case] = {
    "100,000 brackets": engine(lambda _: 100_000 * "["), "100,000 objects": engine(lambda _: 100_000 * '{"a":'),
    "no JSON": engine(lambda _: "{]"), "a list": engine(lambda _: "[]"), "empty": engine(lambda _: " "),
    "2 MB": engine(lambda _: (2 << 20) * " "), "no key": engine(lambda r: r.pop("key") and None),
    "a key of numbers": engine(lambda r: r.update(key=3)), "a size of text": engine(lambda r: r.update(size="x")),
    "a graph elsewhere": engine(lambda r: r["key"].update(graph="../../g.onnx")),
    "a profile of text": engine(lambda r: r["key"].update(profile={"F": "abc"})),
    "another format": engine(lambda r: r.update(format=7)), "binary": engine(lambda _: "\x00\x01"),
    "a number without end": engine(lambda _: '{"format": ' + 10_000 * "9" + "}"),
    "garbage of the right size": engine(lambda _: None, b"nalp"), "garbage": engine(lambda _: None, bytes(1000)),
}  # fmt: skip


def shard(change: Callable[[dict[str, np.ndarray]], Any]) -> Case:
    def make(folder: Path) -> Path:
        arrays: dict[str, Any] = {
            "landmarks": np.zeros((2, 478, 6), np.float16), "crop": np.zeros((2, 112, 112, 3), np.uint8),
            "betas": np.zeros((2, 3)), "expression": np.zeros((2, 2)), "jaw": np.zeros((2, 3)),
            "occlusion": np.zeros(2), "visible": np.zeros((2, 1), np.uint8), "covered": np.zeros((2, 1), np.uint8),
            "index": np.arange(2), "drawn": np.int64(2),
        }  # fmt: skip
        change(arrays)
        np.savez(folder / "0000000.npz", **arrays)
        return folder

    return make


SHARDS: dict[str, Case] = {
    "objects": shard(lambda a: a.update(betas=np.array([payload(), 1], object))),
    "a missing column": shard(lambda a: a.pop("crop")),
    "a short column": shard(lambda a: a.update(jaw=np.zeros((1, 3)))),
    "text": shard(lambda a: a.update(betas=np.full((2, 3), "x"))),
    "an unknown array": shard(lambda a: a.update(x=np.zeros(2))),
    "no rows at all": shard(lambda a: a.update({k: v[:0] for k, v in a.items() if k != "drawn"})),
    "a scalar column": shard(lambda a: a.update(index=np.int64(3))), "garbage": lambda folder: raw(
        "0000000.npz", b"PK nothing")(folder).parent,
    "an empty file": lambda folder: raw("0000000.npz", b"")(folder).parent,
    "an empty folder": lambda folder: folder,
}  # fmt: skip
_STATE = ("plan", "step", "running", "best_loss", "rows", "network", "average", "best", "optimiser", "optimizer",
          "rate", "batches", "noise", "torch", "cuda")  # fmt: skip
RESUMES: dict[str, Case] = {
    "a payload": torch_saved(lambda: {"plan": payload()}), "garbage": raw("model.tar", b"garbage"),
    "empty": raw("model.tar", b""), "a list": torch_saved(lambda: [1]), "no plan": torch_saved(lambda: {"step": 3}),
    "a plan that is a list": torch_saved(lambda: {name: [] for name in _STATE}),
    "another plan": torch_saved(lambda: {name: [] for name in _STATE} | {"plan": {"seed": 2}}),
}  # fmt: skip


def flame(change: Callable[[dict[str, Any]], Any]) -> Case:
    """FLAME's pickle, small, changed."""

    def make(folder: Path) -> Path:
        from official_inputs import flame_arrays

        arrays: dict[str, Any] = flame_arrays(12)
        change(arrays)
        (folder / "generic_model.pkl").write_bytes(pickle.dumps(arrays, 2))
        return folder / "generic_model.pkl"

    return make


FLAMES: dict[str, Case] = {
    "a missing field": flame(lambda a: a.pop("weights")),
    "a scalar": flame(lambda a: a.update(v_template=np.float64(1))),
    "a triangle outside": flame(lambda a: a.update(f=np.array([[0, 1, 4000]]))), "no triangles": flame(
        lambda a: a.update(f=np.zeros((0, 3), int))), "a scalar triangle": flame(lambda a: a.update(f=np.int64(3))),
    "not finite": flame(lambda a: a["shapedirs"].fill(np.nan)), "complex": flame(lambda a: a.update(
        weights=a["weights"] * 1j)), "another shape": flame(lambda a: a.update(posedirs=np.zeros((3, 3)))),
    "text": flame(lambda a: a.update(v_template="x")), "a list of lists of 1e9": flame(
        lambda a: a.update(shapedirs=shared(3, 1000))), "a payload": flame(lambda a: a.update(J=payload())),
    "a dictionary in a field": flame(lambda a: a.update(f={"a": 1})), "a list": pickled(lambda: [1, 2]),
    "a web page": raw("generic_model.pkl", b"<html>sign in</html>"), "no file": lambda folder: folder / "x.pkl",
}  # fmt: skip
_TABLES = {"lmk_face_idx": np.zeros(3, int), "lmk_b_coords": np.full((3, 3), 1 / 3), "landmark_indices": np.arange(3)}
MEDIAPIPES: dict[str, Case] = {
    "a triangle of -1": lambda f: parameters(**_TABLES | {"lmk_face_idx": np.full(3, -1)})(f),
    "a point of 468": lambda f: parameters(**_TABLES | {"landmark_indices": np.full(3, 468)})(f),
    "weights of NaN": lambda f: parameters(**_TABLES | {"lmk_b_coords": np.full((3, 3), np.nan)})(f),
    "a scalar": lambda f: parameters(**_TABLES | {"lmk_face_idx": np.int64(1)})(f),
    "no landmarks": lambda f: parameters(**{name: array[:0] for name, array in _TABLES.items()})(f),
    "objects": lambda f: parameters(**_TABLES | {"lmk_face_idx": np.array([payload()] * 3, object)})(f),
    "nothing": lambda f: parameters()(f),
}  # fmt: skip


def listing(content: Callable[[], Any]) -> Case:
    """A list of actors as MICA keeps them."""

    def make(folder: Path) -> Path:
        (folder / "image_paths" / "a").mkdir(parents=True)
        np.save(folder / "image_paths" / "a" / "SET.npy", np.array(content(), dtype=object), allow_pickle=True)
        return folder

    return make


LISTINGS: dict[str, Case] = {
    "a payload": listing(lambda: {"actor": payload()}), "a number": listing(lambda: {"actor": 3}),
    "one of a pair": listing(lambda: {"actor": ["a.npz"]}),
    "actors of numbers": listing(lambda: {3: ["a.npz", ["b"]]}),
    "a file outside": listing(lambda: {"actor": ["../../a.npz", ["b.jpg"]]}),
    "a picture anywhere": listing(lambda: {"actor": ["a.npz", ["/etc/passwd"]]}),
    "no parameters": listing(lambda: {"actor": ["a.npz", ["b.jpg"]]}), "a list": listing(lambda: 3),
    "pictures of numbers": listing(lambda: {"actor": ["a.npz", [1, 2]]}), "nothing": lambda folder: folder,
}  # fmt: skip
NOISES: dict[str, Case] = {
    "another array": lambda f: parameters(start=np.zeros((2, 3)), added=np.zeros((1, 2, 3)), more=np.zeros(1))(f),
    "one alone": lambda f: parameters(start=np.zeros((2, 3)))(f), "whole numbers": lambda f: parameters(
        start=np.zeros((2, 3), int), added=np.zeros((1, 2, 3), int))(f),
    "shapes that differ": lambda f: parameters(start=np.zeros((2, 3)), added=np.zeros((1, 3, 3)))(f),
    "scalars": lambda f: parameters(start=np.float64(1), added=np.float64(1))(f), "nothing": raw("n.npz", b""),
}  # fmt: skip


def parameters(**arrays: Any) -> Case:
    def make(folder: Path) -> Path:
        np.savez(folder / "p.npz", **arrays)
        return folder / "p.npz"

    return make


PARAMETERS: dict[str, Case] = {
    "objects": lambda folder: parameters(shape=np.array([payload()], object))(folder),
    "text": parameters(shape=np.array(["x"])), "too short": parameters(shape=np.zeros(1)), "nothing": parameters(),
    "not finite": parameters(shape=np.full(400, np.nan)),
    "a pose of 7": parameters(shape=np.zeros(400), pose=np.zeros(7)),
    "a payload": object_npy(lambda: {"shape": payload()}), "no dictionary": object_npy(lambda: 3),
    "garbage": raw("p.npz", b"PKgarbage"),
}  # fmt: skip


def jpeg() -> bytes:
    import cv2

    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


def _png(width: int, height: int) -> bytes:
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


PICTURES: dict[str, Case] = {
    "nothing": raw("a.jpg", b""), "text": raw("a.jpg", b"not a picture"),
    "cut short": raw("a.jpg", lambda: jpeg()[:900]),
    "60,000 x 60,000": raw("a.png", _png(60_000, 60_000)), "2^31 wide": raw("a.png", _png((1 << 31) - 1, 1)),
    "no pixels": raw("a.png", _png(0, 0)), "a header alone": raw("a.png", b"\x89PNG\r\n\x1a\n"),
    "random": raw("a.jpg", np.random.default_rng(4).bytes(4000)), "zeros": raw("a.bmp", b"BM" + bytes(2000)),
    "a PNM of 1e9 pixels": raw("a.ppm", b"P6 40000 40000 255\n"), "a GIF": raw("a.jpg", b"GIF89a" + bytes(50)),
    "a folder": lambda folder: folder, "no file": lambda folder: folder / "a.jpg",
}  # fmt: skip


def bag(change: Callable[[Path], Any], storage: str = "mcap") -> Case:
    def make(folder: Path) -> Path:
        from bag_support import START, image, write_bag

        path = write_bag(folder / "bag", [("/image", START, image(START, np.zeros((8, 8, 3), np.uint8)))], storage)
        change(path)
        return path

    return make


def _changed(path: Path, seed: int, count: int) -> None:
    file = next(path.glob("*.mcap"))
    content = bytearray(file.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, len(content), count):
        content[at] = rng.integers(256)
    file.write_bytes(content)


def _view(path: Path) -> None:
    file = next(path.glob("*.db3"))
    with sqlite3.connect(file) as base:
        base.execute("ALTER TABLE messages RENAME TO kept")
        base.execute("CREATE VIEW messages AS WITH RECURSIVE r(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM r) "
                     "SELECT r.id, topic_id, timestamp, data FROM r, kept")  # fmt: skip


BAGS: dict[str, Case] = {
    "metadata of 20,000 brackets": bag(lambda p: (p / "metadata.yaml").write_text(20_000 * "[")),
    "metadata of laughs": bag(lambda p: (p / "metadata.yaml").write_text(_LAUGHS)),
    "metadata of nothing": bag(lambda p: (p / "metadata.yaml").write_text("")),
    "metadata of 5 MB": bag(lambda p: (p / "metadata.yaml").write_text((5 << 20) * " ")),
    "metadata of bytes": bag(lambda p: (p / "metadata.yaml").write_bytes(b"\xff\xfe\x00")),
    "metadata of a number": bag(lambda p: (p / "metadata.yaml").write_text("rosbag2_bagfile_information: 3")),
    "cut short": bag(lambda p: _cut(next(p.glob("*.mcap")), 0.5)),
    "empty": bag(lambda p: _cut(next(p.glob("*.mcap")), 0)),
    "zeros": bag(lambda p: next(p.glob("*.mcap")).write_bytes(bytes(5000))),
    "an endless view": bag(_view, "sqlite3"), "no database": bag(
        lambda p: next(p.glob("*.db3")).write_bytes(b"SQLite format 3\0" + bytes(500)), "sqlite3"),
    "no bag": lambda folder: folder, "random": raw("a.mcap", np.random.default_rng(5).bytes(3000)),
    "a magic alone": raw("a.mcap", b"\x89MCAP0\r\n"),
    **{f"changed bytes {n}": bag(lambda p, n=n: _changed(p, n, 40 + 40 * n)) for n in range(8)},
}  # fmt: skip


def _field(path: Path) -> Any:
    from ofer_models.workshop.official.pickle_machine import UnsafePickleError
    from ofer_models.workshop.official.pickle_numbers import numbers
    from ofer_models.workshop.official.safe_pickle import read_pickle

    content = read_pickle(path)
    if not isinstance(content, dict) or "f" not in content:
        raise UnsafePickleError("holds no field f")  # as flame.read_model says it
    return numbers(content["f"], "f")


def _checkpoint(path: Path) -> Any:
    from official_inputs import SMALL

    from ofer_models.workshop.official.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path, "idgen", SMALL.networks)
    checkpoint.check(SMALL.networks)
    return checkpoint.denoiser(SMALL.networks, {})


def _npy(path: Path) -> Any:
    from ofer_models.workshop.official.pickle_numbers import numbers
    from ofer_models.workshop.official.safe_pickle import read_object_npy

    return numbers(read_object_npy(path), "a")


def _bundle(path: Path) -> Any:
    from ofer_models.bundle import Bundle
    from ofer_models.runtime.stages import StageSet

    loaded = Bundle.load(path)
    assert loaded.head
    return StageSet(loaded)


def _head(path: Path) -> Any:
    from ofer_models.head.model import HeadModel

    return HeadModel.load(path)


def _graph(path: Path) -> Any:
    from ofer_models.runtime.onnxruntime_backend import OnnxStage

    return OnnxStage(path)


def _engine(path: Path) -> Any:
    from ofer_models.bundle.tensors import StageError
    from ofer_models.runtime import engine_cache

    (entry,) = engine_cache.entries(path)
    if problem := entry.refuse(path / "g.onnx"):
        raise StageError(f"{entry.path.name} {problem}")


def _shards(path: Path) -> Any:
    from ofer_models.workshop.pictures import dataset

    return dataset.load(path)


def _resume(path: Path) -> Any:
    from ofer_models.workshop.train.loop import Keeper

    return Keeper(path).load({"seed": 1})


def _parameters(path: Path) -> Any:
    from ofer_models.workshop.train.photographs import read_parameters

    return read_parameters(path, 300, 50)


def _flame(path: Path) -> Any:
    from official_inputs import SMALL

    from ofer_models.workshop.official.flame import read_model

    return read_model(path, SMALL.head)


def _mediapipe(path: Path) -> Any:
    from ofer_models.workshop.official.flame import read_mediapipe

    return read_mediapipe(path, 80)


def _listing(path: Path) -> Any:
    from ofer_models.workshop.train.photographs import find

    return find(path, "mica")


def _noise(path: Path) -> Any:
    from ofer_models.runtime.recorded_noise import RecordedNoise

    return RecordedNoise(path)


def _picture(path: Path) -> Any:
    from ofer_models.perception.pictures import read_picture

    return read_picture(path)


def _bag(path: Path) -> Any:
    from ofer_ros.camera.sources import open_source

    return list(open_source(str(path), 30.0, 1.0, 1280))


Loader = Callable[[Path], Any]


def _element(kind: int, content: bytes, told: int | None = None) -> bytes:
    """A part of a MAT file: type, size (or what is told for it), content to full eight bytes."""
    return struct.pack("<II", kind, len(content) if told is None else told) + content + bytes(-len(content) % 8)


def matrix(
    name: bytes = b"tri", sides: tuple[int, ...] = (2, 3), kind: int = 6, content: bytes = bytes(48), stored: int = 9,
    told: int | None = None,
) -> bytes:  # fmt: skip
    """A variable of class `kind`, its numbers of type `stored`, whose size may be told wrongly."""
    parts = (_element(6, struct.pack("<II", kind, 0)), _element(5, struct.pack(f"<{len(sides)}i", *sides)),
             _element(1, name), _element(stored, content, told))  # fmt: skip
    return _element(14, b"".join(parts))


def mat(*variables: bytes, head: bytes = b"MATLAB 5.0 MAT-file", version: bytes = b"\0\1IM") -> Case:
    return raw("model.mat", head.ljust(124) + version + b"".join(variables))


def packed(variable: bytes, keep: float = 1.0) -> bytes:
    squeezed = zlib.compress(variable)
    squeezed = squeezed[: int(keep * len(squeezed))]
    return struct.pack("<II", 15, len(squeezed)) + squeezed


_SOME = np.random.default_rng(5).bytes(480_000)
MATS: dict[str, Case] = {
    "version 7.3": mat(head=b"MATLAB 7.3 MAT-file"),
    "HDF5": raw("model.mat", b"\x89HDF\r\n\x1a\n" + bytes(500)),
    "version 4": raw("model.mat", struct.pack("<5i", 0, 2, 3, 0, 4) + b"tri\0" + bytes(48)),
    "big-endian": mat(version=b"\1\0MI"), "nothing": raw("model.mat", b""), "a beginning": raw("model.mat", b"MAT"),
    "a web page": raw("model.mat", b"<!DOCTYPE html>" + bytes(400)), "no variables": mat(),
    "random": raw("model.mat", np.random.default_rng(4).bytes(9000)), "zeros": mat(bytes(800)),
    "a folder": lambda folder: folder, "no file": lambda folder: folder / "model.mat",
    "1e18 numbers": mat(matrix(sides=(10**9, 10**9))), "a negative side": mat(matrix(sides=(-2, -3))),
    "one side": mat(matrix(sides=(6,))), "40 sides": mat(matrix(sides=(1,) * 40)),
    "4 GB told": mat(matrix(sides=(500_000_000, 1), told=4_000_000_000)),
    "4 GB told, packed": mat(packed(matrix(sides=(500_000_000, 1), told=4_000_000_000))),
    "8 GB of bytes as doubles": mat(packed(_element(14, matrix(
        sides=(1_000_000_000, 1), stored=2, told=1_000_000_000)[8:56], told=1_000_000_056))),
    "a bomb of 200 MB": mat(packed(matrix(sides=(25_000_000, 1), content=bytes(200_000_000)))),
    "a structure": mat(matrix(kind=2)), "a cell": mat(matrix(kind=1)), "an object": mat(matrix(kind=3)),
    "a function": mat(matrix(kind=16)), "opaque": mat(matrix(kind=17)), "sparse": mat(matrix(kind=5)),
    "text": mat(matrix(kind=4, stored=4, content=bytes(12))), "class 99": mat(matrix(kind=99)),
    "complex": mat(matrix(kind=6 | 0x800)), "numbers of type 77": mat(matrix(stored=77)),
    "fewer numbers than told": mat(matrix(sides=(2, 4))), "more numbers than told": mat(matrix(sides=(2, 2))),
    "two of one name": mat(matrix(), matrix()), "60,000 variables": mat(60_000 * matrix(b"x")),
    "a name of 1 MB": mat(matrix(b"a" * (1 << 20))), "a name of lines": mat(matrix(b"tri\n\x1b[2J")),
    "cut short": mat(matrix(content=_SOME, sides=(60_000, 1))[:300_000]),
    "cut short, packed": mat(packed(matrix(content=_SOME, sides=(60_000, 1)), 0.6)),
    "damaged, packed": mat(packed(matrix(content=_SOME, sides=(60_000, 1))).replace(_SOME[200_000:200_008], 8 * b"x")),
    "packed twice": mat(packed(packed(matrix()))), "packed noise": mat(_element(15, _SOME[:4000])),
    "a variable that ends outside": mat(_element(14, matrix()[8:], told=10**9)),
    "a small element in the tag": mat(
        _element(14, _element(6, struct.pack("<II", 6, 0)) + struct.pack("<I", 0xFFFF0005) + bytes(40))),
}  # fmt: skip


def _mat(path: Path) -> Any:
    from ofer_models.workshop.official.basel import read_basel

    return read_basel(path)


GROUPS: dict[str, dict[str, tuple[Loader, dict[str, Case]]]] = {
    "official": {
        "pickle": (_field, PICKLES), "checkpoint": (_checkpoint, CHECKPOINTS), "npy": (_npy, NPYS),
        "shards": (_shards, SHARDS), "resume": (_resume, RESUMES), "parameters": (_parameters, PARAMETERS),
        "flame": (_flame, FLAMES), "mediapipe": (_mediapipe, MEDIAPIPES), "listing": (_listing, LISTINGS),
        "mat": (_mat, MATS),
    },
    "bundle": {
        "head": (_head, HEADS), "bundle": (_bundle, BUNDLES), "graph": (_graph, GRAPHS), "engine": (_engine, ENGINES),
        "picture": (_picture, PICTURES), "noise": (_noise, NOISES),
    },
    "ros": {"bag": (_bag, BAGS)},
}  # fmt: skip
# Damage that some readers may rightly overlook: bytes of a recording that are pixels.
MAY_BE_READ = {f"bag: changed bytes {n}" for n in range(8)}


def cases(group: str) -> list[tuple[str, Loader, Case]]:
    """Name, loader and file of every case."""
    return [(f"{kind}: {name}", loader, case) for kind, (loader, all_) in GROUPS[group].items()
            for name, case in all_.items()]  # fmt: skip


def _peak() -> int:
    """The largest resident size since `_forget_peak`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def try_out(loader: Loader, path: Path) -> dict[str, Any]:
    """What a loader makes of a file: refused in one line, read, or something that must not be."""
    size = path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    _forget_peak()
    before = _peak()
    signal.alarm(SECONDS)
    try:
        outcome: dict[str, Any] = {"read": type(loader(path)).__name__}
    except (ValueError, OSError) as error:
        outcome = {"refused": str(error), "type": type(error).__name__, "where": _raised_in(error)}
    except BaseException as error:
        outcome = {"broken": type(error).__name__, "traceback": traceback.format_exc()[-1500:]}
    signal.alarm(0)
    return outcome | {"bytes": size, "grew": _peak() - before}


def _raised_in(error: BaseException) -> str:
    return traceback.extract_tb(error.__traceback__)[-1].filename


def main(group: str, folder: Path, first: int) -> None:
    def out_of_time(*_: Any) -> None:
        raise OutOfTime(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, out_of_time)
    made = []
    for number, (name, loader, case) in enumerate(cases(group)):
        place = folder / f"{number:03d}"
        place.mkdir(exist_ok=True)
        if number >= first:
            made.append((name, loader, case(place), place))
    for module in ("torch", "onnxruntime", "cv2"):  # not part of what a file costs
        __import__(module)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, loader, path, place in made:
        there = sorted(place.rglob("*"))
        print(json.dumps({"case": name}), flush=True)
        outcome = try_out(loader, path)
        outcome["left"] = [str(p) for p in sorted(place.rglob("*")) if p not in there]
        print(json.dumps({"case": name, **outcome}), flush=True)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    CANARY = Path(sys.argv[3])
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[4]) if len(sys.argv) > 4 else 0)
