"""ARKit's 52 blendshapes: exact on the open head, fitted on a head whose expressions have lost their names."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from ofer_models.head import HeadModel
from ofer_models.head.arkit import ARKIT_NAMES, ArkitExact, ArkitFit, has_units, unit_displacements


@pytest.fixture(scope="module")
def nameless(open_head) -> tuple[HeadModel, np.ndarray]:
    """The open head with principal components for expressions, as FLAME has them, and the turn (E, E) to them."""
    head, count = copy.copy(open_head), open_head.n_expression
    basis = open_head.shapedirs[..., open_head.n_shape :].reshape(-1, count)
    turn = np.linalg.svd(basis, full_matrices=False)[2]
    head.shapedirs = open_head.shapedirs.copy()
    head.shapedirs[..., open_head.n_shape :] = (basis @ turn.T).reshape(open_head.n_vertices, 3, count)
    head.expression_names = tuple(f"expression_{i}" for i in range(count))
    head.jaw_open_angle = None
    return head, turn


def expressions(count: int, rows: int = 200):
    """Random faces: 8 units each at 0 to 1, and a jaw pitch in rad."""
    rng = np.random.default_rng(0)
    for _ in range(rows):
        expression = np.zeros(count)
        expression[rng.choice(count, 8, replace=False)] = rng.uniform(0, 1, 8)
        yield expression, np.array([rng.uniform(0, 0.36), 0, 0])


def test_there_are_52_names():
    assert len(set(ARKIT_NAMES)) == 52


def test_the_open_head_s_coefficients_are_the_weights(open_head):
    expression = np.zeros(50, np.float32)
    expression[open_head.expression_names.index("mouthSmileLeft")] = 0.7
    expression[open_head.expression_names.index("browInnerUp")] = 1.3
    expression[open_head.expression_names.index("cheekPuff")] = -0.2
    weights, residual = ArkitExact(open_head)(expression, np.array([open_head.jaw_open_angle / 2, 0, 0]))
    named = dict(zip(ARKIT_NAMES, weights.tolist(), strict=True))
    assert named.pop("mouthSmileLeft") == pytest.approx(0.7)
    assert named.pop("browInnerUp") == 1.0
    assert named.pop("jawOpen") == pytest.approx(0.5)
    assert not any(named.values()) and residual == 0


def test_a_fit_meets_the_landmarks_and_the_weights_as_documented(open_head, nameless):
    head, turn = nameless
    exact, fit = ArkitExact(open_head), ArkitFit(head, open_head)
    errors, residuals = [], []
    for expression, jaw in expressions(50):
        truth, _ = exact(expression, jaw)
        weights, residual = fit(turn @ expression, jaw)
        errors.append(weights - truth)
        residuals.append(residual)
        assert weights.min() >= 0 and weights.max() <= 1 and weights[-1] == 0
    assert np.abs(errors).mean() == pytest.approx(0.06, abs=0.01)
    assert np.sqrt(np.square(errors).mean()) == pytest.approx(0.13, abs=0.015)
    assert np.mean(residuals) == pytest.approx(0.0004, abs=0.0001)


@pytest.mark.parametrize("name", ["jawOpen", "mouthSmileLeft", "eyeBlinkRight", "browInnerUp", "mouthPucker"])
def test_a_fit_finds_a_unit_that_stands_alone(open_head, nameless, name):
    head, turn = nameless
    expression = np.array([name == own for own in open_head.expression_names], float)
    jaw = np.array([open_head.jaw_open_angle if name == "jawOpen" else 0, 0, 0])
    weights, _ = ArkitFit(head, open_head)(turn @ expression, jaw)
    assert ARKIT_NAMES[int(weights.argmax())] == name
    assert weights.max() > 0.8


def test_the_residual_is_what_the_weights_leave(open_head, nameless):
    head, turn = nameless
    rest, residual = ArkitFit(head, open_head)(np.zeros(50), np.zeros(3))
    assert not rest.any() and residual == 0
    _, residual = ArkitFit(head, open_head)(
        -turn @ np.eye(50)[open_head.expression_names.index("mouthPucker")], np.zeros(3)
    )
    assert residual > 0.001, "a pucker the other way round is no mixture of units"


def test_a_fit_scales_with_the_head(open_head, nameless):
    head, turn = nameless
    large = copy.copy(head)
    large.v_template, large.shapedirs, large.posedirs = 1.3 * head.v_template, 1.3 * head.shapedirs, 1.3 * head.posedirs
    expression, jaw = next(expressions(50))
    weights, residual = ArkitFit(large, open_head)(turn @ expression, jaw)
    expected, small = ArkitFit(head, open_head)(turn @ expression, jaw)
    np.testing.assert_allclose(weights, expected, atol=2e-3)
    assert residual == pytest.approx(1.3 * small, rel=1e-2)


def test_heads_of_another_kind_are_told_apart(open_head, nameless):
    assert has_units(open_head) and not has_units(nameless[0])
    with pytest.raises(ValueError, match="not ARKit"):
        ArkitExact(nameless[0])
    bare = copy.copy(open_head)
    bare.embeddings = {}
    with pytest.raises(ValueError, match="68 landmarks"):
        ArkitFit(bare, open_head)
    assert np.abs(unit_displacements(open_head)[ARKIT_NAMES.index("jawOpen")]).max() > 0.01
