"""The regressor of Deep3D and CFR-GAN: ResNet-50 with a linear layer for each group of coefficients.

Facts: Ju et al., "Complete face recovery GAN" (WACV 2022) and its public code. Input BGR in 0..1, 224 px.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ofer_models.workshop.networks.official_weights import OfficialNetwork, Slots, plain_slot
from ofer_models.workshop.networks.resnet import DEPTHS, FEATURES, ResNet50

SIZE = 224  # px
# The groups in the order of the coefficients, by the names that bundles have, and the file's.
GROUPS = {"shape": 80, "expression": 64, "albedo": 80, "rotation": 3, "light": 27, "translation": 3}
_LAYERS = {"shape": ("fcid",), "expression": ("fcex",), "albedo": ("fctex",), "rotation": ("fcangles",),
           "light": ("fcgamma",), "translation": ("fcXY", "fcZ")}  # fmt: skip
_SPLIT = {"fcXY": 2, "fcZ": 1}


class CfrRegressor(OfficialNetwork):
    """Crops (B, 3, 224, 224) to coefficients (B, 257): GROUPS one after the other.

    Angles in radians about x, y and z: the head is turned by Rz Ry Rx. Translations in decimetres, as in the files.
    """

    KNOWN_EXTRAS = (r".+\.num_batches_tracked",)

    def __init__(self, depths: tuple[int, ...] = DEPTHS, features: int = FEATURES) -> None:
        super().__init__()
        self.body = ResNet50(caffe=True, depths=depths)
        sizes = {name: _SPLIT.get(name, GROUPS[group]) for group, names in _LAYERS.items() for name in names}
        self.groups = nn.ModuleDict({name: nn.Linear(features, size) for name, size in sizes.items()})

    def maps(self, crop: Tensor) -> tuple[list[Tensor], Tensor]:
        """Four feature maps, from early to late, and the coefficients (B, 257)."""
        seen = self.body.maps(crop)
        return seen, torch.cat([layer(seen[-1]) for layer in self.groups.values()], dim=1)

    def forward(self, crop: Tensor) -> Tensor:
        return self.maps(crop)[1]

    def official_slots(self) -> Slots:
        slots = {name: plain_slot(tensor) for name, tensor in self.body.state_dict(keep_vars=True).items()
                 if not name.endswith("num_batches_tracked")}  # fmt: skip
        for name, layer in self.groups.items():
            slots[f"{name}.weight"] = plain_slot(layer.weight.unsqueeze(-1).unsqueeze(-1))
            slots[f"{name}.bias"] = plain_slot(layer.bias)
        return slots


class InMetres(nn.Module):
    """The regressor as a bundle has it: `crop` to `coefficients`, translations in metres."""

    def __init__(self, network: CfrRegressor, metres: float) -> None:
        super().__init__()
        self.network = network
        scale = torch.ones(sum(GROUPS.values()))
        scale[-GROUPS["translation"]:] = metres
        self.register_buffer("scale", scale)

    def forward(self, crop: Tensor) -> Tensor:
        return self.network(crop) * self.scale


def split(coefficients: Tensor, groups: Mapping[str, int] = GROUPS) -> dict[str, Tensor]:
    """Coefficients (..., D) by group."""
    return dict(zip(groups, coefficients.split(list(groups.values()), dim=-1), strict=True))
