"""The refusal of a file, and how anything becomes one line for a terminal."""

from __future__ import annotations

_LONGEST = 300


class FileRefused(ValueError):
    """A file from outside is damaged, of another kind, or asks for more than its budget; one line says what and why."""


def one_line(text: object) -> str:
    """The first line of a text or an error's message, without control characters and not endless.

    Names out of a hostile file must not reach a terminal as line ends or escape codes. An empty message becomes the
    error's type.
    """
    lines = str(text)[: 4 * _LONGEST].strip().splitlines() or [type(text).__name__]
    line = "".join(c if c.isprintable() else "?" for c in lines[0])
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
