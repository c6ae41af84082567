"""The replayed maps against the fingerprints recorded from the release's own constructors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recipe import golden

from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.replay import CONSTRUCTIONS, Construction, matching_scenario, replay

torch.set_num_threads(1)
CASES = {
    "bare_seed0/idgen": Construction(0, ("idgen",)),
    "bare_seed0/expgen": Construction(0, ("expgen",)),
    "train_seed0/idgen": CONSTRUCTIONS["idgen", "training"],
    "train_seed0/expgen": CONSTRUCTIONS["expgen", "training"],
    "train_seed0/rank_inner_idgen": Construction(0, ("clip", "arcface", "rank", "arcface", "idgen")),
    "demo_seed1/rank_inner_idgen": Construction(1, ("clip", "arcface", "rank", "arcface", "idgen")),
    "demo_seed1/idgen": CONSTRUCTIONS["idgen", "demo"],
    "demo_seed1/expgen": CONSTRUCTIONS["expgen", "demo"],
}


@pytest.mark.parametrize("case", CASES)
def test_the_maps_have_the_recorded_fingerprints(case):
    recorded = golden("shared_qkv_replay_fingerprints")
    maps = replay(CASES[case])
    assert len(maps) == 96
    attentions = {key.split("/")[-2] for key in recorded if key.startswith(f"{case}/") and key.endswith("/first8")}
    attentions = {name for name in attentions if name.endswith(".fn.fn")}
    assert len(attentions) == 6
    for attention in attentions:
        stack = np.stack([maps[f"{attention}.to_qkv.{i}.weight"].numpy() for i in range(16)]).reshape(16, -1)
        np.testing.assert_array_equal(stack[:, :8], recorded[f"{case}/{attention}/first8"])
        np.testing.assert_allclose(stack.sum(1, dtype=np.float64), recorded[f"{case}/{attention}/sum"], atol=1e-6)
        np.testing.assert_allclose(np.abs(stack).sum(1, dtype=np.float64), recorded[f"{case}/{attention}/abssum"])


def test_the_left_over_map_tells_the_scenario():
    maps = replay(CONSTRUCTIONS["idgen", "training"])
    state = {k.replace("to_qkv.15", "qkv"): v for k, v in maps.items() if ".to_qkv.15." in k}
    assert len(state) == 6
    scenario, evidence = matching_scenario("idgen", state)
    assert scenario == "training" and evidence["training"] == 0 and evidence["demo"] > 1e-2
    state["downs.0.2.fn.fn.qkv.weight"] = state["downs.0.2.fn.fn.qkv.weight"] + 1e-3
    assert matching_scenario("idgen", state)[0] is None


def test_a_checkpoint_and_replayed_maps_make_a_complete_network():
    net = Denoiser(300)
    checkpoint = {key: value for key, value in net.official_state_dict().items() if ".to_qkv." not in key}
    maps = replay(CONSTRUCTIONS["idgen", "training"])
    net.load_official(checkpoint | maps)
    key = "mid_attn.fn.fn.to_qkv.3.weight"
    assert torch.equal(net.official_state_dict()[key], maps[key])
