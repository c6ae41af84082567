"""Ids of faces as REP-155 asks for them: short, unique among all nodes of a system, a letter first, not persistent."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from string import ascii_lowercase as LETTERS

_LENGTH = 5
_COUNT = len(LETTERS) ** _LENGTH


def face_ids(seed: Sequence[object] | None = None) -> Iterator[str]:
    """Five random letters each, none twice.

    seed None: of the system's randomness, so that no two nodes or runs share ids (11.9 million there are; two nodes
    with a hundred faces each have one in common in one run of 1,200). Else equal seeds give equal ids.
    """
    rng = random.SystemRandom() if seed is None else random.Random(repr(tuple(seed)))
    number = rng.randrange(_COUNT)
    # A step without a factor in common with 26 goes through all ids before one comes again.
    step = next(step for step in iter(lambda: rng.randrange(_COUNT), None) if step % 2 and step % 13)
    while True:
        yield "".join(LETTERS[number // len(LETTERS) ** place % len(LETTERS)] for place in range(_LENGTH))
        number = (number + step) % _COUNT
