"""`ofer import` as a command: what it prints, that a refusal is one line, and what its options pass on."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from official_inputs import SMALL, write_small

from ofer_models.cli import main
from ofer_models.workshop.official import importer
from ofer_models.workshop.official.files import OfficialFiles
from ofer_models.workshop.official.importer import ImportReport, import_official

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> OfficialFiles:
    return write_small(tmp_path_factory.mktemp("official") / "files")


@pytest.fixture
def ofer(monkeypatch, capsys, files):
    """Run `ofer import` on the small files with other options; exit code and output, joined to one line each."""

    def run(out: Path, *options: str | Path, **changed: Path) -> tuple[int, list[str]]:
        given = {name: path for name, path in (asdict(files) | changed).items() if path}
        arguments = [part for name, path in given.items() for part in (f"--{name.replace('_', '-')}", str(path))]
        monkeypatch.setattr(sys, "argv", ["ofer", "import", *arguments, "--out", str(out), *map(str, options)])
        with pytest.raises(SystemExit) as caught:
            main.main()
        return int(caught.value.code or 0), capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(importer, "import_official", functools.partial(import_official, sizes=SMALL))


def test_a_bundle_is_made_and_the_source_of_the_maps_is_shown(ofer, small, tmp_path):
    out = tmp_path / "a[b] c"  # brackets are no markup
    code, lines = ofer(out)
    text = " ".join(" ".join(lines).split())
    assert code == 0 and yaml.safe_load((out / "manifest.yaml").read_text())["name"] == "official"
    assert "idgen: query/key/value maps" in text and "the file carries its own maps" in text
    assert "idrank: graph against network" in text
    assert f"ofer doctor --bundle {out}" in lines[-1]


def test_a_refusal_is_one_line_and_the_exit_code_one(ofer, small, tmp_path):
    (tmp_path / "x[1].tar").write_bytes(b"nothing")
    code, lines = ofer(tmp_path / "official", idgen=tmp_path / "x[1].tar")
    assert code == 1 and lines[-1].startswith("ofer: x[1].tar is damaged or cut short")
    assert not any("Traceback" in line for line in lines) and os.listdir(tmp_path) == ["x[1].tar"]


def test_an_unknown_scenario_is_refused(ofer, tmp_path):
    code, lines = ofer(tmp_path / "official", "--qkv", "dmeo")
    assert (code, lines) == (1, ["ofer: --qkv is 'dmeo', should be training or demo"])


@pytest.mark.parametrize("options, expected", [
    ((), {"qkv": None, "released_quirks": False, "strict": False}),
    (("--qkv", "demo"), {"qkv": "demo", "released_quirks": False, "strict": False}),
    (("--released-quirks",), {"qkv": None, "released_quirks": True, "strict": False}),
    (("--strict",), {"qkv": None, "released_quirks": False, "strict": True}),
])  # fmt: skip
def test_options_are_passed_on(ofer, files, tmp_path, monkeypatch, options, expected):
    asked = {}

    def record(given: OfficialFiles, out: Path, *, step, **options) -> ImportReport:
        asked.update(options, files=given, out=out)
        return ImportReport(out, {}, {}, [])

    monkeypatch.setattr(importer, "import_official", record)
    assert ofer(tmp_path / "official", *options)[0] == 0
    assert asked == expected | {"files": files, "out": tmp_path / "official"}
