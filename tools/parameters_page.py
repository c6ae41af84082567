"""Write docs/parameters.md from the declarations in ofer_ros/base/settings.py and the defaults in config/ofer.yaml.

    python -m tools.parameters_page        # `make generate`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ofer_ros.base.parameters import defaults
from ofer_ros.base.settings import NODES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "parameters.md"
HEAD = """\
# Parameters

Written by `make generate` from [`ofer_ros/base/settings.py`](../ofer_ros/base/settings.py) and
[`config/ofer.yaml`](../config/ofer.yaml), where every default lives; `ros2 param describe` tells the same.

Parameters marked *live* change at once, also at work. The others are refused while the node is active, with the command
that deactivates it; nodes without a lifecycle read them when they start. A value that is not allowed is refused with
the reason.
"""


def _value(value: object) -> str:
    """As YAML writes it."""
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value!r}`" if value == "" else f"`{value}`"


def _allowed(metadata: Mapping[str, Any]) -> str:
    if metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in metadata["choices"])
    if metadata["low"] is None:
        return ""
    low, high, least = metadata["low"], metadata["high"], metadata["unless_zero"]
    return f"0, {least} to {high}" if least else f"{low:.10g} to {high:.10g}"


def _table(section: str, settings: type) -> list[str]:
    """Rows for `settings`: its own fields first, then those it shares with other nodes."""
    rows = ["| parameter | default | unit | allowed | live | meaning |", "|---|---|---|---|---|---|"]
    for item in sorted(fields(settings), key=lambda item: item.name not in settings.__annotations__):
        kind = item.metadata
        cells = [
            f"`{item.name}`", _value(defaults(section)[item.name]), kind["unit"], _allowed(kind),
            "*live*" if kind["live"] else "", kind["description"],
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def page() -> str:
    """The whole page, Markdown."""
    parts = [HEAD]
    for section, settings in NODES.items():
        parts.append("\n".join(["", f"## `{section}`", "", *_table(section, settings), ""]))
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
