"""The figures of `ofer evaluate --set methods` as tables: title, columns, and a row of texts for each method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ofer_models.workshop.measure.methods.people import HALVES

PEOPLE, HEADS = 1_500, 22  # pictures of people that are looked through, and of Open-545: two of each of its 11 people
_BINS = {"frontal": "to 30°", "turned": "to 60°", "profile": "beyond"}
_OPEN545 = {"now": "NoW", "seen": "expression in view", "hidden": "expression hidden"}
Table = tuple[str, list[str], list[list[str]]]


def tables(figures: dict[str, Any]) -> Iterator[Table]:
    """NME by yaw, poses, and Open-545, each clean and occluded."""
    people = figures["people"]
    columns = [f"{half} {title}" for half in HALVES for title in (*_BINS.values(), "mean")]
    rows = [
        [name, *(f"{people['nme'][half][name][key]:.2f}" for half in HALVES for key in (*_BINS, "mean")),
         f"{cost:+.2f}"]
        for name, cost in people["cost"].items()
    ]  # fmt: skip
    counts = people["nme"]["clean"]["mediapipe"]["counts"]
    title = f"68 landmarks, NME %, {' + '.join(map(str, counts))} people by yaw, {people['missing']} left out"
    yield title, [*columns, "occluded minus clean"], rows
    columns = [f"{half}, {what}" for what in ("rotation °", "translation %") for half in HALVES]
    rows = [
        [name, *(f"{people['pose'][half][name][what]:.1f}" for what in ("rotation", "translation") for half in HALVES)]
        for name in people["pose"]["clean"]
    ]
    yield "poses, medians", columns, rows
    heads = figures["open545"]
    columns = [f"{title}, {half}" for title in _OPEN545.values() for half in HALVES]
    rows = [
        [name, *(f"{row[key]:.2f}" if key in (row := heads[half][name]) else "" for key in _OPEN545 for half in HALVES)]
        for name in heads["clean"]
    ]
    yield "Open-545, mm: NoW's median, and the face's mean distance with the true head", columns, rows
