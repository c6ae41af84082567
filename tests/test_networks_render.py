"""The differentiable renderer: what is seen where, gradients against finite differences, light."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ofer_models.head.spherical_harmonics import TERMS, harmonics, irradiance
from ofer_models.workshop.networks import mesh_raster, mesh_render
from ofer_models.workshop.networks.mesh_raster import visible_triangles
from ofer_models.workshop.networks.mesh_render import interpolate, render, vertex_normals

SIZE = (24, 30)
# Of the public code of Deep3D's PyTorch port, for light 0.0, 0.1, ... 2.6 less 1.3, red's nine first.
NORMALS = np.array([[0.6, 0, 0.8], [0, -0.6, 0.8], [2 / 3, 2 / 3, 1 / 3]])
LIGHT = np.arange(27) / 10 - 1.3
LIT = [[-0.91005, 0.13141, 1.17288], [-4.44379, -0.17748, 4.08883], [1.61781, 0.39983, -0.81815]]


def soup(rng: np.random.Generator, triangles: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Triangles of all sizes, half of them with their back to the camera, some beyond the picture's edge."""
    middle = rng.uniform(-4, 34, (batch, triangles, 1, 2))
    corners = middle + rng.normal(0, 1, (batch, triangles, 3, 2)) * rng.uniform(0.2, 9, (batch, triangles, 1, 1))
    depth = rng.uniform(1, 9, (batch, triangles, 3, 1))
    points = np.concatenate([corners, depth], -1).reshape(batch, -1, 3)
    return torch.from_numpy(points), torch.arange(3 * triangles).reshape(-1, 3)


def nearest(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Every pixel with every triangle, one by one."""
    found = np.full(SIZE, -1)
    best = np.full(SIZE, np.inf)
    for number, (a, b, c) in enumerate(points[faces]):
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if area >= 0:
            continue
        system = np.array([[a[0], b[0], c[0]], [a[1], b[1], c[1]], [1, 1, 1]])
        for y, x in np.ndindex(*SIZE):
            weights = np.linalg.solve(system, [x, y, 1])
            depth = 1 / (weights / [a[2], b[2], c[2]]).sum()
            if (weights >= 0).all() and depth < best[y, x]:
                found[y, x], best[y, x] = number, depth
    return found


@pytest.mark.parametrize("at_once", [1 << 21, 50])
def test_each_pixel_shows_the_nearest_triangle_that_faces_it(monkeypatch, at_once):
    monkeypatch.setattr(mesh_raster, "_AT_ONCE", at_once)
    points, faces = soup(np.random.default_rng(1), 40)
    found = visible_triangles(points, faces, SIZE)
    assert (found >= 0).any() and (found < 0).any()
    for own, expected in zip(found, (nearest(p.numpy(), faces.numpy()) for p in points), strict=True):
        np.testing.assert_array_equal(own, expected)


def test_a_closed_surface_has_no_holes():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:25:1.25, 0:32.5:1.25]
    x[1:-1, 1:-1] += rng.uniform(-0.4, 0.4, x[1:-1, 1:-1].shape)
    at = np.arange(x.size).reshape(x.shape)
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
    points = torch.from_numpy(np.stack([x.ravel(), y.ravel(), np.ones(x.size)], -1)[None]).float()
    assert (visible_triangles(points, torch.from_numpy(faces), SIZE) >= 0).all()


FACING = torch.tensor([[2.0, 2.0, 1.0], [2.0, 20.0, 1.0], [20.0, 2.0, 1.0]])


@pytest.mark.parametrize("points", [
    FACING[[0, 2, 1]], FACING * torch.tensor([1.0, 1.0, -1.0]), FACING * torch.tensor([1.0, 1.0, 0.0]),
    FACING * 0 + 5, torch.stack([FACING[0], FACING[1], (FACING[0] + FACING[1]) / 2]),
    FACING + torch.tensor([100.0, 0, 0]),
    FACING * torch.tensor([1.0, torch.nan, 1.0]), FACING * torch.tensor([1.0, 1.0, torch.inf]),
    torch.cat([FACING[:2], FACING[2:] * torch.tensor([1.0, 1.0, -1.0])]),
], ids=["back", "behind", "at", "point", "line", "beside", "nan", "endless", "one corner behind"])  # fmt: skip
def test_what_cannot_be_seen_is_left_out_and_gives_no_gradient(points):
    points = points[None].clone().requires_grad_()
    values = torch.ones(1, 3, 2, requires_grad=True)
    picture, triangle = render(points, torch.tensor([[0, 1, 2]]), values, SIZE)
    assert (triangle == -1).all() and not picture.any()
    picture.sum().backward()
    assert not points.grad.any() and not values.grad.any()


def test_an_empty_mesh_and_a_triangle_far_larger_than_the_picture():
    none = visible_triangles(torch.zeros(1, 3, 3), torch.zeros(0, 3, dtype=torch.int64), SIZE)
    assert (none == -1).all()
    huge = FACING * torch.tensor([1e5, 1e5, 1.0]) - torch.tensor([5e5, 5e5, 0.0])
    assert (visible_triangles(huge[None], torch.tensor([[0, 1, 2]]), SIZE) == 0).all()


def test_values_are_even_over_the_surface():
    """Half way between a corner at depth 1 and one at depth 3 in the picture is a quarter of the way in space."""
    points = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 20.0, 1.0], [20.0, 0.0, 3.0]]])
    values = torch.tensor([[[0.0], [0.0], [1.0]]])
    picture, _ = render(points, torch.tensor([[0, 1, 2]]), values, SIZE)
    assert picture[0, 0, 10, 0] == pytest.approx(0.25, abs=1e-6)
    assert picture[0, 0, 20, 0] == pytest.approx(1.0, abs=1e-6)


def test_gradients_by_position_and_value_are_those_of_finite_differences():
    points, faces = soup(np.random.default_rng(3), 12, batch=1)
    triangle = visible_triangles(points, faces, (12, 15))
    values = torch.randn(1, points.shape[1], 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda p, v: interpolate(p, faces, v, triangle), (points.requires_grad_(), values.requires_grad_())
    )


def test_gradients_of_a_lit_head_are_those_of_finite_differences():
    """A ball: vertices to pixels, normals, light and albedo to colours, and back."""
    ball, faces = sphere()
    rng = np.random.default_rng(4)
    parts = [
        torch.from_numpy(part).requires_grad_()
        for part in (ball, rng.uniform(0.2, 1, ball.shape), rng.normal(0, 0.3, (1, 27)), np.array([[0.02, -0.03, 4.0]]))
    ]
    weights = torch.from_numpy(rng.normal(size=(*SIZE, 3)))
    shown = None

    def loss(vertices, albedo, light, shift):
        nonlocal shown
        placed = vertices + shift * torch.tensor([1.0, 1.0, 0.0])
        depth = shift[:, 2:] - placed[..., 2]
        points = torch.stack([14.3 + 40 * placed[..., 0] / depth, 11.2 - 40 * placed[..., 1] / depth, depth], -1)
        shown = visible_triangles(points, faces, SIZE) if shown is None else shown
        lit = albedo * mesh_render.irradiance(vertex_normals(vertices, faces), light)
        return (interpolate(points, faces, lit, shown)[0] * weights).sum()

    value = loss(*parts)
    gradients = torch.autograd.grad(value, parts)
    assert (shown >= 0).sum() > 100
    for which, gradient in enumerate(gradients):
        direction = torch.from_numpy(rng.normal(size=gradient.shape))
        sides = []
        for sign in (1, -1):
            moved = [part.detach() for part in parts]
            moved[which] = moved[which] + sign * 1e-6 * direction
            sides.append(loss(*moved))
        assert (gradient * direction).sum().item() == pytest.approx((sides[0] - sides[1]).item() / 2e-6, rel=1e-5)


def sphere() -> tuple[np.ndarray, torch.Tensor]:
    """A ball's vertices (1, V, 3) and faces, counter-clockwise from outside."""
    theta, phi = np.meshgrid(np.linspace(0.3, np.pi - 0.3, 9), np.linspace(0, 2 * np.pi, 13)[:-1], indexing="ij")
    vertices = np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], -1)
    at = np.arange(theta.size).reshape(theta.shape)
    a, b, c, d = at[:-1], np.roll(at, -1, 1)[:-1], np.roll(at, -1, 1)[1:], at[1:]
    faces = np.concatenate([np.stack([a, d, c], -1).reshape(-1, 3), np.stack([a, c, b], -1).reshape(-1, 3)])
    return vertices.reshape(1, -1, 3), torch.from_numpy(faces)


def test_normals_point_out_of_the_surface_and_are_zero_without_one():
    ball, faces = sphere()
    normals = vertex_normals(torch.from_numpy(ball), faces)
    inner = np.abs(ball[0, :, 1]) < 0.9
    assert ((normals[0].numpy() * ball[0]).sum(-1)[inner] > 0.97).all()
    assert not vertex_normals(torch.zeros(1, 3, 3), torch.tensor([[0, 1, 2]])).any()


def test_light_is_deep3ds():
    np.testing.assert_allclose(irradiance(NORMALS, LIGHT), LIT, atol=1e-5)
    normals = torch.from_numpy(NORMALS)[None].repeat(2, 1, 1)
    batch = mesh_render.irradiance(normals, torch.from_numpy(np.stack([LIGHT, 0 * LIGHT])))
    np.testing.assert_allclose(batch[0], LIT, atol=1e-5)
    np.testing.assert_allclose(batch[1], 0.8 * np.sqrt(np.pi) / 2, atol=1e-6)  # no light of its own: even and grey


def test_the_nine_terms_are_orthogonal_over_the_sphere():
    points = np.random.default_rng(0).normal(size=(400_000, 3))
    terms = np.stack(harmonics(*(points / np.linalg.norm(points, axis=1, keepdims=True)).T))
    gram = terms @ terms.T / len(points)
    assert terms.shape[0] == TERMS and np.abs(gram - np.diag(np.diag(gram))).max() < 0.02 * np.diag(gram).min()
    np.testing.assert_allclose(np.diag(gram)[1:4], np.diag(gram)[1], rtol=0.02)
    np.testing.assert_allclose(np.diag(gram)[4:], np.diag(gram)[4], rtol=0.02)


@pytest.mark.gpu
def test_a_gpu_draws_what_the_cpu_draws():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    points, faces = soup(np.random.default_rng(2), 200)
    points = points.float()
    values = torch.rand(2, points.shape[1], 3)
    picture, triangle = render(points, faces, values, SIZE)
    other, there = render(points.cuda(), faces.cuda(), values.cuda(), SIZE)
    assert (triangle == there.cpu()).float().mean() > 0.999
    torch.testing.assert_close(picture, other.cpu(), atol=1e-4, rtol=1e-4)
