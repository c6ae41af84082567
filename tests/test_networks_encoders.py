"""ArcFace and FaRL against plain functional forms written from the official tensor names alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from recipe import recipe_state, relative_error
from torch import nn

from ofer_models.workshop.networks.arcface import ArcFace
from ofer_models.workshop.networks.farl import Farl
from ofer_models.workshop.networks.official_weights import OfficialWeightsError

torch.set_num_threads(1)
TOLERANCE = 1e-4


def small_arcface(**options) -> ArcFace:
    net = ArcFace((1, 2, 2, 1), (8, 8, 16, 16), size=50, features=12, **options).eval()
    net.load_official(recipe_state(net.official_slots(), seed=1))
    return net


def small_farl() -> Farl:
    torch.manual_seed(0)
    net = Farl(size=32, patch=8, width=24, layers=3, heads=4, features=10).eval()
    net.load_official(recipe_state(net.official_slots(), seed=2))
    return net


def arcface_reference(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    def norm(x, name):
        stats = (w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *stats, training=False, eps=1e-5)

    x = F.prelu(norm(F.conv2d(x, w["conv1.weight"], padding=1), "bn1"), w["prelu.weight"])
    for name in sorted({".".join(key.split(".")[:2]) for key in w if key.startswith("layer")}):
        first = f"{name}.downsample.0.weight" in w
        stride = 2 if first else 1
        h = F.conv2d(norm(x, f"{name}.bn1"), w[f"{name}.conv1.weight"], padding=1)
        h = F.prelu(norm(h, f"{name}.bn2"), w[f"{name}.prelu.weight"])
        h = norm(F.conv2d(h, w[f"{name}.conv2.weight"], stride=stride, padding=1), f"{name}.bn3")
        if first:
            x = norm(F.conv2d(x, w[f"{name}.downsample.0.weight"], stride=2), f"{name}.downsample.1")
        x = h + x
    return norm(F.linear(norm(x, "bn2").flatten(1), w["fc.weight"], w["fc.bias"]), "features")


def farl_reference(w: dict[str, torch.Tensor], x: torch.Tensor, heads: int, layers: int) -> torch.Tensor:
    w = {key.removeprefix("visual."): value for key, value in w.items()}
    width = w["class_embedding"].numel()

    def norm(x, name):
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"])

    x = F.conv2d(x, w["conv1.weight"], stride=w["conv1.weight"].shape[-1])
    x = x.reshape(len(x), width, -1).permute(0, 2, 1)
    x = torch.cat([w["class_embedding"].expand(len(x), 1, width), x], 1) + w["positional_embedding"]
    x = norm(x, "ln_pre")
    for i in range(layers):
        name = f"transformer.resblocks.{i}"
        attention = nn.MultiheadAttention(width, heads, batch_first=True)
        attention.load_state_dict(
            {key.removeprefix(f"{name}.attn."): value for key, value in w.items() if key.startswith(f"{name}.attn.")}
        )
        h = norm(x, f"{name}.ln_1")
        x = x + attention(h, h, h, need_weights=False)[0]
        h = F.linear(norm(x, f"{name}.ln_2"), w[f"{name}.mlp.c_fc.weight"], w[f"{name}.mlp.c_fc.bias"])
        h = h * (1.702 * h).sigmoid()
        x = x + F.linear(h, w[f"{name}.mlp.c_proj.weight"], w[f"{name}.mlp.c_proj.bias"])
    return norm(x[:, 0], "ln_post") @ w["proj"]


def test_arcface_equals_the_functional_form():
    net, images = small_arcface(), torch.randn(3, 3, 50, 50)
    with torch.no_grad():
        expected = arcface_reference(net.official_state_dict(), images)
        assert relative_error(net.embed(images), expected) <= TOLERANCE
        assert relative_error(net(images), expected / expected.norm(dim=1, keepdim=True)) <= TOLERANCE
        assert relative_error(net(images[1:2]), net(images)[1:2]) <= TOLERANCE


def test_the_single_row_quirk_changes_a_batch_of_one_only():
    plain, quirky, images = small_arcface(), small_arcface(single_row_quirk=True), torch.randn(2, 3, 50, 50)
    with torch.no_grad():
        assert torch.equal(plain(images), quirky(images))
        one = quirky.embed(images[:1])
        assert relative_error(one, plain.embed(images)[:1]) > 1e-2
        assert relative_error(quirky.norm_features(one), plain.embed(images)[:1]) <= TOLERANCE


def test_farl_equals_the_functional_form():
    net, images = small_farl(), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = farl_reference(net.official_state_dict(), images, heads=4, layers=3)
        assert relative_error(net(images), expected) <= TOLERANCE
        assert relative_error(net(images[1:2]), net(images)[1:2]) <= TOLERANCE


def test_official_sizes_names_and_counts():
    with torch.device("meta"):
        arcface, farl = ArcFace(), Farl()
    assert sum(p.numel() for p in arcface.parameters()) == 65_156_160
    slots = arcface.official_slots()
    assert len(slots) + sum(key.endswith("running_var") for key in slots) == 925  # with num_batches_tracked
    assert slots["fc.weight"].shape == (512, 25088) and slots["layer3.29.prelu.weight"].shape == (256,)
    assert len(farl.official_slots()) == 152
    assert farl.official_slots()["visual.positional_embedding"].shape == (197, 768)


def test_known_extras_are_named_and_unknown_ones_refused():
    arcface, farl = small_arcface(), small_farl()
    state = arcface.official_state_dict()
    assert arcface.load_official(state | {"bn1.num_batches_tracked": torch.tensor(3)}) == ["bn1.num_batches_tracked"]
    with pytest.raises(OfficialWeightsError, match=r"1 unknown: layer9\.0\.conv1\.weight"):
        arcface.load_official(state | {"layer9.0.conv1.weight": torch.zeros(1)})
    state = farl.official_state_dict()
    text = {"token_embedding.weight": torch.zeros(2, 2), "transformer.resblocks.0.ln_1.weight": torch.ones(2)}
    assert farl.load_official(state | text) == sorted(text)
    alone = {key.removeprefix("visual."): value for key, value in state.items()}
    assert farl.load_official(alone) == []
    alone.pop("proj")
    with pytest.raises(OfficialWeightsError, match=r"1 missing: visual\.proj"):
        farl.load_official(alone)


@pytest.mark.parametrize("build", [small_arcface, small_farl])
def test_gradients_reach_every_parameter(build):
    net = build()
    size = 50 if build is small_arcface else 32
    net(torch.randn(2, 3, size, size))[:, 0].sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []
