"""Where a picture shows skin: what the photometric term looks at."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.workshop.errors import DataError

_REACH, _LEAST = 3.0, 0.02  # deviations from the middle colour of a face, and the least deviation
_MIDDLE = 1.4826  # of a normal distribution: its deviation over its median absolute deviation
# CelebAMask's classes in the order of the public face parsers: skin, nose, eyes, brows and lips; not glasses.
_SKIN_CLASSES = (1, 2, 4, 5, 6, 7, 11, 12)
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def skin_by_colour(pictures: Tensor, head: Tensor) -> Tensor:
    """(B, S, S) float, 1 where pictures (B, 3, S, S) RGB in 0..1 show the projected head (B, S, S) bool in about its
    usual colour. The usual is the median of each picture's chroma there; hair, glasses and hands of another tone lie
    away from it.
    """
    r, g, b = pictures.unbind(1)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    chroma = torch.stack([b - luma, r - luma], 1)
    skin = torch.zeros_like(luma)
    for number, inside in enumerate(head):
        if inside.any():
            colours = chroma[number][:, inside]
            middle = colours.median(1, keepdim=True).values
            off = colours - middle
            spread = _MIDDLE * off.abs().median(1, keepdim=True).values
            near = (off / spread.clamp_min(_LEAST)).norm(dim=0) < _REACH
            skin[number][inside] = near.to(skin)
    return skin


class Parser:
    """A user's face parsing network as an ONNX graph: (B, 3, 512, 512) normalised as for ImageNet to 19 classes."""

    SIDE = 512

    def __init__(self, path: Path) -> None:
        """Raises DataError where the graph has another form."""
        self._stage = OnnxStage(path)
        inputs, outputs = self._stage.inputs, self._stage.outputs
        if len(inputs) != 1 or not outputs:
            raise DataError(f"{path} is no parsing network: one input, and classes as the first output, are needed")
        self._input, self._output = next(iter(inputs)), next(iter(outputs))

    def __call__(self, pictures: Tensor, head: Tensor) -> Tensor:
        """As `skin_by_colour`; where the head is projected does not matter."""
        mean, deviation = (torch.tensor(values).reshape(3, 1, 1) for values in (_MEAN, _DEVIATION))
        large = F.interpolate((pictures.cpu() - mean) / deviation, (self.SIDE, self.SIDE))
        classes = torch.from_numpy(self._stage(**{self._input: large.numpy()})[self._output])
        classes = F.interpolate(classes, pictures.shape[2:]).argmax(1)
        return torch.isin(classes, torch.tensor(_SKIN_CLASSES)).to(pictures)
