"""The denoiser against the recorded official network, and its own promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recipe import golden, recipe_state, relative_error

from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.official_weights import OfficialWeightsError

torch.set_num_threads(1)
TOLERANCE = 1e-4


def tiny() -> Denoiser:
    torch.manual_seed(0)
    net = Denoiser(12, (12, 8, 4), context=20, maps=4, heads=2, head_dim=8, time=16)
    net.load_official(recipe_state(net.official_slots(), seed=5))
    return net.eval()


def recorded_activations(net: Denoiser, x, t, context) -> dict[str, np.ndarray]:
    """Every activation that the golden files record, under its official name, from our modules."""
    modules = {"init_conv": net.enter, "time_mlp": net.time_map, "mid_block1": net.middle_first}
    modules |= {"mid_attn": net.middle_attention, "mid_block2": net.middle_second}
    modules |= {"finals.0.0": net.last_block, "finals.0.1": net.last_attention}
    for i, level in enumerate(net.down):
        children = (level.first, level.second, level.attention, level.resize)
        modules |= {f"downs.{i}.{j}": child for j, child in enumerate(children)}
    for i, level in enumerate(net.up):
        children = (level.resize, level.first, level.second, level.attention)
        modules |= {f"ups.{i}.{j}": child for j, child in enumerate(children)}
    block, attention = net.down[0].first, net.down[0].attention
    modules |= {"downs.0.2.fn.norm": attention.norm, "ups.0.1.res_conv": net.up[0].first.skip}
    seen, inputs, hooks = {}, {}, []
    for name, module in modules.items():

        def keep(_, args, output, name=name):
            seen[name], inputs[name] = output, args[0]

        hooks.append(module.register_forward_hook(keep))
    hooks.append(block.second.register_forward_hook(lambda _, args, out: seen.update({"downs.0.0.block1": args[0]})))
    hooks.append(block.register_forward_hook(lambda _, args, out: inputs.update(modulation=args[1])))
    hooks.append(attention.qkv.register_forward_hook(lambda _, args, out: inputs.update(qkv=out)))
    with torch.no_grad():
        seen["y"] = net(x, t, context)
        seen["time_mlp.0"] = net.time_features(t)
        seen["downs.0.0.mlp"] = inputs["modulation"][:, 0]
        seen["downs.0.0.block2"] = seen["downs.0.0"] - inputs["downs.0.0"]
        # The official order: project every token, then sum over the tokens.
        q, k, v = inputs["qkv"].unflatten(-1, attention.split).unbind(-4)
        tokens = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2)
        seen["downs.0.2.fn.fn.to_out"] = attention.project(tokens)[:, 0].transpose(-1, -2)
        seen["downs.0.2.fn.fn.to_out_linear"] = seen["downs.0.2"] - inputs["downs.0.2"]
    for hook in hooks:
        hook.remove()
    return {name: value.numpy() for name, value in seen.items()}


def golden_case(name: str):
    if name == "stored":
        io = golden("shared_idgen_unet_io")
        weights = golden("shared_idgen_unet_weights") | golden("shared_idgen_unet_qkv")
        state = {key: torch.from_numpy(value) for key, value in weights.items()}
    else:
        io = golden("shared_idgen_unet_recipe")
        state = None
    net = Denoiser(300).eval()
    if state is None:
        assert sorted(net.official_slots()) == list(io["keys"])
        state = recipe_state(net.official_slots(), int(io["recipe_seed"]))
        np.testing.assert_array_equal(state["init_conv.weight"].flatten()[:4], io["check_init_conv_first4"])
    assert net.load_official(state) == []
    return net, io


@pytest.mark.parametrize("name", ["stored", "recipe"])
def test_every_recorded_activation_is_reproduced(name):
    net, io = golden_case(name)
    ours = recorded_activations(net, *(torch.from_numpy(io[key]) for key in ("x", "t", "ctx")))
    expected = {key.removeprefix("act/"): value for key, value in io.items() if key == "y" or key.startswith("act/")}
    errors = {key: relative_error(ours[key].reshape(value.shape), value) for key, value in expected.items()}
    assert max(errors.values()) <= TOLERANCE, {key: e for key, e in errors.items() if e > TOLERANCE}


def test_seeded_construction_in_slot_order_gives_the_official_initialisation():
    stored = golden("shared_idgen_unet_weights") | golden("shared_idgen_unet_qkv")
    slots = Denoiser(300).official_slots()
    torch.manual_seed(0)
    bound = 0.0
    for key, slot in slots.items():
        if ".norm." in key:
            continue
        if key.endswith("weight"):
            bound = float(np.prod(slot.shape[1:])) ** -0.5  # torch's default for linear layers; the bias takes it too
        drawn = torch.empty(slot.shape).uniform_(-bound, bound)
        np.testing.assert_allclose(drawn, stored[key], rtol=1e-5, atol=1e-8, err_msg=key)


def test_modulation_and_denoise_equal_forward_row_by_row():
    net = tiny()
    context, t, x = torch.randn(3, 20), torch.tensor([999, 500, 0, -1]), torch.randn(3, 5, 12)
    table = net.modulation(context, t)
    assert table.shape == (3, 4, sum(net.modulation_sizes))
    for k, step in enumerate(t):
        together = net.denoise(x, table[:, k])
        rows = net(x.flatten(0, 1), step.expand(15), context.repeat_interleave(5, 0)).view_as(x)
        assert relative_error(together.detach(), rows.detach()) < 1e-5


def test_a_batch_of_one_equals_its_row_of_a_larger_batch():
    net = tiny()
    x, t, context = torch.randn(6, 12), torch.randint(0, 1000, (6,)), torch.randn(6, 20)
    many = net(x, t, context).detach()
    for row in range(6):
        one = net(x[row : row + 1], t[row : row + 1], context[row : row + 1]).detach()
        assert relative_error(one, many[row : row + 1]) < 1e-5
    changed = x.clone()
    changed[1:] += 1
    assert relative_error(net(changed, t, context)[:1].detach(), many[:1]) < 1e-5


def test_gradients_reach_every_parameter_and_agree_with_finite_differences():
    net = tiny().double()
    x, t, context = torch.randn(2, 12).double(), torch.tensor([3, 700]), torch.randn(2, 20).double()
    net(x, t, context).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    inputs = (x.requires_grad_(), context.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, context: net(x, t, context), inputs, atol=1e-4)


def test_a_zero_vector_stays_finite():
    net = tiny()
    with torch.no_grad():
        assert net.down[0].attention(torch.zeros(1, 1, 12)).isfinite().all()


def test_official_names_round_trip():
    net, other = tiny(), tiny()
    state = net.official_state_dict()
    torch.nn.init.zeros_(other.scale_shift.weight)
    extra = "downs.0.2.fn.fn.qkv.weight"
    assert other.load_official(state | {extra: state["downs.0.2.fn.fn.to_qkv.3.weight"]}) == [extra]
    for (name, ours), theirs in zip(net.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert sum(t.numel() for t in state.values()) == sum(p.numel() for p in net.parameters())


def test_every_misfit_is_named_and_nothing_is_copied():
    net = tiny()
    state, before = net.official_state_dict(), net.enter.weight.clone()
    state["init_conv.weight"] = torch.zeros(12, 12, 1)
    del state["time_mlp.1.bias"]
    state["surprise.weight"] = torch.zeros(1)
    state["finals.0.2.bias"] = torch.zeros(13)
    with pytest.raises(OfficialWeightsError) as caught:
        net.load_official(state)
    message = str(caught.value)
    assert "1 missing: time_mlp.1.bias" in message and "1 unknown: surprise.weight" in message
    assert "finals.0.2.bias is 13, should be 12" in message
    assert torch.equal(net.enter.weight, before)


def test_a_file_without_the_maps_says_where_they_come_from():
    net = tiny()
    state = {key: value for key, value in net.official_state_dict().items() if "to_qkv" not in key}
    with pytest.raises(OfficialWeightsError, match=r"24 missing.*ofer import"):
        net.load_official(state)


def test_official_parameter_counts():
    sizes = {(300, (300, 50, 10), 512): (6_246_954, 6_205_440), (53, (53, 25, 10), 1024): (1_815_673, 1_345_536)}
    for arguments, (registered, maps) in sizes.items():
        slots = Denoiser(*arguments).official_slots()
        counts = {key: slot.view.numel() for key, slot in slots.items()}
        assert sum(n for key, n in counts.items() if "to_qkv" in key) == maps
        assert sum(n for key, n in counts.items() if "to_qkv" not in key) == registered
