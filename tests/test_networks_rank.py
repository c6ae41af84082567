"""The rank network against the recorded official one, and its fold to shape coefficients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recipe import golden, recipe_state, relative_error

from ofer_models.workshop.networks.official_weights import OfficialWeightsError
from ofer_models.workshop.networks.rank import (
    PosteriorRank,
    RankNetwork,
    error_loss,
    listmle_loss,
    listnet_loss,
    pairwise_loss,
)

torch.set_num_threads(1)
TOLERANCE = 1e-4
SMALL = dict(widths=(64, 32, 16, 1), groups=8)


@pytest.fixture(scope="module")
def recorded():
    case = golden("shared_idrank_reduced")
    net = RankNetwork(32, 32, single_row_quirk=True).eval()
    state = {key.removeprefix("w/"): torch.from_numpy(value) for key, value in case.items() if key.startswith("w/")}
    assert net.load_official(state) == []
    return net, {key: torch.from_numpy(value) for key, value in case.items() if key != "numsamples"}


def mean_and_residual(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The halves of the recorded input (F, N, 2 V, 3)."""
    return tuple(half.flatten(-2) for half in x.chunk(2, dim=2))


def test_scores_and_every_layer(recorded):
    net, case = recorded
    seen = {}
    hooks = [
        module.register_forward_hook(lambda _, args, out, i=i: seen.update({i: out.flatten(0, 1)}))
        for i, module in enumerate(net.conditionings)
    ]
    with torch.no_grad():
        score = net.score(*mean_and_residual(case["x"]), case["ctx"])
    for hook in hooks:
        hook.remove()
    for i in range(5):
        assert relative_error(seen[i], case[f"act/ranklayers.{i}"]) <= TOLERANCE, i
    assert relative_error(score, case["score"]) <= TOLERANCE
    assert relative_error(score.softmax(-1), case["prob"]) <= TOLERANCE


def test_one_candidate_skips_the_norm_only_when_asked(recorded):
    net, case = recorded
    with torch.no_grad():
        inputs = (*mean_and_residual(case["single_x"]), case["single_ctx"])
        assert relative_error(net.score(*inputs), case["single_score"]) <= TOLERANCE
        net.single_row_quirk = False
        assert relative_error(net.score(*inputs), case["single_score"]) > 1e-2
        net.single_row_quirk = True


def test_meshes_to_probabilities(recorded):
    net, case = recorded
    context = torch.cat([case["dt_farl"], case["dt_arcface"]], dim=-1)
    with torch.no_grad():
        score = net(case["dt_meshes_mm"][None][:, :, case["dt_front"]], context)
    assert relative_error(score, case["dt_score"]) <= TOLERANCE
    assert relative_error(score.softmax(-1), case["dt_prob"]) <= TOLERANCE


def test_the_fold_scores_coefficients_as_the_network_scores_their_meshes():
    generator = torch.Generator().manual_seed(2)
    net = RankNetwork(40, 24, **SMALL).eval()
    net.load_official(recipe_state(net.official_slots(), seed=4))
    template = 0.1 * torch.randn(40, 3, generator=generator)
    directions = 0.01 * torch.randn(40, 3, 10, generator=generator)
    betas, context = torch.randn(3, 7, 10, generator=generator), torch.randn(3, 24, generator=generator)
    vertices = template + torch.einsum("vxs,fns->fnvx", directions, betas)
    folded = net.fold(template, directions)
    with torch.no_grad():
        assert relative_error(folded(betas, context), net(1000 * vertices, context)) < 1e-4
        for face in range(3):
            alone = folded(betas[face : face + 1], context[face : face + 1])
            assert relative_error(alone, folded(betas, context)[face : face + 1]) < 1e-5


def test_full_size_parameter_counts():
    net = RankNetwork()
    assert sum(p.numel() for p in net.parameters()) == 59_505_986
    folded = net.fold(torch.zeros(1785, 3), torch.zeros(1785, 3, 300))
    assert sum(p.numel() for p in folded.parameters()) < 18.2e6


def test_a_head_model_of_another_size_is_refused():
    with pytest.raises(ValueError, match="built for 40 vertices"):
        RankNetwork(40, 24, **SMALL).fold(torch.zeros(41, 3), torch.zeros(41, 3, 10))


def test_mis_shaped_weights_are_named():
    net = RankNetwork(40, 24, **SMALL)
    state = RankNetwork(41, 24, **SMALL).official_state_dict()
    with pytest.raises(OfficialWeightsError, match=r"ranklayers\.0\.mlp\.weight is 64x246, should be 64x240"):
        net.load_official(state)


def test_gradients_reach_every_parameter_of_both_forms():
    net = RankNetwork(40, 24, **SMALL)
    folded = net.fold(torch.randn(40, 3), torch.randn(40, 3, 10))
    errors, context = torch.rand(2, 5), torch.randn(2, 24)
    meshes, betas = torch.randn(2, 5, 40, 3), torch.randn(2, 5, 10)
    constant = {"linears.3.bias", "conditionings.3.shift.weight"}  # added to all candidates: cancels in the softmax
    for scores, module in ((net(meshes, context), net), (folded(betas, context), folded)):
        listnet_loss(scores, errors).backward()
        for name, parameter in module.named_parameters():
            assert name in constant or parameter.grad.abs().sum() > 0, name


def test_listnet_loss_is_the_recorded_one():
    case = {key: torch.from_numpy(value) for key, value in golden("shared_losses").items() if value.ndim}
    expected = float(golden("shared_losses")["rank_listnet_loss"])
    errors = (case["rank_samples_mm"] - case["rank_gt_mm"][:, None]).abs().mean((-1, -2))
    assert np.isclose(float(listnet_loss(case["rank_score"], errors)), expected, rtol=1e-5)


def test_listmle_by_hand():
    """Errors put candidate 1 first, then 0: -log of e^s1 / (e^s0 + e^s1), over two candidates."""
    scores = torch.tensor([[0.0, 1.0]])
    expected = -np.log(np.e / (1 + np.e)) / 2
    assert listmle_loss(scores, torch.tensor([[3.0, 2.0]])).item() == pytest.approx(expected, rel=1e-5)
    assert listmle_loss(scores, torch.tensor([[2.0, 3.0]])).item() > expected


def test_pairs_count_by_their_difference():
    """One pair, 2 mm apart, whose worse one is scored 1 higher; then a pair of equals, which counts nothing."""
    loss = pairwise_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 1.0]]))
    assert loss.item() == pytest.approx(np.log(1 + np.e), rel=1e-5)
    assert pairwise_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 1.0]])).item() < loss.item()
    assert pairwise_loss(torch.tensor([[5.0, 0.0]]), torch.tensor([[1.0, 1.0]])).item() == 0


def test_errors_as_scores():
    assert error_loss(torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 4.0]])).item() == 2


def posterior() -> PosteriorRank:
    torch.manual_seed(0)
    return PosteriorRank(torch.randn(6, 4), 5, width=8).eval()


def test_a_posterior_score_is_a_gaussian_about_the_expected_place():
    net, context = posterior(), torch.randn(3, 5)
    betas = torch.randn(3, 7, 6)
    place, log_deviation = net.expect(context)
    gauss = torch.distributions.Normal(place[:, None], log_deviation.exp()[:, None, None])
    density = gauss.log_prob(betas @ net.basis).sum(-1)
    peak = gauss.log_prob(place[:, None]).sum(-1)
    torch.testing.assert_close(net(betas, context), density - peak, atol=1e-4, rtol=1e-4)


def test_posterior_scores_do_not_depend_on_the_other_candidates():
    net, context, betas = posterior(), torch.randn(1, 5), torch.randn(1, 500, 6)
    torch.testing.assert_close(net(betas[:, :20], context), net(betas, context)[:, :20])


def test_posterior_scores_of_frames_add_up():
    """The best under the sum is nearest to the places' mean, weighed by precision."""
    net, contexts, betas = posterior(), torch.randn(3, 5), torch.randn(1, 400, 6)
    best = net(betas.expand(3, -1, -1), contexts).sum(0).argmax()
    place, log_deviation = net.expect(contexts)
    weight = torch.exp(-2 * log_deviation)[:, None]
    middle = (place * weight).sum(0) / weight.sum()
    assert best == (betas[0] @ net.basis - middle).norm(dim=-1).argmin()
