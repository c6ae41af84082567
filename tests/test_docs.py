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
