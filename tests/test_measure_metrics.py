"""The published protocols' metrics, each on a case worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="closest points need scipy")

from ofer_models.head.model import rotation_matrices
from ofer_models.workshop.measure.metrics.alignment import Similarity, align_points, align_scan
from ofer_models.workshop.measure.metrics.closest_point import TriangleSurface, closest_on_triangles
from ofer_models.workshop.measure.metrics.hypotheses import (
    VertexPopulation,
    average_self_distance,
    closest_sample_error,
    inside_region,
    occluded_diversity,
    out_of_distribution,
    sample_error,
    shape_deviation,
    spread,
)
from ofer_models.workshop.measure.metrics.nme import by_yaw, landmark_errors
from ofer_models.workshop.measure.metrics.now import crop_scan, pool, scan_distances
from ofer_models.workshop.measure.open545.ranking import nearest_to_mean, picked_errors, rank_figures, summary

TRIANGLE = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((0.25, 0.25, 2.0), (0.25, 0.25, 0)),  # above the inside
        ((-1.0, -1.0, 1.0), (0, 0, 0)),  # a corner
        ((0.5, -3.0, 0.0), (0.5, 0, 0)),  # an edge
        ((2.0, 2.0, 0.0), (0.5, 0.5, 0)),  # the long edge
        ((3.0, -1.0, 0.0), (1, 0, 0)),  # another corner
    ],
)
def test_closest_point_on_a_triangle(point, expected):
    np.testing.assert_allclose(closest_on_triangles(np.array(point), TRIANGLE), expected, atol=1e-12)


def test_a_triangle_without_area_is_its_longest_edge():
    flat = np.array([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
    np.testing.assert_allclose(closest_on_triangles(np.array([2.0, 1, 0]), flat), [2, 0, 0], atol=1e-12)


def test_closest_points_on_a_mesh_are_those_of_trying_every_triangle():
    """Long thin triangles, whose middles are far from their ends, are what a search by middles would miss."""
    rng = np.random.default_rng(0)
    vertices = rng.normal(size=(120, 3)) * [5, 1, 1]
    faces = rng.integers(0, 120, (200, 3))
    points = rng.normal(size=(60, 3)) * 4
    found, triangle = TriangleSurface(vertices, faces).closest(points)
    every = closest_on_triangles(points[:, None], vertices[faces][None])
    expected = np.linalg.norm(points[:, None] - every, axis=2).min(1)
    np.testing.assert_allclose(np.linalg.norm(points - found, axis=1), expected, atol=1e-10)
    on_it = closest_on_triangles(points, vertices[faces[triangle]])
    np.testing.assert_allclose(on_it, found, atol=1e-10)


def test_alignment_finds_the_transform_and_no_reflection():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(7, 3))
    turn = rotation_matrices(np.array([0.3, -0.5, 0.9]))
    target = 2.5 * points @ turn.T + [1, 2, 3]
    found = align_points(points, target)
    assert found.scale == pytest.approx(2.5)
    np.testing.assert_allclose(found.rotation, turn, atol=1e-12)
    np.testing.assert_allclose(found(points), target, atol=1e-12)
    np.testing.assert_allclose(found.back(target), points, atol=1e-12)
    rigid = align_points(points, target, scale=False)
    assert rigid.scale == 1
    np.testing.assert_allclose(rigid.rotation, turn, atol=1e-12)
    mirrored = align_points(points, points * [-1, 1, 1])
    assert np.linalg.det(mirrored.rotation) == pytest.approx(1)
    with pytest.raises(ValueError, match="apart"):
        align_points(np.zeros((4, 3)), np.ones((4, 3)))
    with pytest.raises(ValueError, match="three points"):
        align_points(points[:2], target[:2])


def bowl() -> tuple[np.ndarray, np.ndarray]:
    """A curved sheet of 20 x 20 vertices, about 100 wide, that looks the same from no other side."""
    x, y = np.meshgrid(np.linspace(-50, 50, 20), np.linspace(-50, 50, 20))
    z = 0.006 * x**2 + 0.003 * y**2 + 0.0001 * x * y + 6 * np.sin(0.06 * x + 0.04 * y)
    corner = np.arange(400).reshape(20, 20)
    a, b, c, d = corner[:-1, :-1].ravel(), corner[:-1, 1:].ravel(), corner[1:, :-1].ravel(), corner[1:, 1:].ravel()
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
    return np.stack([x.ravel(), y.ravel(), z.ravel()], 1), faces


@pytest.mark.parametrize("scale", [True, False])
def test_a_scan_of_the_mesh_itself_is_found_from_a_rough_start(scale):
    vertices, faces = bowl()
    true = Similarity(1.3 if scale else 1.0, rotation_matrices(np.array([0.2, 0.1, -0.3])), np.array([5.0, -3, 8]))
    rng = np.random.default_rng(2)
    inner = faces[(np.abs(vertices[faces][..., :2]) < 35).all((1, 2))]
    bary = rng.dirichlet(np.ones(3), 300)
    scan = true(np.einsum("nc,ncx->nx", bary, vertices[inner[rng.integers(len(inner), size=300)]]))
    off = rotation_matrices(np.array([0.04, -0.03, 0.05]))
    start = Similarity(true.scale * (1.05 if scale else 1.0), off @ true.rotation, true.translation + [1.0, 2, -1])
    surface = TriangleSurface(vertices, faces)
    found = align_scan(scan, surface, start, scale=scale)
    before = np.linalg.norm(scan - start(surface.closest(start.back(scan))[0]), axis=1)
    after = np.linalg.norm(scan - found(surface.closest(found.back(scan))[0]), axis=1)
    assert before.mean() > 0.5 and after.max() < 0.01
    assert found.scale == pytest.approx(true.scale, rel=1e-3)


LANDMARKS = np.array([[-40.0, 0, 0], [-10, 0, 0], [10, 0, 0], [40, 0, 0], [0, -30, 10], [-20, -60, 0], [20, -60, 0]])


def test_the_scans_crop_is_the_challenges_sphere():
    """Bridge (0, 0, 0), centre (0, -21, 7), radius 1.4 (80 + sqrt(1000)) / 2 = 78.136."""
    centre, radius = np.array([0, -21.0, 7]), 1.4 * (80 + np.sqrt(1000)) / 2
    along = np.array([0.6, 0.0, 0.8])
    points = centre + np.array([[0, 0, 0], *(share * radius * along for share in (0.999, 1.001))])
    assert crop_scan(points, LANDMARKS).tolist() == [True, True, False]


def test_now_error_of_a_shifted_and_scaled_prediction():
    """A prediction that differs by a similarity has no non-metrical error; a flat plate 2 mm off stays 2 mm off."""
    vertices, faces = bowl()
    rng = np.random.default_rng(0)
    scan = np.einsum("nc,ncx->nx", rng.dirichlet(np.ones(3), 200), vertices[faces[rng.integers(len(faces), size=200)]])
    marks = vertices[[105, 108, 111, 114, 210, 288, 291]] * [1, -1, 1]  # upright, so that the sphere holds the middle
    smaller = Similarity(0.5, rotation_matrices(np.array([0.0, 0.4, 0.0])), np.array([10.0, 0, 0]))
    errors = scan_distances(scan, marks, smaller(vertices), faces, smaller(marks))
    assert 20 < len(errors) <= 200 and errors.max() < 1e-3
    metrical = scan_distances(scan, marks, smaller(vertices), faces, smaller(marks), metrical=True)
    assert metrical.mean() > 1
    with pytest.raises(ValueError, match="in mm"):
        scan_distances(scan + 1000, marks, vertices, faces, marks)


def test_now_pools_vertices_and_counts_missing_images():
    result = pool([np.array([1.0, 3.0]), None, np.array([5.0])])
    assert (result.median, result.mean, result.images, result.missing) == (3, 3, 2, 1)
    assert result.std == pytest.approx(np.sqrt(8 / 3))
    nothing = pool([None])
    assert nothing.missing == 1 and np.isnan(nothing.median)


def test_nme_by_hand():
    """A box of 200 x 50, so a size of 100: an offset of (3, 4) px is 5 %."""
    truth = np.zeros((3, 68, 2))
    truth[:, 0], truth[:, 1] = (200, 0), (0, 50)
    predicted = truth + [3, 4]
    predicted[1] = truth[1]
    predicted[2, :34] = truth[2, :34]
    errors = landmark_errors(predicted, truth)
    np.testing.assert_allclose(errors, [5, 0, 2.5])
    figures = by_yaw(np.array([1.0, 3, 2, 6, 9]), np.array([-30.0, 10, 60, -31, 85]))
    assert (figures.frontal, figures.turned, figures.profile) == (2, 4, 9)
    assert figures.mean == 5 and figures.pooled == pytest.approx(4.2) and figures.counts == (2, 2, 1)
    assert np.isnan(by_yaw(np.array([1.0]), np.array([0.0])).mean)
    with pytest.raises(ValueError, match="true ones"):
        landmark_errors(predicted[:2], truth)


# Two vertices; three samples that put them at distances 0, 1 and 3 along x.
SAMPLES = np.array([0.0, 1, 3])[:, None, None] * np.array([[[1.0, 0, 0], [1, 0, 0]]])
TRUTH = np.array([[0.5, 0, 0], [0.5, 0, 0]])


def test_errors_of_samples_by_hand():
    assert sample_error(SAMPLES, TRUTH) == pytest.approx((0.5 + 0.5 + 2.5) / 3)
    assert closest_sample_error(SAMPLES, TRUTH) == pytest.approx(0.5)
    uneven = TRUTH + [[0, 3, 0], [0, 0, 0]]  # root mean square, not the mean: sqrt((9 + 0) / 2 + 0.25)
    assert closest_sample_error(SAMPLES, uneven) == pytest.approx(np.sqrt(4.75))


def test_self_distances_by_hand():
    assert average_self_distance(SAMPLES) == pytest.approx((1 + 1 + 2) / 3)
    assert average_self_distance(SAMPLES, farthest=True) == pytest.approx((3 + 2 + 3) / 3)
    with pytest.raises(ValueError, match="two samples"):
        average_self_distance(SAMPLES[:1])


def test_occluded_diversity_by_hand():
    """dv = 0.5, 0.5, 2.5 and do = 1, 1, 2 over 4: the harmonic means of (.875, .25), (.875, .25) and (.375, .5)."""
    expected = (2 * 2 * 0.875 * 0.25 / 1.125 + 2 * 0.375 * 0.5 / 0.875) / 3
    assert occluded_diversity(SAMPLES, TRUTH, SAMPLES, 4.0) == pytest.approx(expected)
    assert occluded_diversity(SAMPLES, TRUTH, SAMPLES[:1].repeat(3, 0), 4.0) == 0  # no diversity
    assert occluded_diversity(SAMPLES + 100, TRUTH, SAMPLES, 4.0) == 0  # no fidelity


def test_plausibility_by_hand():
    """A population at x = -2 and 2 about (0, 0, 0): deviation 2, threshold 1; x = 6 lies 3 deviations out, 2 beyond."""
    meshes = np.zeros((2, 2, 3))
    meshes[0, :, 0], meshes[1, :, 0] = -2, 2
    population = VertexPopulation.fit(meshes, 1e-6)
    np.testing.assert_allclose(population.threshold, 1, rtol=1e-5)
    tried = np.zeros((2, 2, 3))
    tried[0, 0, 0] = 6
    np.testing.assert_allclose(population.distances(tried)[0], [3, 0], rtol=1e-5, atol=1e-9)
    excess = population.excess(tried)
    assert out_of_distribution(excess) == pytest.approx(2 / 4, rel=1e-4)
    assert out_of_distribution(excess, np.array([0])) == pytest.approx(1, rel=1e-4)
    assert out_of_distribution(excess, np.array([1])) == 0
    assert np.isnan(out_of_distribution(excess, np.array([], int)))


def test_deviation_leaves_out_what_is_implausible():
    samples = np.zeros((4, 1, 3))
    samples[:, 0, 1] = [-1, 1, 0, 50]
    excess = np.array([[0.0], [0], [0], [2]])
    assert shape_deviation(samples, excess) == pytest.approx(np.sqrt(2 / 3))
    np.testing.assert_allclose(spread(samples[:3]), [np.sqrt(2 / 3)])
    assert np.isnan(shape_deviation(samples, np.ones((4, 1))))


def test_regions_hold_their_share_of_what_is_drawn_alike():
    rng = np.random.default_rng(0)
    scale = np.array([3.0, 1, 0.2])
    samples, truth = rng.normal(size=(400, 1500, 3)) * scale, rng.normal(size=(1500, 3)) * scale
    assert inside_region(samples, truth).mean() == pytest.approx(0.9, abs=0.025)
    assert inside_region(samples, truth, 0.5).mean() == pytest.approx(0.5, abs=0.04)
    assert not inside_region(samples, truth + [0, 0, 2.0]).any()  # ten deviations along the thin axis
    line = samples * [1, 0, 0]
    assert not inside_region(line, truth * [1, 0, 0] + [0, 0.1, 0], floor=1e-3).any()
    assert inside_region(line, truth * [1, 0, 0], floor=1e-3).mean() == pytest.approx(0.9, abs=0.03)


def test_ranking_figures_by_hand():
    errors = np.array([[1.0, 2, 3], [4, 0, 2]])
    figures = rank_figures(errors, np.array([0, 2]), np.array([1, 1]), np.array([1.0, 2.0]))
    assert (figures.average, figures.best, figures.ranked, figures.nearest, figures.mean) == (2, 0.5, 1.5, 1, 1.5)
    assert figures.gap_closed == pytest.approx(1 / 3) and figures.nearest_gap_closed == pytest.approx(2 / 3)


def test_the_nearest_to_the_mean():
    meshes = np.array([[[0.0, 0], [4, 0], [2, 1]], [[0, 0], [1, 0], [11, 0]]])
    assert nearest_to_mean(meshes).tolist() == [2, 1]


def test_ablation_by_hand():
    """Two faces, two candidates, two vertices."""
    one, other = np.array([[1.0, 3], [2, 2.5]]), np.array([[5.0, 5], [0, 4]])
    first, second = picked_errors(one, 1), picked_errors(other, 0)
    assert first["best"].tolist() == [1, 3] and first["average"].tolist() == [1.5, 2.75]
    assert second["best"].tolist() == [0, 4] and second["ranked"].tolist() == [5, 5]
    assert set(picked_errors(one)) == {"best", "average"}
    table = summary([first["best"], second["best"]])
    assert table == {"median": 2, "mean": 2, "std": pytest.approx(np.sqrt(2.5))}
