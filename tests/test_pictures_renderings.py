"""Training pictures: reproducible one by one, true to their own geometry, and people who look like people."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("numba", reason="the renderer needs numba (`make train-env`)")

from conftest import OPEN

from ofer_models.head import HeadModel
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.pictures import dataset
from ofer_models.workshop.pictures.camera_effects import SIZE
from ofer_models.workshop.pictures.occluders import _hat
from ofer_models.workshop.pictures.pictures import WIDE, PictureSource, Sample
from ofer_models.workshop.pictures.population import Population
from ofer_models.workshop.pictures.raster import rasterize, vertex_normals
from ofer_models.workshop.pictures.render import plain_light, project, render, vertex_visibility
from ofer_models.workshop.pictures.sheets import picture_tile, sheet
from ofer_models.workshop.pictures.surface import Surface, describe_surface
from ofer_models.workshop.pictures.teeth import show_teeth

SEED = 5
CAMERA = np.array([[500.0, 0, 95.5], [0, 500.0, 95.5], [0, 0, 1]])


@pytest.fixture(scope="module")
def source(open_head) -> PictureSource:
    return PictureSource(open_head, SEED)


@pytest.fixture(scope="module")
def samples(source) -> dict[int, Sample | None]:
    return {index: source.sample(index) for index in range(16)}


@pytest.fixture(scope="module")
def population(open_head) -> Population:
    return Population(open_head.expression_names, open_head.n_shape, open_head.jaw_open_angle)


def drawn(samples: dict[int, Sample | None]) -> list[Sample]:
    return [sample for sample in samples.values() if sample is not None]


def same(a: Sample | None, b: Sample | None) -> bool:
    if a is None or b is None:
        return a is b
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in Sample.__dataclass_fields__)


def test_a_sample_depends_on_seed_and_number_alone(open_head, samples):
    again = PictureSource(open_head, SEED)
    for index in (7, 2, 11):  # another order, from another source
        assert same(again.sample(index), samples[index])
    other = PictureSource(open_head, SEED + 1)
    assert not any(np.array_equal(other.picture(i)[0], again.picture(i)[0]) for i in (2, 7))
    assert not np.array_equal(again.picture(2)[0], again.picture(3)[0])


def test_mediapipe_finds_most_faces(samples):
    assert len(drawn(samples)) >= 12


def test_what_a_sample_holds(open_head, samples):
    for sample in drawn(samples):
        assert sample.betas.shape == (open_head.n_shape,) and sample.expression.shape == (50,)
        assert sample.crop.shape == (112, 112, 3) and sample.crop.dtype == np.uint8 and np.ptp(sample.crop) > 60
        assert sample.landmarks.shape == (478, 6) and np.isfinite(sample.landmarks).all()
        assert sample.points.shape == (478, 3) and sample.true_points.shape == (468, 2)
        # The same similarity takes MediaPipe's points and the true ones into the crop.
        fit = np.linalg.lstsq(np.c_[sample.points[:, :2], np.ones(478)], sample.landmarks[:, :2], rcond=None)[0]
        np.testing.assert_allclose(np.c_[sample.true_points, np.ones(468)] @ fit, sample.true_landmarks, atol=1e-3)
        assert sample.visible.shape == sample.covered.shape == (open_head.n_vertices,)


def test_true_points_are_a_camera_image_of_the_true_head(open_head, samples):
    """A projection matrix (direct linear transform) fits truth to truth within rounding, and only those."""
    for sample in drawn(samples)[:5]:
        head = open_head.landmarks(open_head.decode(sample.betas, sample.expression, sample.jaw), "mediapipe")
        neutral = open_head.landmarks(open_head.decode(sample.betas), "mediapipe")
        assert projection_error(head, sample.true_points) < 0.02
        if np.abs(head - neutral).max() > 0.01:
            assert projection_error(neutral, sample.true_points) > 0.1


def projection_error(points: np.ndarray, pixels: np.ndarray) -> float:
    """Mean reprojection error in px of the best 3 x 4 projection of points (L, 3) onto pixels (L, 2)."""
    points = (points - points.mean(0)) / points.std()
    homogeneous = np.column_stack([points, np.ones(len(points))]).astype(np.float64)
    middle, scale = pixels.mean(0), pixels.std()
    u, v = ((pixels - middle) / scale).T[..., None].astype(np.float64)
    zero = np.zeros_like(homogeneous)
    system = np.concatenate(
        [np.hstack([homogeneous, zero, -u * homogeneous]), np.hstack([zero, homogeneous, -v * homogeneous])]
    )
    matrix = np.linalg.svd(system, full_matrices=False)[2][-1].reshape(3, 4)
    seen = homogeneous @ matrix.T
    seen = seen[:, :2] / seen[:, 2:] * scale + middle
    return float(np.linalg.norm(seen - pixels, axis=1).mean())


def test_mediapipe_sees_the_points_where_they_are(samples):
    """On faces that nothing covers; points beside the ears are guesses, hence the median."""
    errors = []
    for sample in drawn(samples):
        if sample.occlusion < 0.02:
            between = np.linalg.norm(sample.true_points[[33, 133]].mean(0) - sample.true_points[[362, 263]].mean(0))
            apart = np.linalg.norm(sample.points[:468, :2] - sample.true_points, axis=1)
            errors.append(np.median(apart) / max(between, 15))
    assert errors and np.median(errors) < 0.09


def test_masks_of_what_is_seen(open_head, samples):
    face = open_head.masks["face"]
    for sample in drawn(samples):
        assert not (sample.visible & sample.covered).any()
        assert 0 <= sample.occlusion <= 1
        seen = sample.visible | sample.covered
        assert 0.05 < seen.mean() < 0.65  # a camera sees one side of a head
        expected = sample.covered[face].sum() / max(seen[face].sum(), 1)
        assert sample.occlusion == pytest.approx(expected, abs=1e-6)
    assert not np.concatenate([s.visible[open_head.masks["inner_mouth"]] for s in drawn(samples)]).all()


def test_occluders_cover_faces_only_where_asked(open_head):
    never, always = PictureSource(open_head, SEED, 0.0), PictureSource(open_head, SEED, 1.0)
    without = [never.picture(index)[1] for index in range(12)]
    covered = [always.picture(index)[1] for index in range(12)]
    # Without occluders only the picture's edge hides anything.
    assert np.median([truth["occlusion"] for truth in without]) == 0
    assert sum(truth["occlusion"] > 0.02 for truth in covered) >= 7
    for bare, hidden in zip(without, covered, strict=True):
        np.testing.assert_array_equal(
            bare["true_points"], hidden["true_points"]
        )  # the same person before the same camera
        assert not (hidden["visible"] & ~bare["visible"]).any()


def test_wide_pictures_turn_further_and_wear_hats(open_head, source):
    """The choice changes no picture of those sets that were drawn without it."""
    wide = PictureSource(open_head, SEED, 1.0, wide=True)
    assert np.degrees(WIDE.most_yaw) == pytest.approx(75)
    profile, rng = replace(WIDE, yaw=50.0), np.random.default_rng(0)  # beyond the limit either way
    sample = wide.picture(3)[1]
    turned = wide.scene(sample["betas"], sample["expression"], sample["jaw"], rng, profile).rotation
    assert 70 < abs(np.degrees(np.arctan2(-turned[0, 2], -turned[2, 2]))) < 80
    assert not np.array_equal(wide.picture(2)[0], source.picture(2)[0])
    points = source.picture(2)[1]["points68"]
    image = np.full((SIZE, SIZE, 3), 0.5, np.float32)
    alpha, colour = _hat(image, points, np.random.default_rng(0))
    above = points[17:27].mean(0) - [0, 0.35 * np.ptp(points[:, 1])]
    x, y = np.clip(np.round(above).astype(int), 0, SIZE - 1)
    assert alpha[y, x] == 1 and alpha[int(points[8, 1]), int(points[8, 0])] == 0  # on the forehead, not on the chin
    assert colour.shape == image.shape


def test_the_held_out_set_is_what_it_always_was(open_head):
    """Truth of its first pictures, rounded so that no processor's last bit matters: figures stay comparable."""
    held_out, digest = PictureSource(open_head, dataset.HELD_OUT_SEED), hashlib.sha256()
    for index in range(3):
        truth = held_out.picture(index)[1]
        for name in ("betas", "expression", "jaw", "camera"):
            digest.update(np.round(np.asarray(truth[name], float) * 1e3).astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "df6d1bbfab2d60f4"


def test_poses_are_those_of_the_pictures(open_head, samples):
    """Rotation, translation and camera take the head's landmarks to where the picture shows them."""
    for sample in drawn(samples)[:4]:
        head = open_head.landmarks(open_head.decode(sample.betas, sample.expression, sample.jaw), "mediapipe")
        placed = head @ sample.rotation.T + sample.translation
        np.testing.assert_allclose(project(placed, sample.camera), sample.true_points, atol=0.02)
        assert np.linalg.det(sample.rotation) == pytest.approx(1, abs=1e-5)
        assert sample.points68.shape == (68, 2)


def test_tiles_of_a_contact_sheet(source, samples):
    sample = drawn(samples)[0]
    tiles = [picture_tile(source.picture(0)[0], some) for some in (sample, None)]
    assert tiles[0].shape == tiles[1].shape == (SIZE, SIZE + 112, 3)
    np.testing.assert_array_equal(tiles[0][:112, SIZE:], sample.crop[..., ::-1])
    assert sheet(tiles).shape == (SIZE, 8 * (SIZE + 112), 3)


def test_generate_continues_and_repeats(open_head, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SHARD", 3)
    head_path = tmp_path / "head.npz"
    head_path.write_bytes((OPEN / "head.npz").read_bytes())
    folder = tmp_path / "pictures"
    dataset.generate(head_path, folder, 6, seed=SEED, workers=1)
    shards = sorted(folder.iterdir())
    assert [path.name for path in shards] == ["0000000.npz", "0000003.npz"]
    first, second = (path.read_bytes() for path in shards)
    kept = shards[0].stat().st_mtime_ns
    shards[1].unlink()
    dataset.generate(head_path, folder, 6, seed=SEED, workers=1)
    assert shards[0].stat().st_mtime_ns == kept and shards[0].read_bytes() == first
    with np.load(shards[1]) as again:
        (tmp_path / "second.npz").write_bytes(second)
        with np.load(tmp_path / "second.npz") as before:
            for name in before.files:
                np.testing.assert_array_equal(again[name], before[name])
    pictures = dataset.load(folder)
    assert len(pictures) <= 6 and (np.diff(pictures.index) > 0).all()
    assert pictures.coefficients.shape == (len(pictures), 53)
    assert np.unpackbits(pictures.visible, axis=1, count=open_head.n_vertices).any()
    assert len(dataset.load(folder, 2)) == 2
    dataset.generate(head_path, folder, 6, seed=SEED, workers=1)  # nothing left to do
    assert sorted(folder.iterdir()) == shards


def test_shards_hold_what_the_source_draws(open_head, samples, tmp_path):
    path = tmp_path / "0000004.npz"
    assert dataset._draw_shard((OPEN / "head.npz", path, 4, 3, SEED, 0.6, False)) <= 3
    pictures = dataset.load(tmp_path)
    for row, index in enumerate(pictures.index):
        sample = samples[int(index)]
        np.testing.assert_array_equal(pictures.crop[row], sample.crop)
        np.testing.assert_array_equal(pictures.jaw[row], sample.jaw)
        np.testing.assert_allclose(pictures.landmarks[row].astype(np.float32), sample.landmarks, atol=4e-3, rtol=1e-3)
        visible = np.unpackbits(pictures.visible[row], count=open_head.n_vertices).astype(bool)
        np.testing.assert_array_equal(visible, sample.visible)


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        dataset.load(tmp_path)


def test_people_are_drawn_within_bounds(population):
    rng = np.random.default_rng(0)
    betas = np.stack([population.betas(rng) for _ in range(300)])
    assert np.abs(betas).max() <= 3 and abs(betas.mean()) < 0.02 and abs(betas.std() - 0.99) < 0.03
    faces = [population.expression(rng) for _ in range(1500)]
    expressions, jaws = np.stack([e for e, _ in faces]), np.stack([j for _, j in faces])
    assert expressions.min() >= 0 and expressions.max() <= 1
    assert jaws[:, 0].min() >= 0 and jaws[:, 0].max() <= population.jaw_open_angle + 1e-6
    assert 0.3 < (jaws[:, 0] > 0.02).mean() < 0.6 and np.abs(jaws[:, 1:]).max() < 0.08
    idle = [n for n, high in zip(population.expression_names, expressions.max(0), strict=True) if high < 0.2]
    assert not idle, f"never drawn: {idle}"  # also what a misspelt unit in the table of actions would give


def test_both_sides_act_alike(population):
    rng = np.random.default_rng(1)
    expressions = np.stack([population.expression(rng)[0] for _ in range(1500)])
    names = population.expression_names
    for name in (n for n in names if n.endswith("Left") and n not in ("jawLeft", "mouthLeft")):
        left = expressions[:, names.index(name)]
        right = expressions[:, names.index(name.removesuffix("Left") + "Right")]
        assert left.mean() == pytest.approx(right.mean(), rel=0.25, abs=0.01), name
        if "Look" not in name or "Up" in name or "Down" in name:
            assert np.corrcoef(left, right)[0, 1] > 0.6, name
    for left, right in (("jawLeft", "jawRight"), ("mouthLeft", "mouthRight")):
        both = np.minimum(expressions[:, names.index(left)], expressions[:, names.index(right)])
        assert both.max() < 0.15  # not both ways at once
    out, inward = expressions[:, names.index("eyeLookOutLeft")], expressions[:, names.index("eyeLookInRight")]
    assert np.corrcoef(out, inward)[0, 1] > 0.9  # both eyes look at one point


@pytest.fixture(scope="module")
def surface(open_head) -> Surface:
    return describe_surface(open_head)


def before_camera(head: HeadModel) -> np.ndarray:
    return ((head.v_template - [0, -0.02, 0]) * [1, -1, -1] + [0, 0, 0.7]).astype(np.float32)


def test_pixels_lie_under_their_triangles(open_head, surface):
    vertices = before_camera(open_head)
    background = np.full((192, 192, 3), 0.5, np.float32)
    paint = np.full((4, 384, 384, 3), 0.5, np.float32)
    result = render(open_head, surface, vertices, CAMERA, paint, plain_light(), background)
    rows, columns = np.nonzero(result.triangle >= 0)
    corners = result.points[open_head.faces[result.triangle[rows, columns]]]
    place = np.einsum("nc,ncx->nx", result.bary[rows, columns], corners)
    fine = (place + 0.5) * 2 - 0.5
    np.testing.assert_allclose(fine, np.stack([columns, rows], 1), atol=0.01)
    seen = vertex_visibility(open_head, result)
    assert seen[open_head.masks["frontal"]].mean() > 0.8  # the rest lines the eye sockets
    behind = np.flatnonzero(open_head.v_template[:, 2] < -0.08)
    assert len(behind) and not seen[behind].any()
    assert (result.image[0, 0] == 0.5).all() and not np.allclose(result.image[96, 96], 0.5, atol=1e-3)


def test_project_is_opencvs(open_head):
    vertices = before_camera(open_head).astype(np.float64)
    expected = cv2.projectPoints(vertices, np.zeros(3), np.zeros(3), CAMERA, None)[0][:, 0]
    np.testing.assert_allclose(project(vertices, CAMERA), expected, atol=1e-9)


def test_the_nearest_front_face_wins():
    square = np.array([[2, 2], [12, 2], [12, 12], [2, 12]], np.float32)
    points = np.concatenate([np.c_[square, np.full(4, 5)], np.c_[square + 3, np.full(4, 2)]]).astype(np.float32)
    faces = np.array([[0, 2, 1], [0, 3, 2], [4, 6, 5], [4, 7, 6]], np.int32)
    triangle, bary = rasterize(points, faces, 20, 20)
    assert triangle[4, 4] in (0, 1) and triangle[8, 8] in (2, 3) and triangle[18, 18] == -1
    np.testing.assert_allclose(bary[triangle >= 0].sum(-1), 1, atol=1e-5)
    turned, _ = rasterize(points, faces[:, ::-1].copy(), 20, 20)
    assert (turned == -1).all()  # seen from behind


def test_normals_of_a_ball_point_outwards():
    rng = np.random.default_rng(0)
    corners = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1]], np.float32)
    faces = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]], np.int32)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    vertices = np.ascontiguousarray(corners @ turn.T, np.float32)
    np.testing.assert_allclose(vertex_normals(vertices, faces), vertices, atol=1e-5)


def test_pictures_are_square_rgb(source):
    picture, truth = source.picture(0)
    assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8
    low, high = truth["true_points"].min(0), truth["true_points"].max(0)
    assert ((high - low) > 40).all()


@pytest.mark.parametrize("gap", [0.0, 8.0])
def test_teeth_show_between_open_lips_only(gap):
    """Lips 30 px wide at row 90: the lower inner edge hangs by `gap` px in its middle."""
    landmarks = np.full((478, 3), -1.0)
    across = np.linspace(0, 1, 11)
    upper = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
    lower = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
    for names, hang in ((upper, 0.0), (lower, gap)):
        pixels = np.stack([41 + 30 * across, 90 + 4 * hang * across * (1 - across)], axis=1)
        landmarks[list(names), :2] = pixels * 2 / 111 - 1
    dark = np.full((112, 112, 3), 30, np.uint8)
    changed = [np.abs(show_teeth(dark, landmarks, np.random.default_rng(seed)).astype(int) - 30) for seed in range(20)]
    assert all(np.array_equal(show_teeth(dark, landmarks, np.random.default_rng(s)), changed[s] + 30) for s in range(3))
    with_teeth = [change for change in changed if change.max() > 10]
    if not gap:
        assert not with_teeth
        return
    assert 10 <= len(with_teeth) < 20
    touched = np.max(with_teeth, axis=(0, 3)) > 2
    rows, columns = np.nonzero(touched)
    assert rows.min() >= 86 and rows.max() <= 102 and columns.min() >= 37 and columns.max() <= 75


def test_a_part_of_a_shard_is_drawn_anew_and_another_seed_is_refused(tmp_path, monkeypatch):
    head_path, folder, drawn = OPEN / "head.npz", tmp_path / "pictures", []

    def draw(job: tuple) -> int:
        drawn.append(job[1:4])
        _write_shard(job[1], size=job[3])
        return 0

    monkeypatch.setattr(dataset, "_draw_shard", draw)
    monkeypatch.setattr(dataset.multiprocessing, "get_context", lambda kind: InThisProcess())
    dataset.generate(head_path, folder, 500, seed=1)
    dataset.generate(head_path, folder, 500, seed=1)
    assert drawn == [(folder / "0000000.npz", 0, 500)]
    dataset.generate(head_path, folder, 1000, seed=1)
    assert drawn[1:] == [(folder / "0000000.npz", 0, 1000)]
    dataset.generate(head_path, folder, 700, seed=1)
    assert len(drawn) == 2
    with pytest.raises(DataError, match="was made with seed 1, asked for is seed 2"):
        dataset.generate(head_path, folder, 1000, seed=2)
    with pytest.raises(DataError, match="was made with wide False, asked for is wide True"):
        dataset.generate(head_path, folder, 1000, seed=1, wide=True)


class InThisProcess:
    """In the place of a pool of processes."""

    def Pool(self, workers: int) -> InThisProcess:
        return self

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_) -> None:
        pass

    def imap_unordered(self, function, jobs):
        return map(function, jobs)


def _write_shard(path, size: int, rows: int = 2) -> None:
    np.savez(
        path, index=np.arange(rows), drawn=np.int64(size), landmarks=np.zeros((rows, 478, 6), np.float16),
        crop=np.zeros((rows, 112, 112, 3), np.uint8), betas=np.zeros((rows, 3)), expression=np.zeros((rows, 2)),
        jaw=np.zeros((rows, 3)), occlusion=np.zeros(rows), visible=np.zeros((rows, 1), np.uint8),
        covered=np.zeros((rows, 1), np.uint8),
    )  # fmt: skip


def test_a_shard_without_any_face_is_a_shard_of_no_rows(tmp_path, monkeypatch):
    class Nobody:
        def __init__(self, head, *_) -> None:
            self.head = head

        def sample(self, index: int) -> None:
            return None

    monkeypatch.setattr("ofer_models.workshop.pictures.pictures.PictureSource", Nobody)
    monkeypatch.setattr(dataset, "_sources", {})
    dataset._draw_shard((OPEN / "head.npz", tmp_path / "0000000.npz", 0, 5, 1, 0.6, False))
    with np.load(tmp_path / "0000000.npz") as shard:
        assert shard["crop"].shape == (0, 112, 112, 3) and shard["drawn"] == 5
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        dataset.load(tmp_path)
