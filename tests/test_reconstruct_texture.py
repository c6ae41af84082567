"""Textured heads: the albedo of the open head, a picture's own texture on it, and the files that hold it."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ofer_models.bundle.manifest import Bundle
from ofer_models.drawing.atlas import fill_gutters, lay_out, texel
from ofer_models.drawing.overlay import draw_textured
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.reconstruction.mesh_files import MeshTexture, write_mesh
from ofer_models.reconstruction.photo_texture import SIZE, mirrored_vertices, photo_texture
from ofer_models.reconstruction.result import Reconstruction
from ofer_models.tracking.face import Face

OPEN = Path(__file__).resolve().parents[1] / "engines" / "open"
CAMERA = Intrinsics(np.array([[700.0, 0, 200], [0, 700, 200], [0, 0, 1]]), 400, 400)
TO_CAMERA = np.diag([1.0, -1.0, -1.0])


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(OPEN)


def seen(bundle: Bundle, degrees: float = 0.0, visible: np.ndarray | None = None) -> Reconstruction:
    """The mean head before the camera, turned about the vertical axis."""
    head = bundle.head
    turn = TO_CAMERA @ cv2.Rodrigues(np.array([0, np.radians(degrees), 0]))[0]
    vertices = head.decode(np.zeros(1, np.float32))
    middle = vertices[head.masks["face"]].mean(0)
    blank = dict.fromkeys(Face.__dataclass_fields__)
    face = Face(**(blank | {"rotation": turn, "translation": np.array([0, 0, 0.5]) - turn @ middle, "selected": 0,
                            "visible": visible}))  # fmt: skip
    return Reconstruction("face1", face, head, CAMERA, vertices, vertices[None], np.zeros(len(vertices)))


def photograph(bundle: Bundle, result: Reconstruction, texture: np.ndarray) -> np.ndarray:
    """A picture of the head in a texture."""
    picture = np.full((400, 400, 3), 128, np.uint8)
    placed = result.hypotheses[0] @ result.face.rotation.T + result.face.translation
    draw_textured(picture, placed, result.head.faces, CAMERA, texture, bundle.albedo.vt, bundle.albedo.ft)
    return picture


def of_face(bundle: Bundle, names: tuple[str, ...], side: int = 0) -> np.ndarray:
    """Texels (SIZE, SIZE) bool of triangles in a mask; side: -1, 1 for those of the person's right or left alone."""
    head, albedo = bundle.head, bundle.albedo
    inside = np.isin(head.faces, np.concatenate([head.masks[name] for name in names])).all(1)
    if side:
        inside &= side * head.v_template[head.faces, 0].mean(1) > 0.012
    values = np.repeat(inside[:, None, None].astype(np.float32), 3, axis=1)
    return lay_out(albedo.vt, albedo.ft, values, SIZE)[0][..., 0] > 0.99


def test_the_shipped_albedo_is_small_cc0_and_of_skin(bundle):
    albedo, record = bundle.albedo, bundle.files["albedo.npz"]
    assert record.commercial_use and record.licence == "CC0-1.0" and not albedo.at_vertices
    assert (OPEN / "albedo.npz").stat().st_size < 1.5e6 and albedo.n_coefficients == 20
    size = len(albedo.mean)
    cheeks = lay_out(albedo.vt, albedo.ft, np.ones((len(albedo.ft), 3, 1)), size)[1]
    assert 0.4 < cheeks.mean() < 0.9
    red, green, blue = albedo.mean[cheeks].mean(0)
    assert 0.9 > red > green > blue > 0.15
    drawn = np.random.default_rng(0).normal(size=(30, 20))
    brightness = np.array([albedo.colours(row)[cheeks].mean() for row in drawn])
    assert brightness.std() > 0.05 and brightness.min() > 0 and brightness.max() < 1  # people differ


def test_no_two_triangles_share_a_place_in_the_texture(bundle):
    """All but the eyeballs' backs: their areas sum up to what is covered."""
    albedo = bundle.albedo
    corners = texel(albedo.vt, 1024)[albedo.ft]
    u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    areas = 0.5 * np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).sum()
    covered = lay_out(albedo.vt, albedo.ft, np.ones((len(albedo.ft), 3, 1)), 1024)[1].sum()
    assert areas == pytest.approx(covered, rel=0.03)


def test_a_head_seen_from_the_front_gives_its_own_texture_back(bundle):
    albedo = bundle.albedo
    rng = np.random.default_rng(1)
    true = cv2.resize(np.clip(albedo.colours(0.7 * rng.normal(size=20)), 0, 1), (SIZE, SIZE))
    true = np.round(255 * true).astype(np.uint8)
    result = seen(bundle)
    found = photo_texture(photograph(bundle, result, true), result, albedo)
    assert found.shape == (SIZE, SIZE, 3)
    face = of_face(bundle, ("frontal",))
    error = np.abs(found.astype(float) - true).mean(-1)
    assert error[face].mean() < 6 and np.percentile(error[face], 90) < 15
    assert error[of_face(bundle, ("ears",))].mean() < 40  # hidden from the front: guessed


def marked(bundle: Bundle, side: int) -> np.ndarray:
    """The mean texture, green on one side's cheek and all around it."""
    texture = cv2.resize(np.round(255 * bundle.albedo.mean), (SIZE, SIZE))
    texture[of_face(bundle, ("face",), side)] = (40, 200, 60)
    return texture.astype(np.uint8)


def test_a_side_that_is_turned_away_is_the_other_ones_mirror_image(bundle):
    """Seen from its left, the head is green there: so it is on the right that nobody has seen."""
    texture = marked(bundle, 1)
    for degrees in (-55, 55):
        result = seen(bundle, degrees)
        picture = photograph(bundle, result, texture)
        if (picture[..., 1] > picture[..., 0] + 60).mean() > 0.02:
            break
    found = photo_texture(picture, result, bundle.albedo).astype(float)
    far = of_face(bundle, ("face",), -1) & ~of_face(bundle, ("lips", "eyes"))
    near = of_face(bundle, ("face",), 1)
    green = found[..., 1] - found[..., 0]
    assert green[near].mean() > 60 and (green[far] > 20).mean() > 0.3


def test_what_is_covered_is_not_painted_on_the_face(bundle):
    """Something blue before the mouth, of which the landmarks know."""
    texture = cv2.resize(np.round(255 * bundle.albedo.mean), (SIZE, SIZE)).astype(np.uint8)
    head = bundle.head
    marks = head.landmarks(head.v_template, "mediapipe")
    lips = head.v_template[head.masks["lips"]].mean(0)
    visible = (np.linalg.norm(marks - lips, axis=1) > 0.045).astype(np.float32)
    open_, hidden = seen(bundle), seen(bundle, visible=visible)
    picture = photograph(bundle, open_, texture)
    middle = CAMERA.project((lips @ open_.face.rotation.T + open_.face.translation)[None])[0]
    cv2.circle(picture, tuple(np.round(middle).astype(int).tolist()), 34, (10, 20, 230), -1)
    mouth = of_face(bundle, ("lips",))
    blue = [photo_texture(picture, result, bundle.albedo).astype(int) for result in (open_, hidden)]
    shares = [(one[mouth, 2] > one[mouth, 0] + 40).mean() for one in blue]
    assert shares[0] > 0.5 and shares[1] < 0.1


def test_the_mirror_image_of_a_vertex_is_on_the_other_side(bundle):
    head = bundle.head
    partner = mirrored_vertices(head)
    away = np.linalg.norm(head.v_template[partner] * [-1, 1, 1] - head.v_template, axis=1)
    assert np.median(away) < 5e-4 and away[head.masks["face"]].max() < 0.004
    assert (partner[partner] == np.arange(head.n_vertices)).mean() > 0.95


def test_gutters_take_their_neighbours_colour():
    texture = np.zeros((40, 40, 3), np.float32)
    covered = np.zeros((40, 40), bool)
    covered[15:25, 15:25] = True
    texture[covered] = 0.7
    filled = fill_gutters(texture, covered)
    np.testing.assert_allclose(filled, 0.7, atol=1e-5)
    assert not fill_gutters(texture, covered & False).any()


@pytest.fixture
def square() -> tuple[np.ndarray, np.ndarray, MeshTexture]:
    """Two triangles whose common edge is a seam of the texture: red one side, blue the other."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, :4], picture[:, 4:] = (255, 0, 0), (0, 0, 255)
    vt = np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.3], [0.9, 0.8], [0.7, 0.6], [0.7, 0.8]], np.float32)
    return vertices, faces, MeshTexture(picture, vt, np.array([[0, 1, 2], [3, 4, 5]]), "face1")


def test_a_glb_holds_texture_and_places(tmp_path, square):
    vertices, faces, texture = square
    write_mesh(tmp_path / "a.glb", vertices, faces, texture)
    raw = (tmp_path / "a.glb").read_bytes()
    length = struct.unpack("<I", raw[12:16])[0]
    document, binary = json.loads(raw[20 : 20 + length]), raw[28 + length :]
    assert struct.unpack("<I", raw[8:12])[0] == len(raw)

    def numbers(accessor: int, kind: str) -> np.ndarray:
        entry = document["accessors"][accessor]
        view = document["bufferViews"][entry["bufferView"]]
        part = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        return np.frombuffer(part, kind).reshape(entry["count"], -1)

    primitive = document["meshes"][0]["primitives"][0]
    places = numbers(primitive["attributes"]["TEXCOORD_0"], "<f4")
    points = numbers(primitive["attributes"]["POSITION"], "<f4")
    triangles = numbers(primitive["indices"], "<u4").reshape(-1, 3)
    assert len(points) == 6  # the two vertices on the seam, twice
    np.testing.assert_array_equal(points[triangles], vertices[faces])
    np.testing.assert_allclose(places[triangles], texture.vt[texture.ft] * [1, -1] + [0, 1], atol=1e-6)
    image = document["images"][document["textures"][0]["source"]]
    view = document["bufferViews"][image["bufferView"]]
    stored = np.frombuffer(binary[view["byteOffset"] :][: view["byteLength"]], np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(stored, cv2.IMREAD_COLOR)[..., ::-1], texture.picture)
    pygltflib = pytest.importorskip("pygltflib")
    read = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    assert read.materials[0].pbrMetallicRoughness.baseColorTexture.index == 0


def test_an_obj_names_its_material_and_places(tmp_path, square):
    vertices, faces, texture = square
    write_mesh(tmp_path / "a.obj", vertices, faces, texture)
    texture.write(tmp_path)
    lines = (tmp_path / "a.obj").read_text().splitlines()
    assert lines[0] == "mtllib face1.mtl" and "usemtl skin" in lines
    assert [line for line in lines if line.startswith("f ")] == ["f 1/1 2/2 3/3", "f 1/4 3/5 4/6"]
    assert sum(line.startswith("vt ") for line in lines) == 6
    assert "map_Kd face1_texture.png" in (tmp_path / "face1.mtl").read_text()
    stored = cv2.imread(str(tmp_path / "face1_texture.png"))[..., ::-1]
    np.testing.assert_array_equal(stored, texture.picture)


def test_the_picture_is_drawn_through_the_texture(square):
    vertices, faces, texture = square
    image = np.zeros((50, 50, 3), np.uint8)
    camera = Intrinsics(np.array([[40.0, 0, 5], [0, 40, 5], [0, 0, 1]]), 50, 50)
    placed = vertices + [0, 0, 1]
    draw_textured(image, placed, faces[:, ::-1], camera, texture.picture, texture.vt, texture.ft[:, ::-1])
    assert (image[10, 35] == (255, 0, 0)).all() and (image[35, 10] == (0, 0, 255)).all()
    turned = np.zeros_like(image)
    draw_textured(turned, placed, faces, camera, texture.picture, texture.vt, texture.ft)
    assert not turned.any()  # its back


def test_the_same_face_gives_the_same_texture(bundle):
    result = seen(bundle, 20)
    picture = photograph(bundle, result, marked(bundle, 1))
    one, two = (photo_texture(picture, replace(result), bundle.albedo) for _ in range(2))
    np.testing.assert_array_equal(one, two)
