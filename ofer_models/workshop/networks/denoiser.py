"""OFER's noise predictor: a conditional multi-layer perceptron in U-Net shape over face-model coefficients.

IdGen denoises head-shape coefficients, ExpGen expression coefficients plus jaw. The released network treats a sample as
a signal of length one, so each of its convolutions is a linear map over channels and is one here.
Structure and formulas: OFER (Selvaraju et al., CVPR 2025) and its published release.

Shapes: F faces, N samples of a face, K steps, D coefficients, C context, M modulation (all scales and shifts).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofer_models.workshop.networks.official_weights import (
    OfficialNetwork,
    Slot,
    Slots,
    linear_slots,
    load_slots,
    norm_slots,
    plain_slot,
)


class RmsNorm(nn.Module):
    """gain * sqrt(c) * x / max(|x|, 1e-12) over the last axis of c channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1, eps=1e-12) * (self.gain * math.sqrt(x.shape[-1]))


class MapAttention(nn.Module):
    """Residual self-attention over `maps` tokens that are `maps` linear views of one vector.

    The official network makes a query, key and value per map and head, attends over the maps, projects every token
    back and takes one weighted sum over the tokens. Here all maps are one stacked matrix product, and the weighted sum
    is taken on the attention weights: both steps are linear in the tokens, so they commute exactly.
    """

    def __init__(self, width: int, maps: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.split = (3, heads, maps, head_dim)
        self.norm = RmsNorm(width)
        self.qkv = nn.Linear(width, math.prod(self.split), bias=False)  # rows ordered (q|k|v, head, map, channel)
        self.project = nn.Linear(heads * head_dim, width)
        self.pool = nn.Linear(maps, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., c) -> (..., c)."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, self.split).unbind(-4)  # each (..., heads, maps, head_dim)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        pooled = (self.pool.weight @ weights @ v).flatten(-3)
        bias = self.project.bias * self.pool.weight.sum() + self.pool.bias
        return x + F.linear(pooled, self.project.weight, bias)

    def official_slots(self, name: str) -> Iterator[tuple[str, Slot]]:
        width = self.qkv.in_features
        maps = self.qkv.weight.view(*self.split, width)
        for i in range(self.split[2]):
            view = maps[:, :, i]
            yield f"{name}.fn.fn.to_qkv.{i}.weight", Slot(view, (view[..., 0].numel(), width, 1))
        yield from linear_slots(f"{name}.fn.fn.to_out", self.project, trailing=1)
        yield from linear_slots(f"{name}.fn.fn.to_out_linear", self.pool)
        yield f"{name}.fn.norm.g", Slot(self.norm.gain, (1, width, 1))


class ResidualBlock(nn.Module):
    """Two linear-norm-SiLU halves with a skip; scale and shift act on the first half only."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = nn.Linear(n_in, n_out)
        self.first_norm = nn.LayerNorm(n_out)  # GroupNorm with one group over a length-1 signal
        self.second = nn.Linear(n_out, n_out)
        self.second_norm = nn.LayerNorm(n_out)
        self.skip = nn.Linear(n_in, n_out) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x (F, N, n_in), modulation (F, 1, 2 n_out) = scale | shift -> (F, N, n_out)."""
        scale, shift = modulation.chunk(2, dim=-1)
        h = F.silu(self.first_norm(self.first(x)) * (1 + scale) + shift)
        h = F.silu(self.second_norm(self.second(h)))
        return h + self.skip(x)

    def official_slots(self, name: str, weight: Tensor, bias: Tensor) -> Iterator[tuple[str, Slot]]:
        """`weight` and `bias` are this block's rows of the stacked scale/shift layer."""
        yield f"{name}.mlp.1.weight", plain_slot(weight)
        yield f"{name}.mlp.1.bias", plain_slot(bias)
        yield from linear_slots(f"{name}.block1.proj", self.first, trailing=1)
        yield from norm_slots(f"{name}.block1.norm", self.first_norm)
        yield from linear_slots(f"{name}.block2.proj", self.second, trailing=1)
        yield from norm_slots(f"{name}.block2.norm", self.second_norm)
        if isinstance(self.skip, nn.Linear):
            yield from linear_slots(f"{name}.res_conv", self.skip, trailing=1)


class DownLevel(nn.Module):
    """The layers of one level on the way down, in order; the denoiser walks through them and keeps the skips."""

    def __init__(self, width: int, narrower: int, attention: tuple[int, int, int]) -> None:
        super().__init__()
        self.first = ResidualBlock(width, width)
        self.second = ResidualBlock(width, width)
        self.attention = MapAttention(width, *attention)
        self.resize = _resize(width, narrower)


class UpLevel(nn.Module):
    """The layers of one level on the way up, in order."""

    def __init__(self, narrower: int, width: int, attention: tuple[int, int, int]) -> None:
        super().__init__()
        self.resize = _resize(narrower, width)
        self.first = ResidualBlock(2 * width, width)
        self.second = ResidualBlock(2 * width, width)
        self.attention = MapAttention(width, *attention)


class Denoiser(OfficialNetwork):
    """Predicts the noise in coefficients x at step t, given a context vector.

    n_coefficients: D, 300 for the official IdGen, 53 (50 expression, 3 jaw) for ExpGen.
    widths: channels of the levels, outermost first; official (300, 50, 10) and (53, 25, 10).
    context: C, 512 (ArcFace) for the official IdGen, 1024 (FaRL then ArcFace) for ExpGen.
    maps, heads, head_dim: of the attention; time: width of the time features (even).
    """

    KNOWN_EXTRAS = (r".+\.fn\.fn\.qkv\.weight",)  # left behind by a forward pass of the release; repeats map 15

    def __init__(
        self,
        n_coefficients: int,
        widths: Sequence[int] = (300, 50, 10),
        context: int = 512,
        maps: int = 16,
        heads: int = 4,
        head_dim: int = 32,
        time: int = 512,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or time % 2:
            raise ValueError(f"a denoiser needs at least two widths and even time features, got {widths} and {time}")
        attention = (maps, heads, head_dim)
        self.n_coefficients, self.widths, self.n_context = n_coefficients, tuple(widths), context
        steps = list(pairwise(widths))
        self.enter = nn.Linear(n_coefficients, widths[0])
        self.time_map = nn.Sequential(nn.Linear(time, time), nn.GELU(), nn.Linear(time, time))
        self.down = nn.ModuleList(DownLevel(wide, narrow, attention) for wide, narrow in steps)
        self.middle_first = ResidualBlock(widths[-1], widths[-1])
        self.middle_attention = MapAttention(widths[-1], *attention)
        self.middle_second = ResidualBlock(widths[-1], widths[-1])
        self.up = nn.ModuleList(UpLevel(narrow, wide, attention) for wide, narrow in reversed(steps))
        self.last_block = ResidualBlock(2 * widths[0], widths[0])
        self.last_attention = MapAttention(widths[0], *attention)
        self.leave = nn.Linear(widths[0], n_coefficients)
        # Every block's scale/shift layer reads SiLU([time | context]): stacked, they are one map, run once per step.
        self.modulation_sizes = [2 * block.second.out_features for _, block in self.blocks()]
        self.scale_shift = nn.Linear(time + context, sum(self.modulation_sizes))

    def blocks(self) -> list[tuple[str, ResidualBlock]]:
        """The residual blocks with their official names, in the order of evaluation (and of the modulation vector)."""
        return [
            *(
                (f"downs.{i}.{j}", block)
                for i, level in enumerate(self.down)
                for j, block in enumerate((level.first, level.second))
            ),
            ("mid_block1", self.middle_first),
            ("mid_block2", self.middle_second),
            *(
                (f"ups.{i}.{j}", block)
                for i, level in enumerate(self.up)
                for j, block in enumerate((level.first, level.second), start=1)
            ),
            ("finals.0.0", self.last_block),
        ]

    def time_features(self, t: Tensor) -> Tensor:
        """Sinusoids (K, time) of t (K,): sines, then cosines, of t * 10000^(-k / (time / 2 - 1))."""
        half = self.time_map[0].in_features // 2
        frequency = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000) / (half - 1)))
        phase = t.to(frequency.dtype)[:, None] * frequency
        return torch.cat([phase.sin(), phase.cos()], dim=-1).to(self.enter.weight.dtype)

    def modulation(self, context: Tensor, t: Tensor) -> Tensor:
        """Scales and shifts of every block for all faces and steps: context (F, C), t (K,) -> (F, K, M)."""
        return self._from_context(context)[:, None] + self._from_time(t)

    def denoise(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Predicted noise (F, N, D) of x (F, N, D) under one step's modulation (F, M)."""
        per_block = iter(modulation[:, None].split(self.modulation_sizes, dim=-1))
        entered = x = self.enter(x)
        skips = []
        for level in self.down:
            x = level.first(x, next(per_block))
            skips.append(x)
            x = level.attention(level.second(x, next(per_block)))
            skips.append(x)
            x = level.resize(x)
        x = self.middle_attention(self.middle_first(x, next(per_block)))
        x = self.middle_second(x, next(per_block))
        for level in self.up:
            x = level.resize(x)
            for block in (level.first, level.second):
                x = block(torch.cat([x, skips.pop()], dim=-1), next(per_block))
            x = level.attention(x)
        x = self.last_block(torch.cat([x, entered], dim=-1), next(per_block))
        return self.leave(self.last_attention(x))

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Predicted noise (B, D) of independent rows: x (B, D), t (B,) in 0..999, context (B, C). B may be 1."""
        return self.denoise(x[:, None], self._from_context(context) + self._from_time(t))[:, 0]

    def load_official(self, state: Mapping[str, Tensor]) -> list[str]:
        """Load tensors under their official names, the maps as `<block>.fn.fn.to_qkv.<i>.weight`.

        Returns the known extras found (and ignored). Raises OfficialWeightsError naming every misfit.
        """
        has_maps = any("to_qkv" in key for key in state)
        hint = "" if has_maps else "Released files lack the to_qkv maps: `ofer import` replays them"
        return load_slots(self.official_slots(), state, self.KNOWN_EXTRAS, hint)

    @torch.no_grad()
    def official_slots(self) -> Slots:
        names = [name for name, _ in self.blocks()]
        weights = dict(zip(names, self.scale_shift.weight.split(self.modulation_sizes), strict=True))
        biases = dict(zip(names, self.scale_shift.bias.split(self.modulation_sizes), strict=True))

        def block(name: str, module: ResidualBlock) -> Iterator[tuple[str, Slot]]:
            return module.official_slots(name, weights[name], biases[name])

        def resize(name: str, module: nn.Sequential) -> Iterator[tuple[str, Slot]]:
            yield from linear_slots(f"{name}.0", module[0])
            yield from linear_slots(f"{name}.2", module[2])

        slots: Slots = dict(linear_slots("init_conv", self.enter, trailing=1))
        slots.update(linear_slots("time_mlp.1", self.time_map[0]))
        slots.update(linear_slots("time_mlp.3", self.time_map[2]))
        for i, level in enumerate(self.down):
            slots.update(block(f"downs.{i}.0", level.first))
            slots.update(block(f"downs.{i}.1", level.second))
            slots.update(level.attention.official_slots(f"downs.{i}.2"))
            slots.update(resize(f"downs.{i}.3", level.resize))
        slots.update(block("mid_block1", self.middle_first))
        slots.update(self.middle_attention.official_slots("mid_attn"))
        slots.update(block("mid_block2", self.middle_second))
        for i, level in enumerate(self.up):
            slots.update(resize(f"ups.{i}.0", level.resize))
            slots.update(block(f"ups.{i}.1", level.first))
            slots.update(block(f"ups.{i}.2", level.second))
            slots.update(level.attention.official_slots(f"ups.{i}.3"))
        slots.update(block("finals.0.0", self.last_block))
        slots.update(self.last_attention.official_slots("finals.0.1"))
        slots.update(linear_slots("finals.0.2", self.leave, trailing=1))
        return slots

    def _from_time(self, t: Tensor) -> Tensor:
        weight = self.scale_shift.weight[:, : -self.n_context]
        return F.linear(F.silu(self.time_map(self.time_features(t))), weight, self.scale_shift.bias)

    def _from_context(self, context: Tensor) -> Tensor:
        return F.linear(F.silu(context), self.scale_shift.weight[:, -self.n_context :])


def _resize(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_in), nn.SiLU(), nn.Linear(n_in, n_out))
