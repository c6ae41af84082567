"""What wraps the long loops of a workshop in a bar: progress(iterable, text, total)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Progress = Callable[[Iterable, str, int], Iterable]


def silent(iterable: Iterable, text: str, total: int) -> Iterable:
    """No bar."""
    return iterable
