"""Reading under a budget: archives of arrays, documents and schemas, both what is read and what is refused."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ofer_models.files import schema
from ofer_models.files.arrays import read_npz
from ofer_models.files.documents import read_json, read_yaml
from ofer_models.files.refusal import FileRefused, one_line


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_come_out_as_numpy_wrote_them(tmp_path, write):
    arrays = {
        "numbers": np.arange(6.0).reshape(2, 3), "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "half": np.float16([1, 2]), "text": np.array(["a", "bcd"]), "empty": np.zeros((0, 3)), "one": np.int64(7),
        "flags": np.array([True, False]),
    }  # fmt: skip
    write(tmp_path / "a.npz", **arrays)
    read = read_npz(tmp_path / "a.npz")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    assert read_npz(tmp_path / "a.npz", only={"one"}).keys() == {"one"}


def test_what_does_not_belong_into_an_archive_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", faces=np.zeros(3), surprise=np.zeros(3))
    with pytest.raises(FileRefused, match=r"a\.npz holds an array 'surprise' that does not belong into it"):
        read_npz(tmp_path / "a.npz", {"faces"}.__contains__)


def test_an_archive_that_unpacks_to_more_than_its_size_allows_is_not_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", zeros=np.zeros(50_000_000))
    with pytest.raises(FileRefused, match=r"unpacks to 4\d{8} bytes, at most"):
        read_npz(tmp_path / "a.npz")


def test_a_header_that_lies_about_its_numbers_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(100))
    path = tmp_path / "b.npz"
    with zipfile.ZipFile(tmp_path / "a.npz") as old, zipfile.ZipFile(path, "w") as new:
        new.writestr("a.npy", old.read("a.npy").replace(b"(100,)", b"(999,)"))
    with pytest.raises(FileRefused, match="has 800 bytes of numbers, its header tells 7992"):
        read_npz(path)


def test_a_changed_number_is_seen_by_the_archives_checksum(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(100))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[400] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(FileRefused, match="Bad CRC-32"):
        read_npz(tmp_path / "a.npz")


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_documents_are_read_and_refused_in_one_line(tmp_path):
    assert read_yaml(written(tmp_path / "a", "a: [1, {b: x}]"), 1000) == {"a": [1, {"b": "x"}]}
    assert read_json(written(tmp_path / "a", '{"a": [1]}'), 1000) == {"a": [1]}
    for text, words in (
        ("a: &x 1\nb: *x", "uses YAML aliases"), (30 * "[", "nested too deeply"),
        ("{]", r"not readable YAML .*line 1\)"),
        (2000 * " ", "larger than 0 KiB"), ("!!python/name:os.system", "not readable YAML"),
    ):  # fmt: skip
        with pytest.raises(FileRefused, match=words):
            read_yaml(written(tmp_path / "a", text), 1000)
    for text in (100 * "[" + "1", "{]"):
        with pytest.raises(FileRefused, match="not readable JSON"):
            read_json(written(tmp_path / "a", text), 1000)
    with pytest.raises(FileRefused, match="nested too deeply"):
        read_json(written(tmp_path / "a", 100_000 * "["), 1 << 20)
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    with pytest.raises(FileRefused, match="not text"):
        read_yaml(tmp_path / "a", 1000)


CHECK = schema.record(
    {"count": schema.integer(1, 10), "name": schema.text(r"[a-z]+", 8)},
    {"pair": schema.sequence(schema.number(-1, 1), 2, 2), "on": schema.flag,
     "table": schema.mapping(schema.text(), schema.integer(0, 3), 2), "kind": schema.choice("a", "b"),
     "either": schema.either(schema.number(0, 1), schema.choice("auto"))},
)  # fmt: skip


def test_a_schema_returns_what_it_was_given_and_names_what_is_wrong():
    good = {"count": 3, "name": "abc", "pair": [0, 0.5], "on": True, "table": {"x": 1}, "kind": "a", "either": "auto"}
    assert CHECK(good, "") == good
    for change, words in (
        ({"count": 0}, "count: 0, should be a whole number from 1 to 10"), ({"count": True}, "count: True"),
        ({"count": 2.0}, "count: 2.0"), ({"name": "ABC"}, "name: 'ABC'"),
        ({"pair": [1]}, "pair: list, should be a list of 2"),
        ({"pair": [0, float("nan")]}, "pair[1]: no finite number"), ({"on": 1}, "on: 1, should be true or false"),
        ({"table": {"x": 9}}, "table.x: 9"), ({"table": {3: 1}}, "table (a name in it): 3"),
        ({"kind": "c"}, "one of a, b"),
        ({"other": 1}, "has a field other that is not known"), ({"count": 10**4000}, "count: a number without end"),
    ):  # fmt: skip
        with pytest.raises(FileRefused, match=re.escape(words)):
            CHECK(good | change, "")
    with pytest.raises(FileRefused, match="holds list, should be a table"):
        CHECK([], "")
    with pytest.raises(FileRefused, match="lacks name"):
        CHECK({"count": 1}, "")


def test_a_line_is_one_line():
    assert one_line("a\x1b[2Jb\nc") == "a?[2Jb" and one_line(ValueError("")) == "ValueError"
    assert len(one_line("x" * 5000)) < 400
