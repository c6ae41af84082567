"""How much memory a process holds."""

from __future__ import annotations


def resident_megabytes(process: int | str = "self") -> float:
    """Memory that a process, by its id, holds now (Linux; 0 elsewhere, and when it is gone)."""
    try:
        with open(f"/proc/{process}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))
    except (OSError, StopIteration):
        return 0.0
