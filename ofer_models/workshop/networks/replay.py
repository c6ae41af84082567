"""The query/key/value maps that released checkpoints do not contain, drawn again as the release drew them.

The release keeps these maps outside its state dict, so they stay at their random first values. Those follow from the
seed and from everything that was constructed before, because all initialisers draw from one generator of torch. Here
the earlier networks are only drawn and forgotten. Facts: the release's entry points; insightface's and OpenAI CLIP's
published constructors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from ofer_models.workshop.networks.arcface import ArcFace
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.farl import Farl
from ofer_models.workshop.networks.official_weights import Slots
from ofer_models.workshop.networks.rank import RankNetwork

Network = Literal["idgen", "expgen"]
Scenario = Literal["training", "demo"]
DENOISERS = {"idgen": (300, (300, 50, 10), 512), "expgen": (53, (53, 25, 10), 1024)}


class Construction(NamedTuple):
    """What the release constructs after seeding, up to and including the network in question."""

    seed: int
    order: tuple[str, ...]


CONSTRUCTIONS: dict[tuple[Network, Scenario], Construction] = {
    ("idgen", "training"): Construction(0, ("arcface", "idgen")),
    ("expgen", "training"): Construction(0, ("clip", "arcface", "expgen")),
    ("idgen", "demo"): Construction(1, ("clip", "arcface", "rank", "arcface", "idgen", "arcface", "idgen")),
    ("expgen", "demo"): Construction(
        1, ("clip", "arcface", "rank", "arcface", "idgen", "arcface", "idgen", "clip", "arcface", "expgen")
    ),
}


def replay_maps(network: Network, scenario: Scenario) -> dict[str, Tensor]:
    """The maps of the official IdGen or ExpGen: `<block>.fn.fn.to_qkv.<i>.weight` -> (384, c, 1).

    `training` gives the maps that the weights were fitted to, `demo` those that the released demo runs with.
    """
    return replay(CONSTRUCTIONS[network, scenario])


def replay(construction: Construction) -> dict[str, Tensor]:
    """The maps of a construction's last network, a denoiser."""
    generator = Generator().manual_seed(construction.seed)
    for name in construction.order[:-1]:
        _DRAW[name](generator)
    first_values = _DRAW[construction.order[-1]](generator)
    return {key: value for key, value in first_values.items() if ".to_qkv." in key}


def matching_scenario(network: Network, state: Mapping[str, Tensor]) -> tuple[Scenario | None, dict[str, float]]:
    """Which scenario a released state dict was trained in, told by the `qkv.weight` entries that a forward pass leaves.

    These repeat map 15. Returns the scenario whose maps equal all of them (None if none does, or the file has no such
    entry) and, as evidence, each scenario's largest difference (infinity without entries).
    """
    aliases = {key: value for key, value in state.items() if key.endswith(".fn.fn.qkv.weight")}
    evidence = {}
    for scenario in ("training", "demo"):
        maps = replay_maps(network, scenario)
        differences = [
            float((maps[key.replace(".qkv.weight", ".to_qkv.15.weight")] - value).abs().max())
            for key, value in aliases.items()
        ]
        evidence[scenario] = max(differences, default=math.inf)
    best = min(evidence, key=evidence.__getitem__)
    return (best if evidence[best] < 1e-6 else None), evidence


def _draw_linears(slots: Slots, generator: Generator) -> dict[str, Tensor]:
    """torch's default first values of linear and convolution layers, in the table's order; norms draw nothing."""
    values: dict[str, Tensor] = {}
    bound = 0.0
    for key, slot in slots.items():
        if key.endswith(".weight") and len(slot.shape) > 1:
            values[key] = torch.empty(slot.shape)
            nn.init.kaiming_uniform_(values[key], a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(math.prod(slot.shape[1:]))
        elif key.endswith(".bias") and f"{key.removesuffix('bias')}weight" in values:
            values[key] = torch.empty(slot.shape).uniform_(-bound, bound, generator=generator)
    return values


def _draw_denoiser(network: Network) -> Callable[[Generator], dict[str, Tensor]]:
    def draw(generator: Generator) -> dict[str, Tensor]:
        with torch.device("meta"):
            net = Denoiser(*DENOISERS[network])
        return _draw_linears(net.official_slots(), generator)

    return draw


def _draw_rank(generator: Generator) -> None:
    with torch.device("meta"):
        net = RankNetwork()
    _draw_linears(net.official_slots(), generator)


def _draw_arcface(generator: Generator) -> None:
    with torch.device("meta"):
        slots = ArcFace().official_slots()
    _draw_linears(slots, generator)
    for slot in slots.values():  # insightface then gives every convolution normal values
        if len(slot.shape) == 4:
            _skip_normal(slot.shape, generator)


def _draw_clip(generator: Generator) -> None:
    """OpenAI's CLIP with both towers: layers' own first values, then a second pass over the text tower."""
    with torch.device("meta"):
        image = Farl()
    _skip_uniform(image.patches.weight.shape, generator)
    _skip_normal(image.class_token.shape, generator)
    _skip_normal(image.positions.shape, generator)
    for _ in image.blocks:
        _draw_transformer_block(768, generator)
    _skip_normal(image.projection.shape, generator)
    width, layers = 512, 12
    for _ in range(layers):
        _draw_transformer_block(width, generator)
    _skip_normal((49408, width), generator)  # token embedding, twice: by its layer and by the second pass
    _skip_normal((49408, width), generator)
    _skip_normal((77, width), generator)
    for _ in range(layers):
        for shape in ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width)):
            _skip_normal(shape, generator)
    _skip_normal((width, width), generator)


def _draw_transformer_block(width: int, generator: Generator) -> None:
    for shape in ((width, width), (width,), (3 * width, width)):  # attention: output layer first, then its inputs
        _skip_uniform(shape, generator)
    for shape in ((4 * width, width), (4 * width,), (width, 4 * width), (width,)):
        _skip_uniform(shape, generator)


def _skip_uniform(shape: tuple[int, ...], generator: Generator) -> None:
    torch.empty(shape).uniform_(generator=generator)


def _skip_normal(shape: tuple[int, ...], generator: Generator) -> None:
    torch.empty(shape).normal_(generator=generator)


_DRAW = {
    "clip": _draw_clip,
    "arcface": _draw_arcface,
    "rank": _draw_rank,
    "idgen": _draw_denoiser("idgen"),
    "expgen": _draw_denoiser("expgen"),
}
