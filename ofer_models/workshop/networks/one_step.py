"""A sampler of one step: from noise and a context straight to coefficients.

What a deterministic sampler reaches in many steps is nearly an affine map of its noise, another one for each context.
So a few blocks suffice whose hidden layers the context scales and shifts; a denoiser's attention and levels are for
noise of every strength, of which one step sees one.

Shapes: F faces, N samples of a face, D coefficients, C context, M modulation (all scales and shifts).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch.nn.functional as F
from onnx import ModelProto
from torch import Tensor, nn

from ofer_models.workshop.networks.export import MODULATION_ROW
from ofer_models.workshop.networks.onnx_graph import Graph, save_model, store_bytes

_BLOCKS, _WIDTH = 4, 192
_FIRST = 0.3  # of a block's share in the stream, at the start


class OneStepSampler(nn.Module):
    """Samples (F, N, D) of contexts (F, C) and standard normal noise (F, N, D).

    Each block adds to a stream of `width` numbers what a hidden layer of twice as many makes of it: normalised, then
    scaled and shifted by the context. No layer has biases of its own: shifts are the context's.
    """

    def __init__(self, n_coefficients: int, n_context: int) -> None:
        super().__init__()
        self.width = max(_WIDTH, n_coefficients)
        hidden = 2 * self.width
        self.enter = nn.Linear(n_coefficients, self.width, bias=False)
        self.widen = nn.ModuleList(nn.Linear(self.width, hidden, bias=False) for _ in range(_BLOCKS))
        self.narrow = nn.ModuleList(nn.Linear(hidden, self.width, bias=False) for _ in range(_BLOCKS))
        self.leave = nn.Linear(self.width, n_coefficients, bias=False)
        # Scale and shift of each block, then what is added where the stream begins, and to the coefficients.
        self.sizes = [*[hidden] * (2 * _BLOCKS), self.width, n_coefficients]
        self.modulation = nn.Linear(n_context, sum(self.sizes))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        for layer in self.narrow:
            nn.init.normal_(layer.weight, std=_FIRST * hidden**-0.5)

    def forward(self, context: Tensor, noise: Tensor) -> Tensor:
        *changes, first, last = self.modulation(F.silu(context))[:, None].split(self.sizes, dim=-1)
        stream = self.enter(noise) + first
        for i, (widen, narrow) in enumerate(zip(self.widen, self.narrow, strict=True)):
            scale, shift = changes[2 * i : 2 * i + 2]
            hidden = F.layer_norm(widen(stream), (2 * self.width,)) * (1 + scale) + shift
            stream = stream + narrow(F.silu(hidden))
        return self.leave(stream) + last


def export_one_step(net: OneStepSampler, files: dict[str, Path]) -> None:
    """Write the network as a sampler's two graphs (see `export.export_sampler`), cond and step, weights as bytes."""
    for part, model in (("cond", cond_model(net)), ("step", step_model(net))):
        save_model(model, files[part])
        store_bytes(files[part])


def cond_model(net: OneStepSampler) -> ModelProto:
    """context (F, C), timesteps (K,) -> modulation (K, F, M), the same for all timesteps; filled up with zeros as
    `export.cond_model`'s."""
    g = Graph("cond")
    context, timesteps = g.input("context", ("F", net.modulation.in_features)), g.input("timesteps", ("K",))
    weight, bias = (tensor.detach().double().numpy() for tensor in (net.modulation.weight, net.modulation.bias))
    scales = [part < 2 * _BLOCKS and part % 2 == 0 for part in range(len(net.sizes))]
    bias = bias + np.repeat(scales, net.sizes)
    filling = -len(bias) % MODULATION_ROW
    made = g.linear(g.silu(context), np.pad(weight, ((0, filling), (0, 0))), np.pad(bias, (0, filling)))
    nothing = g.op("Mul", g.op("Unsqueeze", timesteps, g.constant([1, 2])), g.constant(0.0))
    g.op("Add", made, nothing, name="modulation")
    g.output("modulation", ("K", "F", len(bias) + filling))
    return g.model()


def step_model(net: OneStepSampler) -> ModelProto:
    """x (F, N, D), x0_prev (F, N, D), modulation (F, M), coefficients (5,) -> x_next (F, N, D), x0 (F, N, D): as
    `export.step_model`, of a network that tells the clean samples themselves."""
    g = Graph("step")
    samples = ("F", "N", net.leave.out_features)
    x, x0_prev = g.input("x", samples), g.input("x0_prev", samples)
    total = sum(net.sizes)
    filling = -total % MODULATION_ROW
    modulation = g.input("modulation", ("F", total + filling))
    coefficients = g.input("coefficients", (5,))
    *_, keep, to_clean, to_previous = g.op("Split", coefficients, axis=0, num_outputs=5, outputs=5)
    sizes = [*net.sizes, *([filling] if filling else [])]
    face = g.op("Unsqueeze", modulation, g.constant([1]))
    *changes, first, last = g.op("Split", face, g.constant(sizes), axis=-1, outputs=len(sizes))[: len(net.sizes)]
    one, zero = g.constant(np.ones(2 * net.width)), g.constant(np.zeros(2 * net.width))
    stream = g.op("Add", _product(g, x, net.enter), first)
    for i, (widen, narrow) in enumerate(zip(net.widen, net.narrow, strict=True)):
        factor, offset = changes[2 * i : 2 * i + 2]
        hidden = g.op("LayerNormalization", _product(g, stream, widen), one, zero, axis=-1, epsilon=1e-5)
        hidden = g.silu(g.op("Add", g.op("Mul", hidden, factor), offset))
        stream = g.op("Add", stream, _product(g, hidden, narrow))
    x0 = g.op("Add", _product(g, stream, net.leave), last, name="x0")
    kept = g.op("Add", g.op("Mul", keep, x), g.op("Mul", to_clean, x0))
    g.op("Add", kept, g.op("Mul", to_previous, x0_prev), name="x_next")
    g.output("x_next", samples)
    g.output("x0", samples)
    return g.model()


def _product(g: Graph, x: str, layer: nn.Linear) -> str:
    return g.linear(x, layer.weight.detach().double().numpy())
