"""The restricted pickle reader: what head models need comes out, the rest is refused by name and runs nothing."""

from __future__ import annotations

import builtins
import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from official_inputs import Ch, Select, chumpy, dump_python2, sparse

from ofer_models.workshop.official.pickle_machine import UnsafePickleError
from ofer_models.workshop.official.pickle_numbers import numbers
from ofer_models.workshop.official.safe_pickle import read_object_npy, read_pickle


class Call:
    """Pickles as a call that the reader would make."""

    def __init__(self, function, *arguments):
        self._reduced = (function, arguments)

    def __reduce__(self):
        return self._reduced


def _ordered(value: object) -> Call:
    return Call(collections.OrderedDict, [("key", value)])


@pytest.fixture
def trap(tmp_path) -> Path:
    """A file that the payloads create if they are run."""
    path = tmp_path / "was_run"
    yield path
    assert not path.exists(), "the payload was executed"


def payloads(trap: Path) -> dict[str, tuple[object, str]]:
    """Hostile content and the name that the refusal must give."""
    system = Call(os.system, f"touch {trap}")
    evaluate = Call(builtins.eval, f"open({str(trap)!r}, 'w').close()")
    return {
        "os.system": (system, "system"),
        "builtins.eval": (evaluate, "eval"),
        "builtins.exec": (Call(builtins.exec, f"open({str(trap)!r}, 'w')"), "exec"),
        "open": (Call(open, str(trap), "w"), "open"),
        "nested reduce": (_ordered(_ordered(evaluate)), "eval"),
        "in a chumpy field": ({"shapedirs": Ch(x=np.zeros(3), r=system)}, "system"),
        "in an array of objects": ({"f": np.array([system, 1], dtype=object)}, "system"),
        "getattr": (Call(getattr, dict, "fromkeys"), "getattr"),
        "numpy's own loader": (Call(np.load, str(trap)), "numpy"),
        "partial": (Call(__import__("functools").partial, os.system, "x"), "functools.partial"),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", payloads(Path("x")))
def test_hostile_pickles_are_refused_by_name_and_run_nothing(tmp_path, trap, name, protocol):
    content, refused = payloads(trap)[name]
    path = tmp_path / "model.pkl"
    path.write_bytes(
        pickle.dumps(content, protocol) if "chumpy" not in name else dump_python2(content, path).read_bytes()
    )
    with pytest.raises(UnsafePickleError, match=f"model.pkl refused: it asks for .*{refused}.*nothing of it was run"):
        read_pickle(path)


@pytest.mark.parametrize("name", ["os.system", "nested reduce", "in an array of objects"])
def test_hostile_npy_files_are_refused(tmp_path, trap, name):
    path = tmp_path / "landmarks.npy"
    np.save(path, np.array({"a": payloads(trap)[name][0]}, dtype=object), allow_pickle=True)
    with pytest.raises(UnsafePickleError, match=r"landmarks\.npy refused: it asks for"):
        read_object_npy(path)


def test_the_payloads_do_run_in_an_ordinary_reader(tmp_path):
    trap = tmp_path / "was_run"
    for name in ("os.system", "builtins.eval"):
        pickle.loads(pickle.dumps(payloads(trap)[name][0]))
        assert trap.exists(), name
        trap.unlink()


RAW = {
    "Python 2's os.system": (b"cos\nsystem\n(S'touch x'\ntR.", "asks for os.system"),
    "an old-style instance": (b"(S'x'\nios\nsystem\n.", "asks for os.system"),
    "a dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x07f2py.os\x93.", "asks for numpy.f2py.os"),
    "a persistent id": (b"Pfile\n.", "refers to data outside"),
    "state for a builder": (b"ccollections\nOrderedDict\n(N}S'a'\nI3\nstb.", "tries to change a builder"),
    "state for a class": (b"cchumpy.ch\nCh\n(N}S'a'\nI3\nstb.", "tries to change a builder"),
    "a structured type": (b"cnumpy\ndtype\n(S'V8'\ntR.", "array of type 'V8'"),
    "a type from a list": (b"cnumpy\ndtype\n((lS'f8'\natR.", "stores an array of type"),
    "no pickle": (b"PK\x03\x04 and so on", "not a readable pickle"),
    "nothing": (b"", "not a readable pickle"),
}


@pytest.mark.parametrize("name", RAW)
def test_tricks_and_rubbish_are_refused(tmp_path, name):
    raw, message = RAW[name]
    path = tmp_path / "model.pkl"
    path.write_bytes(raw)
    with pytest.raises(UnsafePickleError, match=message):
        read_pickle(path)


def test_arrays_of_objects_are_refused_even_without_a_payload(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(pickle.dumps({"f": np.array([1, "two", None], dtype=object)}))
    with pytest.raises(UnsafePickleError, match="numpy array of Python objects"):
        read_pickle(path)
    np.save(path.with_suffix(".npy"), np.array([1, "two"], dtype=object), allow_pickle=True)
    with pytest.raises(UnsafePickleError, match="numpy array of Python objects"):
        read_object_npy(path.with_suffix(".npy"))


@pytest.mark.parametrize("kept", [10, 100, 1000])
def test_a_truncated_pickle_is_refused(tmp_path, kept):
    path = dump_python2({"x": chumpy(np.arange(500.0))}, tmp_path / "model.pkl")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UnsafePickleError, match=r"model\.pkl is not a readable pickle"):
        read_pickle(path)


def test_an_array_with_too_few_bytes_is_refused(tmp_path):
    raw = pickle.dumps(np.arange(4.0), 2)
    assert raw.count(b"K\x04\x85") == 1  # the shape (4,)
    (tmp_path / "a").write_bytes(raw.replace(b"K\x04\x85", b"K\x63\x85"))
    with pytest.raises(UnsafePickleError, match="wrong number of bytes"):
        read_pickle(tmp_path / "a")


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_arrays_survive_every_protocol(tmp_path, protocol):
    content = {
        "big": np.arange(6.0).reshape(2, 3).astype(">f8"),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "scalar": np.float32(2.5),
        "text": np.array(["a", "bc"]),
        "ordered": collections.OrderedDict([("k", 1)]),
        "counter": collections.Counter({3: 2}),
        "empty": np.zeros((0, 3)),
    }
    (tmp_path / "a").write_bytes(pickle.dumps(content, protocol))
    read = read_pickle(tmp_path / "a")
    assert read.keys() == content.keys() and read["ordered"] == {"k": 1} and read["counter"] == {3: 2}
    for name in ("big", "fortran", "scalar", "text", "empty"):
        np.testing.assert_array_equal(np.asarray(read[name]), content[name])


def test_chumpy_and_sparse_fields_of_python2_come_out_as_arrays(tmp_path):
    array = np.random.default_rng(0).normal(size=(4, 3))
    order = np.random.default_rng(1).permutation(12)
    content = {
        "plain": array,
        "ch": chumpy(array),
        "select": Select(a=chumpy(array), idxs=order, preferred_shape=(3, 4)),
        "twice": Select(
            a=Select(a=array, idxs=order, preferred_shape=None), idxs=np.argsort(order), preferred_shape=(4, 3)
        ),
        "sparse": sparse(array * (array > 0)),
    }
    read = read_pickle(dump_python2(content, tmp_path / "model.pkl"))
    expected = {"plain": array, "ch": array, "select": array.ravel()[order].reshape(3, 4), "twice": array}
    for name, value in (expected | {"sparse": array * (array > 0)}).items():
        np.testing.assert_array_equal(numbers(read[name], name), value)


def test_chains_of_chumpys_reorderings_come_out_as_arrays(tmp_path):
    array = np.arange(24.0).reshape(4, 6)

    def made(name: str, **state: object) -> object:
        return type(name, (Ch,), {"pickled_as": ("chumpy.reordering", name)})(**state)

    turned = made("transpose", a=chumpy(array), axes=None)
    content = {
        "transpose": turned,
        "reshape": made("Reshape", a=turned, newshape=(3, 8)),
        "swapaxes": made("swapaxes", a=array, axis1=0, axis2=1),
        "rollaxis": made("rollaxis", a=array, axis=1, start=0),
        "concatenate": made("Concatenate", dterms=["m0", "m1"], m0=chumpy(array), m1=array, axis=1),
        "select": Select(
            a=made("Reshape", a=chumpy(array), newshape=(-1,)), idxs=np.array([3, 1]), preferred_shape=None
        ),
    }
    expected = {
        "transpose": array.T, "reshape": array.T.reshape(3, 8), "swapaxes": array.T, "rollaxis": array.T,
        "concatenate": np.concatenate([array, array], 1), "select": np.array([3.0, 1.0]),
    }  # fmt: skip
    read = read_pickle(dump_python2(content, tmp_path / "model.pkl"))
    for name, value in expected.items():
        np.testing.assert_array_equal(numbers(read[name], name), value)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_matrices_and_shapes_of_numpy_numbers_are_read(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    matrix = sparse(array)
    matrix._shape = tuple(np.int64(n) for n in array.shape)
    (tmp_path / "a").write_bytes(pickle.dumps({"matrix": np.asmatrix(array)}, 2))
    np.testing.assert_array_equal(numbers(read_pickle(tmp_path / "a")["matrix"], "matrix"), array)
    read = read_pickle(dump_python2({"m": matrix}, tmp_path / "model.pkl"))
    np.testing.assert_array_equal(numbers(read["m"], "m"), array)


@pytest.mark.parametrize("form", ["csc_matrix", "csr_matrix", "coo_matrix", "csr_array", "coo_array"])
def test_scipys_own_pickles_are_read_without_scipy(tmp_path, form):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    array = np.arange(12.0).reshape(3, 4) * (np.arange(12) % 3 == 0).reshape(3, 4)
    (tmp_path / "a").write_bytes(pickle.dumps(getattr(scipy_sparse, form)(array), 2))
    np.testing.assert_array_equal(numbers(read_pickle(tmp_path / "a"), "m"), array)


def _recursive() -> Select:
    select = Select(idxs=np.zeros(1, int), preferred_shape=None)
    select.a = select
    return select


@pytest.mark.parametrize("content, message", [
    (Select(a=chumpy(np.zeros(3)), idxs=np.array([0, 3]), preferred_shape=None), "outside its array"),
    (Select(a=chumpy(np.zeros(3)), idxs=np.array([0, 1]), preferred_shape=(5, 5)), "does not fit its array"),
    (_recursive(), "nested too deeply"),
    (Ch(y=1), "holds no numbers"),
    (type("M", (Ch,), {"pickled_as": ("scipy.sparse.csc", "csc_matrix")})(
        _shape=(2, 2), data=np.ones(1), indices=np.array([7]), indptr=np.array([0, 1, 1])), "outside its shape"),
    (type("M", (Ch,), {"pickled_as": ("scipy.sparse.csc", "csc_matrix")})(
        _shape=(10**6, 10**6), data=np.ones(0), indices=np.zeros(0, int), indptr=np.zeros(2, int)), "too large"),
])  # fmt: skip
def test_inconsistent_fields_are_refused(tmp_path, content, message):
    read = read_pickle(dump_python2({"x": content}, tmp_path / "model.pkl"))
    with pytest.raises(UnsafePickleError, match=message):
        numbers(read["x"], "x")


def test_tensors_in_an_npy_dictionary_become_arrays(tmp_path):
    tables = {"t": torch.arange(6).reshape(2, 3), "part": torch.arange(10.0)[4:8], "n": np.arange(3), "list": [1, 2]}
    np.save(tmp_path / "a.npy", np.array(tables, dtype=object), allow_pickle=True)
    read = read_object_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(read["t"], tables["t"].numpy())
    np.testing.assert_array_equal(read["part"], tables["part"].numpy())
    assert read["list"] == [1, 2]


def test_a_hostile_storage_inside_a_tensor_is_refused_by_name(tmp_path, trap):
    hostile = tmp_path / "storage"
    torch.save(Call(os.system, f"touch {trap}"), hostile, _use_new_zipfile_serialization=False)
    content = {"t": Call(torch.storage._load_from_bytes, hostile.read_bytes())}
    np.save(tmp_path / "a.npy", np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(UnsafePickleError, match="system"):
        read_object_npy(tmp_path / "a.npy")
