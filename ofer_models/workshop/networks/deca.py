"""DECA's coarse encoder: ResNet-50 and two linear layers, from crops to 236 coefficients of FLAME.

Facts: Feng et al., "Learning an animatable detailed 3D face model from in-the-wild images" (2021) and its public code.
Input RGB in 0..1, 224 px.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ofer_models.head.spherical_harmonics import AMBIENT, TERMS, harmonics
from ofer_models.workshop.networks.official_weights import OfficialNetwork, Slots, linear_slots, plain_slot
from ofer_models.workshop.networks.resnet import DEPTHS, FEATURES, ResNet50

SIZE = 224  # px
# The groups in the order of the coefficients, by the names that bundles have; rotation and jaw are the file's `pose`.
GROUPS = {"shape": 100, "albedo": 50, "expression": 50, "rotation": 3, "jaw": 3, "camera": 3, "light": 27}
_HIDDEN = 1024


class DecaEncoder(OfficialNetwork):
    """Crops (B, 3, 224, 224) to coefficients (B, 236) as the file's network gives them: light is nine times red, green
    and blue, of harmonics of its own."""

    KNOWN_EXTRAS = (r".+\.num_batches_tracked",)

    def __init__(self, depths: tuple[int, ...] = DEPTHS, features: int = FEATURES) -> None:
        super().__init__()
        self.body = ResNet50(depths=depths)
        self.hidden, self.out = nn.Linear(features, _HIDDEN), nn.Linear(_HIDDEN, sum(GROUPS.values()))

    def forward(self, crop: Tensor) -> Tensor:
        return self.out(self.hidden(self.body(crop)).relu())

    def official_slots(self) -> Slots:
        slots = {f"encoder.{name}": plain_slot(tensor)
                 for name, tensor in self.body.state_dict(keep_vars=True).items()
                 if not name.endswith("num_batches_tracked")}  # fmt: skip
        return slots | dict(linear_slots("layers.0", self.hidden)) | dict(linear_slots("layers.2", self.out))


class WithOurLight(nn.Module):
    """The encoder as a bundle has it: `crop` to `coefficients`, the light in the harmonics of
    `head.spherical_harmonics`. Both sets span the same functions of a normal, so nothing is lost.
    """

    def __init__(self, network: DecaEncoder) -> None:
        super().__init__()
        self.network = network
        change = torch.zeros(3 * TERMS, 3 * TERMS)
        for colour in range(3):
            change[colour * TERMS : (colour + 1) * TERMS, colour::3] = torch.from_numpy(_change_of_basis())
        self.register_buffer("change", change)
        ambient = torch.zeros(3 * TERMS)
        ambient[::TERMS] = AMBIENT
        self.register_buffer("ambient", ambient)

    def forward(self, crop: Tensor) -> Tensor:
        told = self.network(crop)
        light = told[:, -3 * TERMS :] @ self.change.T - self.ambient
        return torch.cat([told[:, : -3 * TERMS], light], dim=1)


def deca_harmonics(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(..., 9) of unit normals, as DECA lights with them."""
    first, second = np.sqrt(np.pi / 3), np.sqrt(15 * np.pi) / 8
    terms = [np.full_like(x, 1 / np.sqrt(4 * np.pi)), first * x, first * y, first * z, second * x * y, second * x * z,
             second * y * z, second / 2 * (x * x - y * y), second / np.sqrt(12) * (3 * z * z - 1)]  # fmt: skip
    return np.stack(terms, axis=-1)


def _change_of_basis() -> np.ndarray:
    """(9, 9) from coefficients of DECA's harmonics to those of ours."""
    normals = np.random.default_rng(0).normal(size=(200, 3))
    x, y, z = (normals / np.linalg.norm(normals, axis=1, keepdims=True)).T
    ours = np.stack(harmonics(x, y, z), axis=-1)
    return np.linalg.lstsq(ours, deca_harmonics(x, y, z), rcond=None)[0].astype(np.float32)
