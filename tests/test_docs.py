"""What users read: what is written from code is current, every command is told, every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from ofer_models.cli.main import app
from tools.requirement_files import requirement_files

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("ofer_*/**/*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
SOURCE = re.compile(r"[\w.-]+(?:/[\w.-]+)+\.(?:py|onnx|yaml|rviz|xml|npz)")


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def code(page: Path) -> list[str]:
    """What a page has in backquotes, and the lines of its blocks of code."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [*re.findall(r"`([^`\n]+)`", text), *(line for block in blocks for line in block.splitlines())]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT))
)  # which tells what was there once
def test_files_options_and_modules_that_are_named_are_there(page):
    commands = typer.main.get_command(app).commands
    for text in code(page):
        if SOURCE.fullmatch(text):
            roots = (ROOT, page.parent, ROOT / "ofer_models", ROOT / "ofer_ros")
            assert any((root / text).exists() for root in roots), text
        for module in re.findall(r"python -m ((?:tools|ofer_models|ofer_ros)[\w.]*)", text):
            place = ROOT / module.replace(".", "/")
            assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), text
        asked = re.search(r"(?<!\S)ofer ([a-z][a-z-]*)(.*)", text)
        # Those without parameters hand everything on to ofer_ros.
        if asked and asked[1] in commands and commands[asked[1]].params:
            known = {option for one in commands[asked[1]].params for option in (*one.opts, *one.secondary_opts)}
            given = re.findall(r"(?<!\S)(--[a-z][\w-]*)", asked[2].partition(" #")[0])
            assert set(given) <= known | {"--help"}, text


@pytest.mark.ros
def test_the_page_of_parameters_is_current():
    pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")
    from tools.parameters_page import PAGE, page

    assert PAGE.read_text() == page(), "run `make generate`"


@pytest.mark.parametrize("path", requirement_files(), ids=lambda path: path.name)
def test_requirement_files_are_those_of_the_project(path):
    assert path.read_text() == requirement_files()[path], "run `make generate`"


def test_the_page_of_commands_names_them_all_and_no_other():
    rows = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([a-z-]+)", row) if not row.startswith("`make ")}
    assert told == set(typer.main.get_command(app).commands)


def test_make_targets_are_told():
    targets = set(re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split())
    assert set(re.findall(r"^\| `make ([\w-]+)", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE)) == targets


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
