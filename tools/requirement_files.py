"""Write requirements/*.txt from pyproject.toml: for setting up a checkout, and robots that install no wheel of it.

    python -m tools.requirement_files        # `make generate`
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("demo", "gpu", "test", "train")  # on top of the run time; tools/setup_env.py installs all but gpu


def requirement_files() -> dict[Path, str]:
    """Path and content of every file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"run": project["dependencies"]} | {name: project["optional-dependencies"][name] for name in EXTRAS}
    head = "# Written from pyproject.toml by `make generate`."
    return {ROOT / "requirements" / f"{name}.txt": "\n".join([head, *lines, ""]) for name, lines in groups.items()}


if __name__ == "__main__":
    for path, text in requirement_files().items():
        path.write_text(text)
