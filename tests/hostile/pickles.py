"""Pickles, checkpoints of torch and arrays of objects: what OFER's and FLAME's downloads are, made by somebody else."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hostile.parts import (
    Call,
    Case,
    Kind,
    cut_short,
    evaluated,
    npy,
    object_npy,
    patched,
    payload,
    pickled,
    raw,
    shared,
    torch_module,
    torch_saved,
    zipped,
)


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
    "a meta tensor": torch_saved(lambda: {"net": {"w": torch_module().empty(10**6, 10**5, device="meta")}}),
    "a sparse tensor": torch_saved(lambda: {"net": {"w": torch_module().eye(3).to_sparse()}}),
    "an expanded tensor": torch_saved(lambda: {"net": {"w": torch_module().zeros(1).expand(10**11)}, "arcface": {}}),
    "a quantized tensor": torch_saved(lambda: {"net": {"w": torch_module().quantize_per_tensor(
        torch_module().ones(3), 0.1, 0, torch_module().qint8)}}),
    "a network": torch_saved(lambda: torch_module().nn.Linear(2, 2)), "a list": torch_saved(lambda: [1, 2]),
    "a number": torch_saved(lambda: 3),
    "names that are numbers": torch_saved(lambda: {"net": {3: torch_module().ones(1)}}),
    "an OrderedDict with a get of its own": zipped(
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x03\x00\x00\x00getcposix\nsystem\nsb."),
    "not finite": torch_saved(lambda: {"net": {"init_conv.weight": torch_module().full((6, 6, 1), float("nan"))}}),
    "a compressed pickle": zipped(b"\x80\x02}.", zipfile.ZIP_DEFLATED), "a bomb": _bomb, "60,000 entries": _entries,
    "cut short": lambda folder: cut_short(torch_saved(lambda: {"net": {"w": torch_module().ones(1000)}})(folder), 0.6),
    "cut short, old format": lambda folder: cut_short(torch_saved(
        lambda: {"net": {"w": torch_module().ones(1000)}}, _use_new_zipfile_serialization=False)(folder), 0.8),
    "a directory that lies": lambda folder: patched(zipped(b"\x80\x02}.")(folder), b"PK\1\2", 42, b"\xff\xff\xff\x7f"),
    "nothing": raw("model.tar", b""), "a web page": raw("model.tar", b"<!DOCTYPE html><html>"),
    "only a beginning": raw("model.tar", b"PK\3\4"), "random": raw("model.tar", np.random.default_rng(1).bytes(5000)),
    "an end without a directory": raw("model.tar", b"PK\3\4" + b"PK\5\6" + 18 * b"\xff"),
    "a folder": lambda folder: folder,
}  # fmt: skip
NPYS: dict[str, Case] = {
    "os.system": object_npy(lambda: {"a": payload()}), "objects": object_npy(lambda: [1, None, "x"]),
    "a hostile storage": object_npy(lambda: {"t": Call(
        torch_module().storage._load_from_bytes, pickle.dumps(payload()))}),
    "a header that is a call": raw("a.npy", npy("__import__('os').system('x')")),
    "1e15 numbers": raw("a.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000000), }")),
    "a structure": raw("a.npy", npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }", bytes(8))),
    "a shape of text": raw("a.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': ('x',), }")),
    "a header of 20,000 brackets": raw("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 40_000) + 40_000 * b"("),
    "nothing": raw("a.npy", b""), "no numbers": raw("a.npy", b"\x93NUMPY\x09\x00aa"),
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


KINDS: dict[str, Kind] = {
    "pickle": (_field, PICKLES), "checkpoint": (_checkpoint, CHECKPOINTS), "npy": (_npy, NPYS),
}  # fmt: skip
