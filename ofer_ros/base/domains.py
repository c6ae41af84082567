"""ROS domains for runs that must hear nothing of others: each is lent to one run on this machine at a time."""

from __future__ import annotations

import fcntl
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# Above those that checkouts give their shells (tools/setup_env.py); above 101 are ports that systems hand out.
DOMAINS = range(41, 102)


@contextmanager
def lent_domain() -> Iterator[int]:
    """A domain that nobody else is lent before the block ends. Raises OSError when there is none."""
    for domain in random.SystemRandom().sample(DOMAINS, len(DOMAINS)):
        file = _locked(Path(tempfile.gettempdir()) / f"ofer_domain_{domain}")
        if file is not None:
            with file:
                yield domain
            return
    raise OSError(f"every ROS domain from {DOMAINS[0]} to {DOMAINS[-1]} is in use")


def _locked(path: Path) -> IO | None:
    """The open file, whose lock goes with it; None where another run has it, or another user has made it."""
    try:
        file = path.open("w")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
