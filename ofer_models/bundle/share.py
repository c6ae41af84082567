"""Where the package's own files lie: package.xml, config/, launch/ and engines/."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

_HERE = Path(__file__).resolve()
_CHECKOUT = _HERE.parents[2]


def share_folder() -> Path:
    """A checkout's root, or share/ofer_ros of the prefix that pip or colcon installed into.

    Raises FileNotFoundError when the code was copied without them.
    """
    installed = (prefix / "share" / "ofer_ros" for prefix in _HERE.parents[2:])
    for folder in (_CHECKOUT, *installed):
        if (folder / "package.xml").is_file():
            return folder
    raise FileNotFoundError(f"{_CHECKOUT} is neither a checkout of ofer_ros nor installed: no share/ofer_ros above it")


def version() -> str:
    """The version of code and bundles, which package.xml states."""
    return ET.parse(share_folder() / "package.xml").getroot().findtext("version", "")
