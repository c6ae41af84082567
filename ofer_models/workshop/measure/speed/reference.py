"""OFER's sampler as one would write it down from the paper: the yardstick of `ofer bench`. Needs torch.

A U-Net of 1 x 1 convolutions over signals of length one; sixteen separate query/key/value maps in every attention; time
and context embedded anew for every sample at every step; 1000 steps of ancestral sampling (Ho et al. 2020), nothing
folded, stacked or shared. Weights come by their official names, so the structure here is independent of `networks`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ofer_models.runtime.schedule import NoiseSchedule

MAPS, HEADS = 16, 4


class PlainDenoiser:
    """Predicted noise (B, D) of samples x (B, D) at steps t (B,) under contexts (B, C), row by row alike."""

    def __init__(self, weights: Mapping[str, Tensor], widths: Sequence[int]) -> None:
        """weights: official name -> tensor, maps included (`Denoiser.official_state_dict`); widths: of the levels."""
        self._weights, self._levels = {name: tensor.detach() for name, tensor in weights.items()}, len(widths) - 1

    @torch.inference_mode()
    def __call__(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        half = self._weights["time_mlp.1.weight"].shape[1] // 2
        frequency = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
        phase = t[:, None].float() * frequency
        time = self._linear("time_mlp.1", torch.cat([phase.sin(), phase.cos()], dim=-1))
        condition = torch.cat([self._linear("time_mlp.3", F.gelu(time)), context], dim=-1)
        entered = x = self._conv("init_conv", x[..., None])
        skips = []
        for i in range(self._levels):
            x = self._block(f"downs.{i}.0", x, condition)
            skips.append(x)
            x = self._attention(f"downs.{i}.2", self._block(f"downs.{i}.1", x, condition))
            skips.append(x)
            x = self._resize(f"downs.{i}.3", x)
        x = self._attention("mid_attn", self._block("mid_block1", x, condition))
        x = self._block("mid_block2", x, condition)
        for i in range(self._levels):
            x = self._resize(f"ups.{i}.0", x)
            x = self._block(f"ups.{i}.1", torch.cat([x, skips.pop()], dim=1), condition)
            x = self._block(f"ups.{i}.2", torch.cat([x, skips.pop()], dim=1), condition)
            x = self._attention(f"ups.{i}.3", x)
        x = self._block("finals.0.0", torch.cat([x, entered], dim=1), condition)
        return self._conv("finals.0.2", self._attention("finals.0.1", x))[..., 0]

    def _block(self, name: str, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self._linear(f"{name}.mlp.1", F.silu(condition))[..., None].chunk(2, dim=1)
        h = self._norm(f"{name}.block1.norm", self._conv(f"{name}.block1.proj", x))
        h = F.silu(h * (scale + 1) + shift)
        h = F.silu(self._norm(f"{name}.block2.norm", self._conv(f"{name}.block2.proj", h)))
        return h + (self._conv(f"{name}.res_conv", x) if f"{name}.res_conv.weight" in self._weights else x)

    def _attention(self, name: str, x: Tensor) -> Tensor:
        width = x.shape[1]
        normed = F.normalize(x, dim=1) * self._weights[f"{name}.fn.norm.g"] * math.sqrt(width)
        maps = [F.conv1d(normed, self._weights[f"{name}.fn.fn.to_qkv.{i}.weight"]) for i in range(MAPS)]
        q, k, v = (
            torch.stack([part.reshape(len(x), HEADS, -1) for part in parts], dim=2)  # (B, heads, maps, channels)
            for parts in zip(*(both.chunk(3, dim=1) for both in maps), strict=True)
        )
        tokens = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(dim=-1) @ v
        tokens = self._conv(f"{name}.fn.fn.to_out", tokens.transpose(1, 2).reshape(len(x), MAPS, -1).transpose(1, 2))
        return x + self._linear(f"{name}.fn.fn.to_out_linear", tokens)

    def _resize(self, name: str, x: Tensor) -> Tensor:
        return self._linear(f"{name}.2", F.silu(self._linear(f"{name}.0", x[..., 0])))[..., None]

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 1, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _conv(self, name: str, x: Tensor) -> Tensor:
        weight = self._weights[f"{name}.weight"]
        return F.conv1d(x, weight.reshape(*weight.shape[:2], 1), self._weights[f"{name}.bias"])

    def _linear(self, name: str, x: Tensor) -> Tensor:
        weight = self._weights[f"{name}.weight"]
        return F.linear(x, weight.reshape(weight.shape[:2]), self._weights.get(f"{name}.bias"))


@torch.inference_mode()
def sample(net: PlainDenoiser, context: np.ndarray, noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ancestral sampling over all 1000 steps: context (C,), noise (N, D) -> samples (N, D), float32.

    `rng` draws (1, N, D) normal numbers at every step but the last, as `runtime.sampler` does.
    """
    schedule = NoiseSchedule()
    alpha_bar = schedule.alpha_bar
    x, rows = torch.from_numpy(noise), torch.from_numpy(np.repeat(context[None], len(noise), axis=0))
    for t in range(schedule.steps - 1, -1, -1):
        before = alpha_bar[t - 1] if t else 1.0
        beta = schedule.betas[t]
        eps = net(x, torch.full((len(x),), t), rows)
        x0 = (x - math.sqrt(1 - alpha_bar[t]) * eps) / math.sqrt(alpha_bar[t])
        mean = math.sqrt(before) * beta / (1 - alpha_bar[t]) * x0
        mean = mean + math.sqrt(1 - beta) * (1 - before) / (1 - alpha_bar[t]) * x
        x = mean
        if t:
            deviation = math.sqrt(beta * (1 - before) / (1 - alpha_bar[t]))
            x = x + deviation * torch.from_numpy(rng.standard_normal((1, *noise.shape), dtype=np.float32)[0])
    return x.float().numpy()
