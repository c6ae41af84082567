"""The networks as fused ONNX graphs: a sampler's two (`cond`, `step`), and the folded rank network.

Fusions, all exact: all query/key/value maps of an attention side by side, with the RMS gain and the attention scale
multiplied into them; attention weights summed over the maps before they meet the values; the 1 + scale of every block
and its first norm's gain and offset multiplied into the scale/shift layer, which leaves the loop altogether.
The loop over steps stays outside, in the caller.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from onnx import ModelProto
from torch import Tensor, nn

from ofer_models.workshop.networks.denoiser import Denoiser, MapAttention, ResidualBlock
from ofer_models.workshop.networks.onnx_graph import Graph, save_model
from ofer_models.workshop.networks.rank import FoldedRank, PosteriorRank

RMS_FLOOR = 1e-12
MODULATION_ROW = 64  # float32 numbers, 256 bytes


def export_sampler(net: Denoiser, folder: str | Path, name: str) -> dict[str, Path]:
    """Write `<name>_cond.onnx` and `<name>_step.onnx` into a folder; returns their paths by the keys cond and step."""
    files = {part: Path(folder) / f"{name}_{part}.onnx" for part in ("cond", "step")}
    save_model(cond_model(net), files["cond"])
    save_model(step_model(net), files["step"])
    return files


def export_rank(net: FoldedRank | PosteriorRank, path: str | Path) -> None:
    """Write a rank network as one file: betas (F, N, S), context (F, C) -> score (F, N)."""
    model = posterior_rank_model(net) if isinstance(net, PosteriorRank) else rank_model(net)
    save_model(model, path)


def cond_model(net: Denoiser) -> ModelProto:
    """context (F, C), timesteps (K,) -> modulation (K, F, M): per block, a factor and an offset for its first norm.

    Filled up with zeros to rows of 256 bytes, so that every step's part begins where a GPU wants a tensor to begin.
    """
    g = Graph("cond")
    context, timesteps = g.input("context", ("F", net.n_context)), g.input("timesteps", ("K",))
    first, last = net.time_map[0], net.time_map[2]
    half = first.in_features // 2
    frequency = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1)))
    phase = g.op("Mul", g.op("Unsqueeze", timesteps, g.constant([1])), g.constant(frequency))
    features = g.op("Concat", g.op("Sin", phase), g.op("Cos", phase), axis=-1)
    hidden = _gelu(g, _linear(g, features, first))
    weight, bias = _folded_scale_shift(net)
    from_time = g.linear(g.silu(_linear(g, hidden, last)), weight[:, : -net.n_context], bias)
    from_context = g.linear(g.silu(context), weight[:, -net.n_context :])
    g.op("Add", from_context, g.op("Unsqueeze", from_time, g.constant([1])), name="modulation")
    g.output("modulation", ("K", "F", len(bias)))
    return g.model()


def step_model(net: Denoiser) -> ModelProto:
    """One update of all samples, the solver's arithmetic included (see `runtime.solvers` for the coefficients).

    x (F, N, D), x0_prev (F, N, D), modulation (F, M), coefficients (5,) -> x_next (F, N, D), x0 (F, N, D).
    """
    g = Graph("step")
    samples = ("F", "N", net.n_coefficients)
    x, x0_prev = g.input("x", samples), g.input("x0_prev", samples)
    modulation = g.input("modulation", ("F", _filled(sum(net.modulation_sizes))))
    coefficients = g.op("Split", g.input("coefficients", (5,)), axis=0, num_outputs=5, outputs=5)
    eps = _denoise(g, net, x, modulation)

    def scaled(k: int, value: str) -> str:
        return g.op("Mul", coefficients[k], value)

    x0 = g.op("Sub", scaled(0, x), scaled(1, eps), name="x0")
    g.op("Add", g.op("Add", scaled(2, x), scaled(3, x0)), scaled(4, x0_prev), name="x_next")
    g.output("x_next", samples)
    g.output("x0", samples)
    return g.model()


def rank_model(net: FoldedRank) -> ModelProto:
    """betas (F, N, S), context (F, C) -> score (F, N)."""
    if net.single_row_quirk:
        raise ValueError("a rank network that treats a single candidate differently cannot be one graph")
    g = Graph("rank")
    first, n_shape = net.linears[0], net.linears[0].in_features // 2
    betas = g.input("betas", ("F", "N", n_shape))
    context = g.input("context", ("F", net.conditionings[0].gate.in_features))
    face = g.op("Unsqueeze", context, g.constant([1]))
    mean = g.op("ReduceMean", betas, g.constant([1]), keepdims=1)
    weight = _array(first.weight)
    of_mean = g.linear(mean, weight[:, :n_shape], _array(first.bias))
    y = g.op("Add", g.linear(g.op("Sub", betas, mean), weight[:, n_shape:]), of_mean)
    for i, conditioning in enumerate(net.conditionings):
        if i:
            y = _linear(g, y, net.linears[i])
        gate = g.op("Sigmoid", _linear(g, face, conditioning.gate))
        shift = _linear(g, face, conditioning.shift)
        if conditioning.norm is not None:
            # The norm's own gain and offset act on the face's gate and shift instead of on every candidate.
            y = _group_norm(g, g.op("Selu", y), conditioning.norm.num_groups, conditioning.norm.num_channels)
            shift = g.op("Add", g.op("Mul", gate, g.constant(_array(conditioning.norm.bias))), shift)
            gate = g.op("Mul", gate, g.constant(_array(conditioning.norm.weight)))
        y = g.op("Add", g.op("Mul", y, gate), shift)
    g.op("Squeeze", y, g.constant([2]), name="score")
    g.output("score", ("F", "N"))
    return g.model()


def posterior_rank_model(net: PosteriorRank) -> ModelProto:
    """betas (F, N, S), context (F, C) -> score (F, N)."""
    g = Graph("rank")
    betas = g.input("betas", ("F", "N", len(net.basis)))
    context = g.input("context", ("F", net.hidden.in_features))
    hidden = g.silu(_linear(g, context, net.hidden))
    place = g.op("Unsqueeze", _linear(g, hidden, net.place), g.constant([1]))
    apart = g.op("Sub", g.linear(betas, _array(net.basis).T), place)
    square = g.op("ReduceSum", g.op("Mul", apart, apart), g.constant([2]), keepdims=0)
    doubled = g.op("Mul", _linear(g, hidden, net.log_deviation), g.constant(np.float32(-2)))
    g.op("Mul", square, g.op("Mul", g.op("Exp", doubled), g.constant(np.float32(-0.5))), name="score")
    g.output("score", ("F", "N"))
    return g.model()


def _denoise(g: Graph, net: Denoiser, x: str, modulation: str) -> str:
    """`Denoiser.denoise` in fused form; modulation is a row of the cond graph's."""
    halves = [size // 2 for size in net.modulation_sizes for _ in range(2)]
    if filling := _filled(sum(halves)) - sum(halves):
        halves.append(filling)
    face = g.op("Unsqueeze", modulation, g.constant([1]))
    pieces = iter(g.op("Split", face, g.constant(halves), axis=-1, outputs=len(halves)))

    def block(x: str, module: ResidualBlock) -> str:
        factor, offset = next(pieces), next(pieces)
        width = module.first.out_features
        h = _layer_norm(g, _linear(g, x, module.first), np.ones(width), np.zeros(width))
        h = g.silu(g.op("Add", g.op("Mul", h, factor), offset))
        norm = module.second_norm
        h = _layer_norm(g, _linear(g, h, module.second), _array(norm.weight), _array(norm.bias))
        return g.op("Add", g.silu(h), _linear(g, x, module.skip) if isinstance(module.skip, nn.Linear) else x)

    def concat(x: str, y: str) -> str:
        return g.op("Concat", x, y, axis=-1)

    entered = x = _linear(g, x, net.enter)
    skips = []
    for level in net.down:
        x = block(x, level.first)
        skips.append(x)
        x = _attention(g, block(x, level.second), level.attention)
        skips.append(x)
        x = _resize(g, x, level.resize)
    x = _attention(g, block(x, net.middle_first), net.middle_attention)
    x = block(x, net.middle_second)
    for level in net.up:
        x = _resize(g, x, level.resize)
        x = block(concat(x, skips.pop()), level.first)
        x = block(concat(x, skips.pop()), level.second)
        x = _attention(g, x, level.attention)
    x = _attention(g, block(concat(x, entered), net.last_block), net.last_attention)
    return _linear(g, x, net.leave)


def _attention(g: Graph, x: str, module: MapAttention) -> str:
    _, heads, maps, head_dim = module.split
    width = module.qkv.in_features
    gain = _array(module.norm.gain) * math.sqrt(width)
    q, k, v = (_array(module.qkv.weight) * gain).reshape(*module.split, width)
    k = k.transpose(0, 2, 1, 3)  # so that the keys come out already transposed
    norm = g.op("ReduceL2", x, g.constant([-1]), keepdims=1)
    unit = g.op("Div", x, g.op("Max", norm, g.constant(RMS_FLOOR)))
    shapes = ((heads, maps, head_dim), (heads, head_dim, maps), (heads, maps, head_dim))
    queries, keys, values = (
        g.op("Reshape", g.linear(unit, weight.reshape(-1, width)), g.constant([0, 0, *shape]))
        for weight, shape in zip((q * head_dim**-0.5, k, v), shapes, strict=True)
    )
    weights = g.op("Softmax", g.op("MatMul", queries, keys), axis=-1)
    pool, bias = _array(module.pool.weight), _array(module.project.bias)
    pooled = g.op("MatMul", g.op("MatMul", g.constant(pool), weights), values)
    out_bias = bias * pool.sum() + _array(module.pool.bias)
    out = g.linear(g.op("Reshape", pooled, g.constant([0, 0, -1])), _array(module.project.weight), out_bias)
    return g.op("Add", x, out)


def _folded_scale_shift(net: Denoiser) -> tuple[np.ndarray, np.ndarray]:
    """Weight (M, T + C) and bias (M,) whose outputs are factor and offset of the plainly normalised first half.

    With the norm's gain a and offset b: (a n + b)(1 + scale) + shift = n a (1 + scale) + b (1 + scale) + shift.
    """
    weights, biases = [], []
    sizes = net.modulation_sizes
    rows = zip(net.scale_shift.weight.split(sizes), net.scale_shift.bias.split(sizes), strict=True)
    for (_, block), (weight, bias) in zip(net.blocks(), rows, strict=True):
        gain, offset = _array(block.first_norm.weight), _array(block.first_norm.bias)
        scale, shift = np.split(_array(weight), 2)
        scale_bias, shift_bias = np.split(_array(bias), 2)
        weights += [gain[:, None] * scale, offset[:, None] * scale + shift]
        biases += [gain * (1 + scale_bias), offset * (1 + scale_bias) + shift_bias]
    weight, bias = np.concatenate(weights), np.concatenate(biases)
    filling = _filled(len(bias)) - len(bias)
    return np.pad(weight, ((0, filling), (0, 0))), np.pad(bias, (0, filling))


def _filled(width: int) -> int:
    return -(-width // MODULATION_ROW) * MODULATION_ROW


def _linear(g: Graph, x: str, layer: nn.Linear) -> str:
    return g.linear(x, _array(layer.weight), None if layer.bias is None else _array(layer.bias))


def _resize(g: Graph, x: str, layers: nn.Sequential) -> str:
    return _linear(g, g.silu(_linear(g, x, layers[0])), layers[2])


def _gelu(g: Graph, x: str) -> str:
    erf = g.op("Erf", g.op("Mul", x, g.constant(math.sqrt(0.5))))
    return g.op("Mul", g.op("Mul", x, g.op("Add", erf, g.constant(1.0))), g.constant(0.5))


def _layer_norm(g: Graph, x: str, gain: np.ndarray, offset: np.ndarray) -> str:
    return g.op("LayerNormalization", x, g.constant(gain), g.constant(offset), axis=-1, epsilon=1e-5)


def _group_norm(g: Graph, x: str, groups: int, width: int) -> str:
    """x (F, N, width) normalised in groups over the last axis, without gain or offset."""
    size = width // groups
    grouped = g.op("Reshape", x, g.constant([0, 0, groups, size]))
    return g.op("Reshape", _layer_norm(g, grouped, np.ones(size), np.zeros(size)), g.constant([0, 0, width]))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()
