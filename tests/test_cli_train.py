"""`ofer train`, `ofer evaluate` and `ofer pictures`: choices that do not exist, and data that are not there."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from ofer_models.cli.main import app


def said(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "NO_COLOR": "1"})
    if result.exception and not isinstance(result.exception, SystemExit):
        return 1, str(result.exception)
    return result.exit_code, " ".join(result.output.split())


def need_evaluation() -> None:
    for module in ("trimesh", "scipy"):
        pytest.importorskip(module, reason="`make train-env`")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "everything"), "is none of all, context, idgen, idrank, expgen"),
        (("train", "--objective", "huber"), "is none of weighted, mse, l1"),
        (("train", "--rank", "best"), "is none of posterior, listnet"),
        (("train", "--layout", "own"), "is none of ofer, mica, famos"),
        (("train", "cfr", "--stage", "3"), "is none of 1, 2"),
        (("train", "distil", "--stage", "2"), "is none of expgen, idgen"),
        (("evaluate", "--set", "faces"), "is none of open545, open545-plain"),
    ],
)
def test_choices_that_do_not_exist(arguments, words):
    code, output = said(*arguments)
    assert code != 0 and words in output.replace("│ ", "").replace(" │", "")


def test_a_folder_without_photographs(tmp_path):
    pytest.importorskip("accelerate", reason="`make train-env`")
    code, output = said("train", "idgen", "--data", str(tmp_path), "--work", str(tmp_path / "work"))
    assert code == 1 and "holds no pictures in the layout 'ofer'" in output


def test_a_licensed_set_needs_its_folder():
    need_evaluation()
    code, output = said("evaluate", "--set", "now")
    assert code != 0 and "needs the folder of the set" in output.replace("│ ", "").replace(" │", "")


def test_a_licensed_set_that_is_not_there(tmp_path):
    need_evaluation()
    code, output = said("evaluate", "--set", "aflw2000", "--data", str(tmp_path), "--predictions", str(tmp_path / "p"))
    assert code == 1 and "holds no .mat files" in output
    code, output = said("evaluate", "--set", "now", "--data", str(tmp_path), "--predictions", str(tmp_path))
    assert code == 1 and "imagepathsvalidation.txt" in output


@pytest.mark.parametrize("command", ["train", "evaluate", "pictures"])
def test_help_answers(command):
    assert said(command, "--help")[0] == 0
