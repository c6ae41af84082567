"""Arguments of the launch files, which are all text: what they mean, or in one line why nothing. Knows no launch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}
_LEVELS = ("debug", "info", "warn", "error", "fatal")
_ALIKE = 0.8  # of two names, from which one is a slip of the other


def value_of(name: str, text: str, kind: type) -> Any:
    """What an argument for a parameter of this kind says. Raises ValueError."""
    try:
        value = kind(text) if kind is not bool else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        value = None
    if type(value) is not kind:
        raise ValueError(f"{name}:={text} is not {_KINDS[kind]}")
    return value


def parameter_file(name: str, text: str) -> str:
    """The path of a file that is there; launch itself would go on without it. Raises ValueError."""
    if not Path(text).is_file():
        raise ValueError(f"{name}:={text} is no file")
    return text


def log_level(text: str) -> str:
    """A level, also of one logger: `<logger>:=<level>`. Raises ValueError."""
    if text.rpartition(":=")[2].lower() not in _LEVELS:
        raise ValueError(f"log_level:={text} is none of {', '.join(_LEVELS)}")
    return text


def slips(given: Iterable[str], known: Collection[str]) -> list[str]:
    """Names that are not known but much like one that is, a line each: launch leaves them aside without a word."""
    lines = []
    for name in sorted(set(given) - set(known)):
        alike = get_close_matches(name, known, 1, _ALIKE)
        if alike:
            lines.append(f"{name} is no argument of this launch file and has no effect: do you mean {alike[0]}?")
    return lines
