"""Decoding of FLAME-layout heads: against a slow loop, the golden skinning, geometry, and broken files."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as array_of

from ofer_models.head import HeadModel, HeadModelError, HypothesisDecoder, LandmarkDecoder, LandmarkEmbedding
from ofer_models.head.model import rotation_matrices

N_VERTICES, N_SHAPE, N_EXPRESSION = 14, 5, 4
PARENTS = (-1, 0, 1, 1, 1)


def random_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """A head without any structure that a wrong index or a swapped axis could hide behind."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0, 1, (N_VERTICES, 5)) ** 3
    regressor = rng.uniform(0, 1, (5, N_VERTICES))
    return {
        "v_template": rng.normal(0, 0.1, (N_VERTICES, 3)),
        "shapedirs": rng.normal(0, 0.01, (N_VERTICES, 3, N_SHAPE + N_EXPRESSION)),
        "posedirs": rng.normal(0, 0.01, (36, 3 * N_VERTICES)),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "lbs_weights": weights / weights.sum(1, keepdims=True),
        "faces": rng.integers(0, N_VERTICES, (9, 3)),
        "expression_names": np.array([f"unit{i}" for i in range(N_EXPRESSION)]),
        "mask_face": np.arange(6),
        "few_triangle": np.array([0, 8, 3]),
        "few_bary": np.array([[1.0, 0, 0], [0.2, 0.3, 0.5], [0, 0.5, 0.5]]),
    }


HEAD = HeadModel(random_arrays(), "0" * 64)


def slow_rotation(vector) -> np.ndarray:
    """exp of the cross-product matrix, by its power series."""
    x, y, z = (float(v) for v in vector)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    term, total = np.eye(3), np.eye(3)
    for n in range(1, 60):
        term = term @ cross / n
        total = total + term
    return total


def slow_decode(arrays: dict[str, np.ndarray], coefficients, pose) -> np.ndarray:
    """One head by loops over vertices and joints, homogeneous matrices, double precision."""
    n_vertices, n_joints = len(arrays["v_template"]), len(PARENTS)
    shaped = np.zeros((n_vertices, 3))
    for v in range(n_vertices):
        for axis in range(3):
            shaped[v, axis] = arrays["v_template"][v, axis] + sum(
                float(weight) * arrays["shapedirs"][v, axis, k] for k, weight in enumerate(coefficients)
            )
    joints = [sum(arrays["J_regressor"][j, v] * shaped[v] for v in range(n_vertices)) for j in range(n_joints)]
    rotations = [slow_rotation(pose[3 * j : 3 * j + 3]) for j in range(n_joints)]
    world = []
    for j, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3] = rotations[j]
        local[:3, 3] = joints[j] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    result = np.zeros((n_vertices, 3))
    for v in range(n_vertices):
        corrected = shaped[v].copy()
        for j in range(1, n_joints):
            for row in range(3):
                for column in range(3):
                    entry = rotations[j][row, column] - (row == column)
                    for axis in range(3):
                        drive = 9 * (j - 1) + 3 * row + column
                        corrected[axis] += entry * arrays["posedirs"][drive, 3 * v + axis]
        for j in range(n_joints):
            at_rest = np.append(corrected - joints[j], 1)
            result[v] += arrays["lbs_weights"][v, j] * (world[j] @ at_rest)[:3]
    return result


def random_input(seed: int, bend: float = 0.6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "betas": rng.normal(size=N_SHAPE),
        "expression": rng.uniform(0, 1, N_EXPRESSION),
        "rotation": bend * rng.normal(size=3),
        "neck": bend * rng.normal(size=3),
        "jaw": bend * rng.normal(size=3),
        "eyes": bend * rng.normal(size=6),
    }


def slow(given_: dict[str, np.ndarray]) -> np.ndarray:
    pose = np.concatenate([given_["rotation"], given_["neck"], given_["jaw"], given_["eyes"]])
    return slow_decode(random_arrays(), np.concatenate([given_["betas"], given_["expression"]]), pose)


@pytest.mark.parametrize("seed", range(4))
def test_decode_equals_the_loops(seed):
    given_ = random_input(seed)
    np.testing.assert_allclose(HEAD.decode(**given_), slow(given_), atol=2e-6)


@pytest.mark.parametrize("bend", [0.0, 1e-12, 1e-7, 1e-4, math.pi])
def test_rotations_of_any_size(bend):
    given_ = random_input(3, bend)
    decoded = HEAD.decode(**given_)
    assert np.isfinite(decoded).all()
    np.testing.assert_allclose(decoded, slow(given_), atol=2e-6)


def test_what_is_left_out_is_zero():
    betas = random_input(1)["betas"]
    zeros = {"expression": np.zeros(N_EXPRESSION), "rotation": np.zeros(3), "neck": np.zeros(3), "jaw": np.zeros(3)}
    np.testing.assert_array_equal(HEAD.decode(betas), HEAD.decode(betas, **zeros, eyes=np.zeros(6)))
    few = HEAD.decode(betas[:2], random_input(1)["expression"][:1])  # trailing coefficients are zero
    padded = HEAD.decode(np.append(betas[:2], np.zeros(3)), np.append(random_input(1)["expression"][:1], np.zeros(3)))
    np.testing.assert_allclose(few, padded, atol=1e-7)


def test_golden_skinning(shared):
    with np.load(shared / "golden" / "shared_flame_lbs.npz") as file:
        golden = dict(file)
    arrays = {name: golden[name] for name in ("v_template", "shapedirs", "posedirs", "J_regressor", "faces")}
    arrays |= {
        "kintree_table": np.stack([golden["parents"], np.arange(5)]),
        "lbs_weights": golden["weights"],
        "expression_names": np.array([f"e{i}" for i in range(10)]),
    }
    head = HeadModel(arrays)
    pose = golden["pose"]
    vertices = head.decode(
        golden["betas"][:, :20], golden["betas"][:, 20:],
        jaw=pose[:, 6:9], neck=pose[:, 3:6], rotation=pose[:, :3], eyes=pose[:, 9:],
    )  # fmt: skip
    np.testing.assert_allclose(vertices, golden["vertices"], atol=1e-5 * np.abs(golden["vertices"]).max())
    joints = head.skin(head.shaped(golden["betas"][:, :20], golden["betas"][:, 20:]), pose.reshape(5, 5, 3))[1]
    np.testing.assert_allclose(joints, golden["joints"], atol=1e-5 * np.abs(golden["joints"]).max())
    np.testing.assert_allclose(rotation_matrices(pose.reshape(5, 5, 3)), golden["rot_mats"], atol=1e-6)


@pytest.mark.parametrize("chosen", [None, [3, 0, 11, 3], [N_VERTICES - 1]])
def test_hypothesis_decoder_equals_decode(chosen):
    rng = np.random.default_rng(7)
    betas, expressions = rng.normal(size=N_SHAPE), rng.uniform(0, 1, (6, N_EXPRESSION))
    jaws = 0.5 * rng.normal(size=(6, 3))
    jaws[0] = 0
    expected = HEAD.decode(np.tile(betas, (6, 1)), expressions, jaw=jaws)
    decoded = HypothesisDecoder(HEAD, chosen)(HEAD.identity(betas), expressions, jaws)
    np.testing.assert_allclose(decoded, expected if chosen is None else expected[:, chosen], atol=1e-6)


def test_landmarks_of_many_faces_and_candidates_equal_those_of_their_meshes():
    rng = np.random.default_rng(8)
    triangle, bary = rng.integers(0, len(HEAD.faces), 9), rng.dirichlet(np.ones(3), 9)
    decoder = LandmarkDecoder(HEAD, LandmarkEmbedding(triangle, bary.astype(np.float32)))

    def on(mesh: np.ndarray) -> np.ndarray:
        return np.einsum("lc,...lcx->...lx", bary, mesh[..., HEAD.faces[triangle], :])

    betas, expressions = rng.normal(size=(3, N_SHAPE)), rng.uniform(0, 1, (3, 5, N_EXPRESSION))
    jaws = 0.5 * rng.normal(size=(3, 5, 3))
    expected = on(HEAD.decode(betas[:, None], expressions, jaw=jaws))
    found = decoder.of_faces([HEAD.identity(each) for each in betas], expressions, jaws)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    expected = on(HEAD.decode(betas, np.tile(expressions[0, 0], (3, 1)), jaw=jaws[0, 0]))
    np.testing.assert_allclose(decoder.of_candidates(betas, expressions[0, 0], jaws[0, 0]), expected, atol=1e-6)


def test_identity_is_the_neutral_head():
    betas = random_input(5)["betas"]
    identity = HEAD.identity(betas)
    np.testing.assert_allclose(identity.vertices, HEAD.decode(betas), atol=1e-6)
    np.testing.assert_allclose(identity.joints, random_arrays()["J_regressor"] @ identity.vertices, atol=1e-6)


def test_leading_dimensions_broadcast():
    rng = np.random.default_rng(2)
    betas, jaws = rng.normal(size=(3, 1, N_SHAPE)), 0.3 * rng.normal(size=(4, 3))
    expression = rng.uniform(0, 1, N_EXPRESSION)
    together = HEAD.decode(betas, expression, jaw=jaws)
    assert together.shape == (3, 4, N_VERTICES, 3) and together.dtype == np.float32
    for i in range(3):
        for j in range(4):
            np.testing.assert_allclose(together[i, j], HEAD.decode(betas[i, 0], expression, jaw=jaws[j]), atol=1e-6)


def test_landmarks_are_weighted_corners():
    vertices = HEAD.decode(random_input(4)["betas"])
    faces, points = random_arrays()["faces"], HEAD.landmarks(vertices, "few")
    np.testing.assert_allclose(points[0], vertices[faces[0, 0]], atol=1e-7)
    a, b, c = vertices[faces[8]]
    np.testing.assert_allclose(points[1], 0.2 * a + 0.3 * b + 0.5 * c, atol=1e-7)
    np.testing.assert_allclose(HEAD.landmarks(np.stack([vertices, vertices]), "few")[1], points, atol=1e-7)


COEFFICIENTS = array_of(np.float64, N_SHAPE, elements=st.floats(-3, 3))
VECTORS = array_of(np.float64, 3, elements=st.floats(-3, 3))


@settings(max_examples=50, deadline=None)
@given(COEFFICIENTS, VECTORS)
def test_the_root_turns_the_head_rigidly_about_its_joint(betas, rotation):
    still = HEAD.decode(betas)
    joint = HEAD.identity(betas).joints[0]
    turned = (still - joint) @ slow_rotation(rotation).T + joint
    np.testing.assert_allclose(HEAD.decode(betas, rotation=rotation), turned, atol=3e-6)


@settings(max_examples=50, deadline=None)
@given(COEFFICIENTS, COEFFICIENTS, st.floats(-2, 2))
def test_neutral_vertices_are_affine_in_betas(first, second, share):
    mixed = HEAD.decode(first + share * second)
    origin = HEAD.v_template
    apart = HEAD.decode(first) - origin + share * (HEAD.decode(second) - origin)
    np.testing.assert_allclose(mixed - origin, apart, atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(VECTORS)
def test_rotation_matrices_are_rotations(vector):
    matrix = rotation_matrices(vector)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(matrix, slow_rotation(vector), atol=1e-9)


def test_zero_coefficients_are_the_template():
    np.testing.assert_allclose(HEAD.decode(np.zeros(N_SHAPE), np.zeros(N_EXPRESSION)), HEAD.v_template, atol=1e-7)


def test_too_many_coefficients_are_refused():
    with pytest.raises(HeadModelError, match=f"6 betas given, this head has {N_SHAPE}"):
        HEAD.decode(np.zeros(N_SHAPE + 1))
    with pytest.raises(HeadModelError, match=f"5 expression given, this head has {N_EXPRESSION}"):
        HEAD.decode(np.zeros(N_SHAPE), np.zeros(N_EXPRESSION + 1))


def one_line(excinfo) -> str:
    message = str(excinfo.value)
    assert message and "\n" not in message and len(message) < 400, message
    return message


def test_a_file_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "head.npz"
    np.savez_compressed(path, **random_arrays())
    head = HeadModel.load(path)
    given_ = random_input(9)
    np.testing.assert_array_equal(head.decode(**given_), HEAD.decode(**given_))
    assert len(head.sha256) == 64 and head.expression_names == HEAD.expression_names
    assert head.parents.tolist() == list(PARENTS) and head.masks["face"].tolist() == list(range(6))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(HeadModelError, match="does not exist") as error:
        HeadModel.load(tmp_path / "none.npz")
    one_line(error)
    path = tmp_path / "head.npz"
    np.savez_compressed(path, **random_arrays())
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (b"", b"not an archive", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(HeadModelError) as error:
            HeadModel.load(path)
        assert str(path) in one_line(error)
    with pytest.raises(HeadModelError) as error:
        HeadModel.load(tmp_path)
    one_line(error)


CHANGES = {
    "v_template": lambda a: a[:, :2],
    "shapedirs": lambda a: a[..., 0],
    "posedirs": lambda a: a[:-1],
    "J_regressor": lambda a: a[:, 1:],
    "kintree_table": lambda a: a[0],
    "lbs_weights": lambda a: a[:, :4],
    "faces": lambda a: a + N_VERTICES,
    "expression_names": lambda a: np.array([f"u{i}" for i in range(40)]),
    "mask_face": lambda a: a + N_VERTICES,
    "few_triangle": lambda a: a + 9,
    "few_bary": lambda a: a[:2],
}


@pytest.mark.parametrize("name", CHANGES)
def test_mis_shaped_arrays_are_named(name, tmp_path):
    arrays = random_arrays()
    arrays[name] = CHANGES[name](arrays[name])
    path = tmp_path / "head.npz"
    np.savez(path, **arrays)
    with pytest.raises(HeadModelError) as error:
        HeadModel.load(path)
    message = one_line(error)
    assert str(path) in message and name.split("_")[0] in message


def test_mediapipes_points_of_an_embedding():
    head = HeadModel(random_arrays() | {"few_points": np.array([33, 263, 4])})
    assert head.embeddings["few"].points.tolist() == [33, 263, 4] and HEAD.embeddings["few"].points is None
    with pytest.raises(HeadModelError, match="few_points"):
        HeadModel(random_arrays() | {"few_points": np.arange(4)})


@pytest.mark.parametrize("name", [n for n in random_arrays() if not n.startswith(("mask_", "few_triangle"))])
def test_missing_arrays_are_named(name):
    arrays = random_arrays()
    del arrays[name]
    with pytest.raises(HeadModelError) as error:
        HeadModel(arrays)
    assert name in one_line(error)


@pytest.mark.parametrize("parents", [[-1, 0, 1, 4, 1], [-1, 0, 1, 9, 1], [-1, 0, 1, -2, 1], [-1, 1, 1, 1, 1]])
def test_joints_must_follow_their_parents(parents):
    arrays = random_arrays() | {"kintree_table": np.stack([parents, np.arange(5)])}
    with pytest.raises(HeadModelError, match="kintree_table"):
        HeadModel(arrays)


@pytest.mark.parametrize("name", ["v_template", "faces", "kintree_table"])
def test_empty_arrays_are_refused(name):
    arrays = random_arrays()
    arrays[name] = arrays[name][:0]
    with pytest.raises(HeadModelError, match=name):
        HeadModel(arrays)
