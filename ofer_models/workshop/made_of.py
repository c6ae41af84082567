"""What a cache was made of, written beside it: pictures, networks and checkpoints are used again only for the same."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofer_models.files.documents import read_json
from ofer_models.files.refusal import FileRefused, one_line
from ofer_models.workshop.errors import DataError

_MOST_BYTES = 64 << 10


def record_of(cache: Path) -> Path:
    """Where the record of a cache (a file or folder) lies."""
    return cache.with_name(f"{cache.name}.made_of.json")


def write_record(cache: Path, made_of: Mapping[str, Any]) -> None:
    """Write what a cache is made of: plain numbers, texts and tables of them."""
    partial = record_of(cache).with_suffix(".partial")
    partial.write_text(json.dumps(made_of, indent=1))
    os.replace(partial, record_of(cache))


def check_record(cache: Path, wanted: Mapping[str, Any], remedy: str) -> bool:
    """Whether a cache tells what made it, which then is `wanted`. Raises DataError with the first difference."""
    if not record_of(cache).is_file():
        return False
    try:
        found = read_json(record_of(cache), _MOST_BYTES)
    except (FileRefused, OSError) as error:
        raise DataError(f"{record_of(cache)} {one_line(error)}; {remedy}") from None
    refuse_other(cache, found, wanted, remedy)
    return True


def refuse_other(cache: Path, found: Any, wanted: Mapping[str, Any], remedy: str) -> None:
    """Raise DataError with both values where what made a cache is not what is wanted."""
    if not isinstance(found, Mapping):
        raise DataError(f"{cache} does not tell what made it; {remedy}")
    for name, value in wanted.items():
        theirs = found.get(name)
        if isinstance(value, Mapping) and isinstance(theirs, Mapping):
            refuse_other(cache, theirs, value, remedy)
        elif theirs != value:
            raise DataError(one_line(f"{cache} was made with {name} {theirs}, asked for is {name} {value}; {remedy}"))
