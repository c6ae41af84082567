"""Views, heads and draws for the identity tests: contexts are unit vectors, so likeness is an angle."""

from __future__ import annotations

import numpy as np
from test_head_model import HEAD, N_SHAPE

from ofer_models.tracking.identity_state import Draw, Drawn, View

SAME, OTHER = 0.99, 0.96


def person(number: float) -> np.ndarray:
    """Context (8,) of a person; those of two have a cosine of 0.9. 0.5 is halfway between 0 and 1: 0.975 to both."""
    if number != int(number):
        halfway = person(int(number)) + person(int(number) + 1)
        return halfway / np.linalg.norm(halfway)
    number = int(number)
    context = np.full(8, np.sqrt(0.9 / 8))
    context[number] += np.sqrt(0.1)
    return context / np.linalg.norm(context)


def view(stamp: float, quality: float = 0.8, who: float = 0, tremble: float = 0.0, occlusion: float = 0.0) -> View:
    """A view of a person; tremble: length of a random part of its context."""
    noise = np.random.default_rng(int(1000 * stamp)).standard_normal(8) * tremble
    return View(stamp, quality, person(who) + noise, occlusion)


def head(value: float) -> np.ndarray:
    """Betas (S,) that are told apart by one number."""
    return np.full(N_SHAPE, value, np.float32)


def drawn(value: float | None, score: float = 0.5) -> Drawn:
    return Drawn(None if value is None else HEAD.identity(head(value)), score)


class Drawer:
    """In the place of CandidateDrawer: head 1, 2, 3, ... for the first, second, third draw; keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[Draw] = []

    def __call__(self, draw: Draw) -> Drawn:
        self.asked.append(draw)
        return drawn(float(len(self.asked)))
