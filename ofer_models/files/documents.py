"""YAML and JSON documents of unknown origin: small, shallow, and without what lets a few lines stand for gigabytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from ofer_models.files.refusal import FileRefused, one_line

_DEEPEST = 24


def read_yaml(path: Path, most: int) -> Any:
    """The content of a YAML file of at most `most` bytes, without aliases and not deeply nested.

    Raises FileRefused with one line that begins after the file's name; OSError when it cannot be read.
    """
    try:
        return yaml.load(_text(path, most), Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise FileRefused(f"is not readable YAML ({one_line(error.problem or error)}{where})") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, FileRefused):
            raise
        raise FileRefused(f"is not readable YAML ({one_line(error)})") from None


def read_json(path: Path, most: int) -> Any:
    """The content of a JSON file of at most `most` bytes. Raises as `read_yaml`."""
    try:
        return json.loads(_text(path, most))
    except RecursionError:
        raise FileRefused("is nested too deeply") from None
    except ValueError as error:
        if isinstance(error, FileRefused):
            raise
        raise FileRefused(f"is not readable JSON ({one_line(error)})") from None


def _text(path: Path, most: int) -> str:
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise FileRefused(f"is larger than {most >> 10} KiB, which no such file is")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise FileRefused("is not text (UTF-8)") from None


class _Loader(yaml.SafeLoader):
    """Reads nodes as they come, so that depth and aliases are seen before anything is built of them."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise FileRefused("uses YAML aliases (*name): write every value where it belongs")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise FileRefused("is nested too deeply")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node
