"""Every command, used wrongly: one clear line on what is wrong, and no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ofer_models.bundle.share import version
from ofer_models.cli.main import app

COMMANDS = typer.main.get_command(app).commands
NOWHERE = "/nowhere/at/all"
# Five for each: arguments, and words of the line that they get.
WRONG: dict[str, list[tuple[list[str], str]]] = {
    "doctor": [
        (["--bundel", "x"], "No such option: --bundel"), (["--bundle"], "requires an argument"),
        (["extra"], "unexpected extra argument"), (["--json", f"{NOWHERE}/x.json"], "cannot be written"),
        (["--json", "/"], "cannot be written"),
    ],
    "reconstruct": [
        ([], "Missing argument"), (["a.jpg"], "Missing option '--out'"),
        (["a.jpg", "-o", "x", "--format", "stl"], "stl"),
        (["a.jpg", "-o", "x", "--hypotheses", "0"], "Invalid value"),
        (["a.jpg", "-o", "x", "--seed", "one"], "'--seed'"), (["a.jpg", "-o", "x", "--workers", "2"], "go with --ray"),
        (["a.jpg", "-o", "x", "--ray", "--millimetres"], "a dataset has no meshes"),
        (["a.jpg", "-o", "x", "--ray=nowhere"], "no address of a Ray cluster"),
    ],
    "meshes": [
        ([], "Missing argument"), (["x"], "Missing option '--out'"), (["x", "-o", "y", "--format", "stl"], "stl"),
        (["x", "-o", "y"], "x is no dataset"), (["x", "-o", "y", "--bundle", NOWHERE], "no bundle at"),
    ],
    "import": [
        ([], "--idgen, --idrank, --expgen, --flame: a bundle is made of all four"),
        (["--idgen", "a", "--flame", "b"], "--idrank, --expgen: a bundle"),
        (["--idgen", "a", "--idrank", "b", "--expgen", "c", "--flame", "d"], "--idgen: a is not there"),
        (["--idgen", "a", "--idrank", "b", "--expgen", "c", "--flame", "d", "--qkv", "dmeo"], "training or demo"),
        (["--idgne", "a"], "No such option: --idgne"),
    ],
    "build-head": [
        (["--identities", "3"], "Invalid value"), (["--seed", "x"], "'--seed'"), (["--json", "/"], "cannot be written"),
        (["--out"], "requires an argument"), (["head"], "unexpected extra argument"),
    ],
    "pictures": [
        (["--count", "0"], "Invalid value"), (["--head", NOWHERE], NOWHERE), (["--seed"], "requires an argument"),
        (["--wide", "yes"], "unexpected extra argument"), (["--narrow"], "No such option"),
        (["--seed", "-1"], "'--seed'"),
    ],
    "train": [
        (["everything"], "is none of all, context"), (["--objective", "huber"], "is none of weighted"),
        (["--pictures", "3"], "Invalid value"), (["--workers", "0"], "Invalid value"),
        (["--layout", "own"], "is none of ofer, mica, famos"), (["--seed", "-1"], "'--seed'"),
    ],
    "evaluate": [
        (["--set", "faces"], "is none of open545"), (["--pictures", "1"], "Invalid value"),
        (["--set", "now"], "needs the folder of the set"), (["--json", "/"], "cannot be written"),
        (["--sets", "x"], "No such option"), (["--set", "eyes", "--beside", NOWHERE], "goes with"),
        (["--peer", NOWHERE], "does not exist"),
    ],
    "build": [
        (["--precision", "int8"], "--precision int8 needs --backend onnxruntime"), (["--batch", "9..1"], "9..1"),
        (["--backend", "tpu"], "tpu"), (["--jobs", "0"], "Invalid value"),
        (["--bundle", NOWHERE], "no bundle at"),
    ],
    "bench": [
        (["--repeats", "1"], "Invalid value"), (["--backend", "tpu"], "tpu"),
        (["--bundle", NOWHERE], "no bundle at"), (["--json", "/"], "cannot be written"),
        (["fast"], "is none of all, frame_pipeline"), (["--beside", "."], "goes with frame_pipeline"),
        (["frame_pipeline", "--beside", NOWHERE], "does not exist"),
    ],
    "sampling": [
        (["--stage", "idrank"], "is none of expgen, idgen"), (["--pictures", "1"], "Invalid value"),
        (["--threads", "0"], "Invalid value"), (["--bundle", NOWHERE], "no bundle at"),
        (["--out"], "requires an argument"),
    ],
    "demo": [
        (["--nonsense"], "No such option: --nonsense"), (["--out"], "requires an argument"),
        (["scene", "more"], "unexpected extra argument"), (["--seconds", "x"], "'--seconds'"),
        (["--seconds"], "requires an argument"), (["--hypotheses", "0"], "'--hypotheses'"),
        (["--rate", "0"], "'--rate'"),
    ],
    "animate": [
        ([], "Missing argument"), (["scene", "--rate", "0"], "'--rate'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["scene", "more"], "unexpected extra argument"), (["scene", "-o"], "requires an argument"),
    ],
    "view": [
        (["--nonsense"], "No such option: --nonsense"), (["--port"], "requires an argument"),
        (["scene", "more"], "unexpected extra argument"), (["--port", "x"], "'--port'"),
        (["--out", "x"], "No such option"), (["--port", "99999"], "'--port'"),
    ],
}  # fmt: skip


def said(*arguments: str) -> tuple[int, list[str]]:
    """Exit code, and the lines of output that are not a bar."""
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80", "NO_COLOR": "1"}, prog_name="ofer")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, [line for line in result.output.splitlines() if line.strip() and "━" not in line]


@pytest.mark.parametrize("command", list(WRONG))
def test_every_command_has_a_short_option_for_help(command):
    if command in ("demo", "view"):
        pytest.importorskip("rclpy", reason="source .venv/ofer_env.sh")
    code, lines = said(command, "-h")
    assert code == 0 and f"ofer {command} " in " ".join(lines[0].split())


def test_every_command_is_walked():
    assert set(WRONG) == set(COMMANDS)
    assert all(len(wrong) >= 5 for wrong in WRONG.values())


@pytest.mark.parametrize(("command", "number"), [(name, n) for name, wrong in WRONG.items() for n in range(len(wrong))])
def test_a_wrong_use_is_one_clear_line(command, number, tmp_path, monkeypatch):
    if command in ("demo", "view"):
        pytest.importorskip("rclpy", reason="source .venv/ofer_env.sh")
    monkeypatch.chdir(tmp_path)
    arguments, words = WRONG[command][number]
    code, lines = said(command, *arguments)
    assert code in (1, 2) and words in lines[-1], lines
    assert len(lines) == 1 and lines[0].startswith("ofer"), lines
    assert code == 1 or f"see `ofer {command} --help`" in lines[0], lines
    assert list(tmp_path.iterdir()) == []


def test_the_program_calls_itself_by_its_name():
    code, lines = said("-h")
    assert code == 0 and "Usage: ofer [OPTIONS] COMMAND" in lines[0]
    assert said("--version") == (0, [f"ofer {version()}"])
    code, lines = said("bild")
    assert code == 2 and len(lines) == 1 and "No such command 'bild'" in lines[0] and "ofer --help" in lines[0]


def test_prune_and_list_go_together(tmp_path):
    import shutil

    bundle = Path(shutil.copytree(Path(__file__).resolve().parents[1] / "engines" / "open", tmp_path / "open"))
    code, lines = said("build", "--bundle", str(bundle), "--prune", "--list")
    assert code == 0 and lines[0] == "0 files removed" and "has no engines" in lines[1]


def test_a_bundle_that_is_not_there_is_not_to_be_trained(tmp_path):
    code, lines = said("doctor", "--bundle", str(tmp_path / "nowhere"))
    assert code == 1 and not any(f"ofer train --out {tmp_path}" in line for line in lines)
    assert any("give the folder of a bundle" in line for line in lines)


def test_what_is_wrong_with_all_graphs_is_said_once():
    from ofer_models.workshop.compile.build import _once

    said = ["a.onnx: no such GPU", "b.onnx: no such GPU", "c.onnx: broken"]
    assert _once(said) == ["a.onnx: no such GPU", "c.onnx: broken"]
