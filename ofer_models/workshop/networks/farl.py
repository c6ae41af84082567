"""FaRL image encoder: CLIP's vision transformer, whose class token's projection is OFER's second context.

Structure: Radford et al. 2021 (CLIP ViT-B/16); FaRL (Zheng et al. 2022) and OFER only change the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofer_models.workshop.networks.official_weights import (
    OfficialNetwork,
    Slot,
    Slots,
    linear_slots,
    norm_slots,
    plain_slot,
)

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class EncoderBlock(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)) with CLIP's x sigmoid(1.702 x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, tokens, width) -> the same shape."""
        qkv = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, tokens, channels)
        x = x + self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = self.widen(self.norm_mlp(x))
        return x + self.narrow(h * torch.sigmoid(1.702 * h))

    def official_slots(self, name: str) -> Iterator[tuple[str, Slot]]:
        yield f"{name}.attn.in_proj_weight", plain_slot(self.qkv.weight)
        yield f"{name}.attn.in_proj_bias", plain_slot(self.qkv.bias)
        yield from linear_slots(f"{name}.attn.out_proj", self.project)
        yield from norm_slots(f"{name}.ln_1", self.norm_attention)
        yield from linear_slots(f"{name}.mlp.c_fc", self.widen)
        yield from linear_slots(f"{name}.mlp.c_proj", self.narrow)
        yield from norm_slots(f"{name}.ln_2", self.norm_mlp)


class Farl(OfficialNetwork):
    """Loose face crops to features. The defaults are CLIP ViT-B/16.

    size: pixels of the square input; patch: of one token; features: length of the output.
    """

    # The text tower and what goes with it, which complete CLIP files carry.
    KNOWN_EXTRAS = (
        r"transformer\..+",
        r"ln_final\..+",
        r"token_embedding\.weight",
        r"positional_embedding",
        r"text_projection",
        r"logit_scale",
    )

    def __init__(
        self, size: int = 224, patch: int = 16, width: int = 768, layers: int = 12, heads: int = 12, features: int = 512
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_token = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn((size // patch) ** 2 + 1, width) * width**-0.5)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(layers)))
        self.norm_out = nn.LayerNorm(width)
        self.projection = nn.Parameter(torch.randn(width, features) * width**-0.5)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, features), not normalised in length, of images (B, 3, size, size) float32.

        images: RGB in 0..1, minus MEAN, over STD, channel by channel.
        """
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(images.shape[0], 1, -1), patches], dim=1) + self.positions
        return self.norm_out(self.blocks(self.norm_in(tokens))[:, 0]) @ self.projection

    def load_official(self, state: Mapping[str, Tensor]) -> list[str]:
        """Also from a complete CLIP state dict, or its image tower's alone, with or without `visual.`."""
        if not any(key.startswith("visual.") for key in state):
            state = {f"visual.{key}": tensor for key, tensor in state.items()}
        return super().load_official(state)

    def official_slots(self) -> Slots:
        slots: Slots = {
            "visual.class_embedding": plain_slot(self.class_token),
            "visual.positional_embedding": plain_slot(self.positions),
            "visual.proj": plain_slot(self.projection),
            "visual.conv1.weight": plain_slot(self.patches.weight),
        }
        slots.update(norm_slots("visual.ln_pre", self.norm_in))
        for i, block in enumerate(self.blocks):
            slots.update(block.official_slots(f"visual.transformer.resblocks.{i}"))
        slots.update(norm_slots("visual.ln_post", self.norm_out))
        return slots
