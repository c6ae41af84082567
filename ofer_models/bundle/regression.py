"""What a manifest says of a regressor: the named groups of its coefficients, the crop it sees, and its camera.

A regressor is one graph from crops (F, 3, S, S) to coefficients (F, D). The groups, in the manifest's order, are the
columns: sizes are any, but for those of a rotation, a camera and a light.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofer_models.files.refusal import FileRefused
from ofer_models.files.schema import choice, integer, number, record, sequence

LIGHT = 27  # spherical harmonics of three bands, nine for each of red, green and blue
# Group -> size, None where a regressor has as many as it was trained with.
GROUPS: dict[str, int | None] = {
    "shape": None, "expression": None, "jaw": 3, "rotation": 3, "camera": 3, "translation": 3, "albedo": None,
    "light": LIGHT, "occlusion": 1,
}  # fmt: skip
CROP, COEFFICIENTS = "crop", "coefficients"  # the graph's input and output
ALIGNMENTS = ("five_points", "box68")
_POINT = sequence(number(-1e4, 1e4), 2, 2)
_COLOUR = sequence(number(-1e3, 1e3), 3, 3)


def _group(value: Any, field: str) -> tuple[str, int]:
    """A name and a size: a list, because the order of a table's fields means nothing."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise FileRefused(f"says {field}: should be [name, size]")
    return choice(*GROUPS)(value[0], field), integer(1, 4096)(value[1], field)


# The fields of a stage of kind regressor, beside those of every stage.
FIELDS = {
    "groups": sequence(_group, 1, len(GROUPS)),
    "crop": record(
        {"align": choice(*ALIGNMENTS), "mean": _COLOUR, "deviation": sequence(number(1e-3, 1e3), 3, 3)},
        {"template": sequence(_POINT, 5, 5), "scale": number(0.1, 10), "channels": choice("rgb", "bgr")},
    ),
    "rotation": choice("vector", "euler"),
    "focal": number(1, 1e6),
    "distance": number(1e-3, 1e4),
}


@dataclass(frozen=True)
class CropSpec:
    """size px of the square's side. A face is laid on it by ArcFace's five points, which get to template (5, 2) px, or
    upright by the box around its 68 landmarks, whose mean side times `scale` is the square's.

    The network sees (value / 255 - mean) / deviation, mean and deviation (3,) of the channels in the order of
    `channels`, rgb or bgr. Edge pixels are repeated beyond the picture.
    """

    size: int
    align: str
    mean: np.ndarray
    deviation: np.ndarray
    template: np.ndarray | None = None
    scale: float = 1.0
    channels: str = "rgb"


@dataclass(frozen=True)
class RegressorSpec:
    """groups: name -> size, in the columns' order. shape, expression: the head's first ones. jaw: a rotation vector.

    rotation: of the head before a camera that looks at it, x to the right of the picture, y up, z towards the camera:
    a rotation vector, or Euler angles (pitch, yaw, roll: turned about z, then y, then x).
    camera: scale, x, y of a weak perspective, which puts p, turned about the root joint, at scale (p + (x, y)); the
    crop's middle is 0, its edges are 1, y is up. translation: of p turned about the head's origin, before a camera
    `distance` away with `focal` px in the crop, in the head's unit. light: nine coefficients of red, of green, of blue.
    """

    groups: dict[str, int]
    crop: CropSpec
    rotation: str = "vector"
    focal: float = 0.0
    distance: float = 0.0

    @property
    def width(self) -> int:
        """How many coefficients there are."""
        return sum(self.groups.values())

    def split(self, coefficients: np.ndarray) -> dict[str, np.ndarray]:
        """Coefficients (..., D) by group."""
        parts = np.split(coefficients, np.cumsum(list(self.groups.values()))[:-1], axis=-1)
        return dict(zip(self.groups, parts, strict=True))


def read_regressor(entry: Mapping[str, Any], field: str) -> RegressorSpec:
    """The regressor of a manifest's entry whose fields were checked one by one. Raises FileRefused naming what does not
    fit together."""
    for needed in ("groups", "crop"):
        if needed not in entry:
            raise FileRefused(f"lacks {field}.{needed}")
    groups, crop = dict(entry["groups"]), entry["crop"]
    if len(groups) != len(entry["groups"]):
        raise FileRefused(f"says {field}.groups: one of them twice")
    for name, size in groups.items():
        if GROUPS[name] not in (None, size):
            raise FileRefused(f"says {field}.groups.{name}: {size}, should be {GROUPS[name]}")
    for needed in ("shape", "expression"):
        if needed not in groups:
            raise FileRefused(f"lacks {field}.groups.{needed}")
    if {"camera", "translation"} <= groups.keys():
        raise FileRefused(f"says {field}.groups: camera and translation, of which one is meant")
    wanted = {"template": crop["align"] == "five_points", "scale": crop["align"] == "box68"}
    for name, needed in wanted.items():
        if needed and name not in crop:
            raise FileRefused(f"lacks {field}.crop.{name}")
    for name in ("focal", "distance"):
        if "translation" in groups and name not in entry:
            raise FileRefused(f"lacks {field}.{name}")
    size = _square(entry["inputs"], f"{field}.inputs")
    found, width = entry["outputs"], sum(groups.values())
    if list(found) != [COEFFICIENTS] or len(found[COEFFICIENTS]) != 2 or found[COEFFICIENTS][1] != width:
        raise FileRefused(f"says {field}.outputs: should be {COEFFICIENTS}: [F, {width}], the sum of the groups")
    template = np.array(crop["template"]) if "template" in crop else None
    return RegressorSpec(
        groups,
        CropSpec(
            size, crop["align"], np.array(crop["mean"], np.float32), np.array(crop["deviation"], np.float32), template,
            crop.get("scale", 1.0), crop.get("channels", "rgb"),
        ),
        entry.get("rotation", "vector"), entry.get("focal", 0.0), entry.get("distance", 0.0),
    )  # fmt: skip


def _square(inputs: Mapping[str, list[int | str]], field: str) -> int:
    dims = inputs.get(CROP, [])
    sides = dims[2:]
    if list(inputs) != [CROP] or len(dims) != 4 or dims[1] != 3 or sides[0] != sides[1] or isinstance(sides[0], str):
        raise FileRefused(f"says {field}: should be {CROP}: [F, 3, S, S] with a number for S")
    if not 16 <= sides[0] <= 1024:
        raise FileRefused(f"says {field}: crops of {sides[0]} px, should be 16 to 1024")
    return sides[0]
