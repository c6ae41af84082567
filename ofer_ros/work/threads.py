"""Waiting for threads."""

from __future__ import annotations

import threading


def ended(thread: threading.Thread, timeout: float) -> bool:
    """Wait for a thread, `timeout` seconds at most: whether it is over, or was never started."""
    if thread.ident is not None:
        thread.join(timeout)
    return not thread.is_alive()
