"""A small table language for what a document may hold: each entry checks one value and names the field that is wrong.

pydantic or jsonschema would do it as well, with a compiled package on every robot for some forty fields.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from ofer_models.files.refusal import FileRefused, one_line

Check = Callable[[Any, str], Any]


def number(low: float, high: float) -> Check:
    """A finite number in low..high, as float."""

    def check(value: Any, field: str) -> float:
        if type(value) not in (int, float) or not low <= value <= high:  # also where it is not a number
            raise _wrong(field, value, f"a number from {low:g} to {high:g}")
        return float(value)

    return check


def integer(low: int, high: int) -> Check:
    """A whole number in low..high."""

    def check(value: Any, field: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _wrong(field, value, f"a whole number from {low} to {high}")
        return value

    return check


def flag(value: Any, field: str) -> bool:
    """true or false."""
    if type(value) is not bool:
        raise _wrong(field, value, "true or false")
    return value


def text(pattern: str = r".*", most: int = 1000, what: str = "") -> Check:
    """A text of printable characters that matches a pattern from end to end."""

    def check(value: Any, field: str) -> str:
        fits = isinstance(value, str) and len(value) <= most and value.isprintable() and re.fullmatch(pattern, value)
        if not fits:
            raise _wrong(field, value, what or f"a text of at most {most} characters")
        return value

    return check


def choice(*options: str) -> Check:
    """One of some texts."""

    def check(value: Any, field: str) -> str:
        if value not in options:
            raise _wrong(field, value, f"one of {', '.join(options)}")
        return value

    return check


def either(*checks: Check) -> Check:
    """What the first of some checks takes; the last one's message otherwise."""

    def check(value: Any, field: str) -> Any:
        for one in checks[:-1]:
            try:
                return one(value, field)
            except FileRefused:
                continue
        return checks[-1](value, field)

    return check


def sequence(item: Check, least: int, most: int) -> Check:
    """A list of least..most items."""

    def check(value: Any, field: str) -> list[Any]:
        if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
            raise _wrong(field, value, f"a list of {least if least == most else f'{least} to {most}'} entries")
        return [item(entry, f"{field}[{place}]") for place, entry in enumerate(value)]

    return check


def mapping(key: Check, value: Check, most: int) -> Check:
    """A table of at most `most` entries with keys and values of one kind each."""

    def check(found: Any, field: str) -> dict[Any, Any]:
        if not isinstance(found, Mapping) or len(found) > most:
            raise _wrong(field, found, f"a table of at most {most} entries")
        return {
            key(name, f"{field} (a name in it)"): value(entry, _inside(field, name)) for name, entry in found.items()
        }

    return check


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None, others: bool = False) -> Check:
    """A table with these fields; others: whether it may have more, which are dropped."""
    known = {**required, **(optional or {})}

    def check(found: Any, field: str) -> dict[str, Any]:
        if not isinstance(found, Mapping):
            raise _wrong(field, found, "a table")
        for name in required:
            if name not in found:
                raise FileRefused(f"lacks {_inside(field, name)}")
        for name in found:
            if name not in known and not others:
                raise FileRefused(f"has a field {one_line(_inside(field, name))} that is not known")
        return {name: known[name](value, _inside(field, name)) for name, value in found.items() if name in known}

    return check


def _inside(field: str, name: Any) -> str:
    return f"{field}.{name}" if field else str(name)


def _wrong(field: str, value: Any, wanted: str) -> FileRefused:
    shown = type(value).__name__ if isinstance(value, (Mapping, list)) else _shown(value)
    where = f"says {one_line(field)}:" if field else "holds"
    return FileRefused(f"{where} {shown}, should be {wanted}")


def _shown(value: Any) -> str:
    """A value as a message shows it."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 64:
        return "a number without end"
    if isinstance(value, float) and not math.isfinite(value):
        return "no finite number"
    return one_line(repr(value)[:80])
