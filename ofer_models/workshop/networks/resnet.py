"""ResNet-50 as released regressors have it: the same layers under the same names, strided in one of two ways.

Structure: He et al., "Deep residual learning for image recognition" (2016). `caffe` is the original's: the stride in a
block's first convolution, and a pooling that begins at the picture's edge and looks beyond its end (VGGFace2's weights,
Deep3D's ports, CFR-GAN). Otherwise torchvision's: the stride in the 3x3 convolution, pooling with a margin (DECA).
"""

from __future__ import annotations

from torch import Tensor, nn

DEPTHS = (3, 4, 6, 3)
FEATURES = 2048  # of a picture
_EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: (B, n_in, H, W) to (B, 4 width, H / stride, W / stride)."""

    def __init__(self, n_in: int, width: int, stride: int, caffe: bool) -> None:
        super().__init__()
        n_out = _EXPANSION * width
        self.conv1 = nn.Conv2d(n_in, width, 1, stride if caffe else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1 if caffe else stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Module | None = None
        if stride > 1 or n_in != n_out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn1(self.conv1(x)).relu()
        h = self.bn3(self.conv3(self.bn2(self.conv2(h)).relu()))
        return (h + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet50(nn.Module):
    """Pictures (B, 3, S, S) to features. depths: blocks of the four layers (tests use fewer)."""

    def __init__(self, caffe: bool = False, depths: tuple[int, ...] = DEPTHS) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=0 if caffe else 1, ceil_mode=caffe)
        n_in = 64
        for number, depth in enumerate(depths):
            width = 64 << number
            blocks = [Bottleneck(n_in, width, 2 if number else 1, caffe)]
            n_in = _EXPANSION * width
            blocks += [Bottleneck(n_in, width, 1, caffe) for _ in range(depth - 1)]
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
        self.n_layers = len(depths)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, x: Tensor) -> list[Tensor]:
        """What the last three layers see, (B, C, H, W) each, and the mean of the last, (B, FEATURES)."""
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        seen = []
        for number in range(self.n_layers):
            x = getattr(self, f"layer{number + 1}")(x)
            seen.append(x)
        return [*seen[1:], x.mean((2, 3))]

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, FEATURES)."""
        return self.maps(x)[-1]
