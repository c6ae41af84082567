"""Numbers of faces that a GPU's networks are captured for: a few, so that a new face seldom means a new graph."""

from __future__ import annotations


def batch_for(faces: int, least: int = 1, most: int | None = None) -> int:
    """The power of two that holds so many faces, within `least` and `most`; rows that are too many run empty."""
    size = max(least, 1 << max(faces - 1, 0).bit_length())
    return size if most is None else min(size, most)


def batches(most_faces: int) -> list[int]:
    """Numbers of faces whose batches are all that occur up to `most_faces`, the largest first."""
    return sorted({min(batch_for(faces), most_faces) for faces in range(1, most_faces + 1)}, reverse=True)
