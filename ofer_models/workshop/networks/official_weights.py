"""Loading weights that carry the released OFER names into our modules, checked in both directions.

Each network describes itself as a table of `Slot`s: official name -> a view of one of our parameters and the shape the
official file stores it in. Because slots are views, several official tensors can share one stacked parameter, and the
same table reads (`load_slots`) and writes (`dump_slots`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn


class OfficialWeightsError(ValueError):
    """An official state dict does not fit the network; the message names every tensor that is wrong."""


@dataclass(frozen=True)
class Slot:
    """Where one official tensor lives: `view` shares memory with our parameter, `shape` is the file's."""

    view: Tensor
    shape: tuple[int, ...]


Slots = dict[str, Slot]


class OfficialNetwork(nn.Module):
    """A network that released files fit: it says by `official_slots` which of its parameters have which names there."""

    KNOWN_EXTRAS: ClassVar[tuple[str, ...]] = ()  # regular expressions of names that files may hold besides

    def official_slots(self) -> Slots:
        """Official name -> place in this module, in the order in which the release draws the layers' first values."""
        raise NotImplementedError

    def load_official(self, state: Mapping[str, Tensor]) -> list[str]:
        """Load tensors under their official names. Returns the known extras found and ignored.

        Raises OfficialWeightsError naming every misfit.
        """
        return load_slots(self.official_slots(), state, self.KNOWN_EXTRAS)

    def official_state_dict(self) -> dict[str, Tensor]:
        """The weights under their official names: the inverse of `load_official`."""
        return dump_slots(self.official_slots())


def linear_slots(name: str, linear: nn.Linear, trailing: int = 0) -> Iterator[tuple[str, Slot]]:
    """Slots of a linear layer; `trailing` ones are appended to the weight's shape (1 for a length-1 convolution)."""
    yield f"{name}.weight", Slot(linear.weight, (*linear.weight.shape, *[1] * trailing))
    if linear.bias is not None:
        yield f"{name}.bias", plain_slot(linear.bias)


def norm_slots(name: str, norm: nn.Module) -> Iterator[tuple[str, Slot]]:
    """Slots of an affine normalisation layer, with its running statistics where it keeps any."""
    for part in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(norm, part, None)
        if tensor is not None:
            yield f"{name}.{part}", plain_slot(tensor)


def plain_slot(tensor: Tensor) -> Slot:
    """A slot stored in the official file in our own shape."""
    return Slot(tensor, tuple(tensor.shape))


@torch.no_grad()
def load_slots(
    slots: Slots, state: Mapping[str, Tensor], known_extras: Sequence[str] = (), hint: str = ""
) -> list[str]:
    """Copy an official state dict into the slots.

    known_extras: regular expressions of names that official files may hold and the network does not need.
    hint: one sentence appended to the error.
    Returns the known extras that were present, sorted. Raises OfficialWeightsError, before anything is copied, when a
    tensor is missing, unknown, or has another shape.
    """
    missing = [key for key in slots if key not in state]
    extras = sorted(key for key in state if key not in slots)
    known = [key for key in extras if any(re.fullmatch(pattern, key) for pattern in known_extras)]
    unknown = sorted(set(extras) - set(known))
    misshaped = [
        f"{key} is {_shape(state[key].shape)}, should be {_shape(slot.shape)}"
        for key, slot in slots.items()
        if key in state and tuple(state[key].shape) != slot.shape
    ]
    problems = [
        f"{len(names)} {what}: {_enumerate(names)}"
        for what, names in (("missing", missing), ("unknown", unknown), ("mis-shaped", misshaped))
        if names
    ]
    if problems:
        raise OfficialWeightsError(f"official weights do not fit: {'; '.join(problems)}" + (hint and f". {hint}"))
    for key, slot in slots.items():
        slot.view.copy_(torch.as_tensor(state[key]).reshape(slot.view.shape))
    return known


@torch.no_grad()
def dump_slots(slots: Slots) -> dict[str, Tensor]:
    """The slots' values under their official names and shapes (copies)."""
    return {key: slot.view.reshape(slot.shape).clone() for key, slot in slots.items()}


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _enumerate(names: Sequence[str], limit: int = 12) -> str:
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
