"""ArcFace encoder: insightface's iresnet, whose normalised output is OFER's identity context.

Structure: Deng et al. 2019 and the insightface iresnet; sizes as in OFER's released checkpoints (iresnet100).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


class IResidual(nn.Module):
    """norm, 3x3 convolution, norm, PReLU, strided 3x3 convolution, norm; plus the block's input, reduced if need be."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.norm_in = nn.BatchNorm2d(n_in)
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(n_out)
        self.activation = nn.PReLU(n_out)
        self.conv_out = nn.Conv2d(n_out, n_out, 3, stride, padding=1, bias=False)
        self.norm_out = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, n_in, H, W) -> (B, n_out, ceil(H / stride), ceil(W / stride))."""
        h = self.activation(self.norm(self.conv(self.norm_in(x))))
        return self.norm_out(self.conv_out(h)) + self.shortcut(x)

    def official_slots(self, name: str) -> Iterator[tuple[str, Slot]]:
        if isinstance(self.shortcut, nn.Sequential):
            yield f"{name}.downsample.0.weight", plain_slot(self.shortcut[0].weight)
            yield from norm_slots(f"{name}.downsample.1", self.shortcut[1])
        yield from norm_slots(f"{name}.bn1", self.norm_in)
        yield f"{name}.conv1.weight", plain_slot(self.conv.weight)
        yield from norm_slots(f"{name}.bn2", self.norm)
        yield f"{name}.prelu.weight", plain_slot(self.activation.weight)
        yield f"{name}.conv2.weight", plain_slot(self.conv_out.weight)
        yield from norm_slots(f"{name}.bn3", self.norm_out)


class ArcFace(OfficialNetwork):
    """Aligned face crops to identity features.

    depths, widths: blocks and channels of the stages, each of which halves the resolution; the defaults are iresnet100.
    size: pixels of the square input. features: length of the output.
    single_row_quirk: leave out the last normalisation when the batch is one image, as OFER's release does in IdRank.
    """

    KNOWN_EXTRAS = (r".+\.num_batches_tracked",)

    def __init__(
        self,
        depths: Sequence[int] = (3, 13, 30, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        size: int = 112,
        features: int = 512,
        single_row_quirk: bool = False,
    ) -> None:
        super().__init__()
        self.single_row_quirk = single_row_quirk
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])
        )
        self.stages = nn.ModuleList()
        n_in = widths[0]
        for depth, width in zip(depths, widths, strict=True):
            blocks = [IResidual(n_in, width, stride=2), *(IResidual(width, width, stride=1) for _ in range(depth - 1))]
            self.stages.append(nn.Sequential(*blocks))
            n_in, size = width, -(-size // 2)
        self.norm = nn.BatchNorm2d(n_in)
        self.project = nn.Linear(n_in * size * size, features)
        self.norm_features = nn.BatchNorm1d(features)

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, features) before normalisation of their length; images as for `forward`."""
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        x = self.project(self.norm(x).flatten(1))
        return x if self.single_row_quirk and x.shape[0] == 1 else self.norm_features(x)

    def forward(self, images: Tensor) -> Tensor:
        """Unit vectors (B, features) of images (B, 3, size, size) float32 = (pixel - 127.5) / 127.5.

        The faces are aligned to ArcFace's five-point template. Channel order is the checkpoint's: BGR for the released
        OFER checkpoints, RGB for insightface's own.
        """
        return F.normalize(self.embed(images), dim=-1, eps=1e-12)

    def official_slots(self) -> Slots:
        conv, norm, activation = self.stem
        slots: Slots = {"conv1.weight": plain_slot(conv.weight)}
        slots.update(norm_slots("bn1", norm))
        slots["prelu.weight"] = plain_slot(activation.weight)
        for i, stage in enumerate(self.stages, start=1):
            for j, block in enumerate(stage):
                slots.update(block.official_slots(f"layer{i}.{j}"))
        slots.update(norm_slots("bn2", self.norm))
        slots.update(linear_slots("fc", self.project))
        slots.update(norm_slots("features", self.norm_features))
        return slots
