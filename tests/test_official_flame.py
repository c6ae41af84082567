"""FLAME's files: what is read equals what was written, and other files are refused with one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from official_inputs import SMALL, chumpy, dump_python2, flame_arrays, landmark_tables, write_flame

from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.head.model import HeadModel
from ofer_models.workshop.official.flame import (
    FlameError,
    HeadSizes,
    read_frontal,
    read_landmarks,
    read_masks,
    read_mediapipe,
)
from ofer_models.workshop.official.flame import read_model as read

SIZES = SMALL.head


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return flame_arrays(SIZES.n_directions)


def test_the_pickle_becomes_a_head_model_with_the_same_geometry(tmp_path, arrays):
    model = HeadModel(read(write_flame(tmp_path / "generic_model.pkl", arrays), SIZES))
    np.testing.assert_array_equal(model.v_template, arrays["v_template"].astype(np.float32))
    np.testing.assert_array_equal(model.shapedirs, arrays["shapedirs"][..., :10].astype(np.float32))
    np.testing.assert_array_equal(model.joint_regressor, arrays["J_regressor"].astype(np.float32))
    assert model.parents.tolist() == [-1, 0, 1, 1, 1]
    assert (model.n_shape, model.n_expression) == (6, 4) and model.expression_names[3] == "expression_003"
    rng = np.random.default_rng(3)
    betas, expression, jaw = rng.normal(size=6), rng.normal(size=4), np.array([0.3, 0.1, -0.1])
    found = model.decode(betas, expression, jaw)
    expected = _skinned(arrays, np.concatenate([betas, expression]), jaw)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def _skinned(arrays: dict[str, np.ndarray], coefficients: np.ndarray, jaw: np.ndarray) -> np.ndarray:
    """FLAME's formula in float64 for a turned jaw, straight from the pickle's layout."""
    shaped = arrays["v_template"] + arrays["shapedirs"][..., : len(coefficients)] @ coefficients
    x, y, z = axis = jaw / np.linalg.norm(jaw)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.linalg.norm(jaw)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    assert np.isclose(np.linalg.norm(axis), 1)
    feature = np.zeros(36)
    feature[9:18] = (turn - np.eye(3)).ravel()
    posed = shaped + arrays["posedirs"] @ feature
    joint = arrays["J_regressor"][2] @ shaped
    weight = arrays["weights"][:, 2:3]
    return (1 - weight) * posed + weight * ((posed - joint) @ turn.T + joint)


@pytest.mark.parametrize("change, message", [
    ({"shapedirs": chumpy(np.zeros((40, 3, 11)))}, r"shapedirs has the shape \(40, 3, 11\), FLAME's is \(40, 3, 12\)"),
    ({"posedirs": np.zeros((40, 3, 35))}, "posedirs has the shape"),
    ({"v_template": np.full((40, 3), np.nan)}, "v_template holds numbers that are not finite"),
    ({"f": np.full((5, 3), 40)}, "triangles name vertices outside"),
    ({"f": np.zeros((0, 3), int)}, "triangles name vertices outside"),
    ({"weights": "none"}, "weights holds no numbers"),
    ({"J_regressor": None}, "it lacks J_regressor"),
])  # fmt: skip
def test_models_that_do_not_fit_are_refused(tmp_path, arrays, change, message):
    stored = {name: value for name, value in (arrays | change).items() if value is not None}
    with pytest.raises(FlameError, match=message):
        read(dump_python2(stored, tmp_path / "generic_model.pkl"), SIZES)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FlameError, match=r"generic_model\.pkl does not exist"):
        read(tmp_path / "generic_model.pkl")
    (tmp_path / "generic_model.pkl").write_text("<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(FlameError, match="is a web page, not the file: sign in on the FLAME site"):
        read(tmp_path / "generic_model.pkl")
    with pytest.raises(FlameError, match="is not a FLAME model: it lacks f, v_template"):
        read(dump_python2([1, 2], tmp_path / "list.pkl"))


def _save(path, content):
    np.save(path, np.array(content, dtype=object), allow_pickle=True)
    return path


def test_landmarks_come_with_the_seven_of_now_and_mediapipes_points(tmp_path):
    tables = landmark_tables(80)
    read = read_landmarks(_save(tmp_path / "landmark_embedding.npy", tables), 80)
    np.testing.assert_array_equal(read["landmarks68_triangle"], tables["full_lmk_faces_idx"][0])
    np.testing.assert_array_equal(read["landmarks68_bary"], tables["full_lmk_bary_coords"][0])
    inner = [19, 22, 25, 28, 16, 31, 37]
    np.testing.assert_array_equal(read["now7_triangle"], tables["static_lmk_faces_idx"][inner])
    np.testing.assert_allclose(read["now7_bary"], tables["static_lmk_bary_coords"][inner])
    assert read["landmarks68_points"].tolist() == LANDMARKS68
    as_tensors = tables | {
        name: torch.as_tensor(tables[name]) for name in ("full_lmk_faces_idx", "full_lmk_bary_coords")
    }
    again = read_landmarks(_save(tmp_path / "tensors.npy", as_tensors), 80)
    np.testing.assert_array_equal(again["landmarks68_bary"], read["landmarks68_bary"])


@pytest.mark.parametrize("change, message", [
    ({"full_lmk_faces_idx": np.full((1, 68), 80)}, "triangles outside 0..79"),
    ({"full_lmk_bary_coords": np.ones((1, 68, 3), np.float32)}, "do not sum to one"),
    ({"full_lmk_faces_idx": np.zeros((1, 51), int)}, "has 51 landmarks, should have 68"),
    ({"full_lmk_faces_idx": "x"}, "holds no numbers"),
])  # fmt: skip
def test_damaged_landmarks_are_refused(tmp_path, change, message):
    with pytest.raises(FlameError, match=message):
        read_landmarks(_save(tmp_path / "landmark_embedding.npy", landmark_tables(80) | change), 80)


def test_frontal_vertices(tmp_path):
    np.save(tmp_path / "f.npy", np.arange(1, 9))
    indices, released = read_frontal(tmp_path / "f.npy", 40, SIZES)
    assert indices.tolist() == list(range(1, 9)) and not released
    for wrong, message in (
        (np.arange(9), "should be 8 vertex indices"),
        (np.arange(8.0), "should be 8 vertex indices"),
        (np.arange(8)[::-1].copy(), "increasing vertex indices below 40"),
        (np.arange(33, 41), "increasing vertex indices below 40"),
    ):
        np.save(tmp_path / "f.npy", wrong)
        with pytest.raises(FlameError, match=message):
            read_frontal(tmp_path / "f.npy", 40, SIZES)


def test_masks_are_joined_into_the_heads_regions(tmp_path):
    names = ("left_eyeball", "right_eyeball", "left_ear", "right_ear", "neck", "boundary", "lips", "face", "scalp")
    regions = {name: np.array([3 * i, 3 * i + 1]) for i, name in enumerate(names)}
    masks = read_masks(dump_python2(regions, tmp_path / "FLAME_masks.pkl"), 40)
    assert masks["mask_eyes"].tolist() == [0, 1, 3, 4] and masks["mask_face"].tolist() == [21, 22]
    with pytest.raises(FlameError, match="is not a list of vertices below 0"):
        read_masks(tmp_path / "FLAME_masks.pkl", 0)
    with pytest.raises(FlameError, match="it lacks some of"):
        read_masks(dump_python2({"face": np.arange(3)}, tmp_path / "other.pkl"), 40)


def test_mediapipes_embedding_names_its_points(tmp_path):
    tables = {
        "lmk_face_idx": np.arange(5),
        "lmk_b_coords": np.full((5, 3), 1 / 3),
        "landmark_indices": np.arange(10, 15),
    }
    np.savez(tmp_path / "m.npz", **tables)
    assert read_mediapipe(tmp_path / "m.npz", 80)["mediapipe_points"].tolist() == [10, 11, 12, 13, 14]
    np.savez(tmp_path / "m.npz", **(tables | {"landmark_indices": np.arange(466, 471)}))
    with pytest.raises(FlameError, match="not MediaPipe's"):
        read_mediapipe(tmp_path / "m.npz", 80)
    (tmp_path / "m.npz").write_bytes(b"nothing")
    with pytest.raises(FlameError, match="is damaged or cut short"):
        read_mediapipe(tmp_path / "m.npz", 80)


def test_the_default_sizes_are_flames():
    assert HeadSizes() == HeadSizes(n_shape=300, n_expression=50, n_directions=400, n_frontal=1785)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["model", "landmarks", "mediapipe"])
def test_whatever_bytes_change_the_refusal_is_one_line(tmp_path, arrays, kind):
    tables = {"lmk_face_idx": np.arange(5), "lmk_b_coords": np.full((5, 3), 1 / 3), "landmark_indices": np.arange(5)}
    path = tmp_path / "file.npz"
    if kind == "model":
        path, reader = write_flame(tmp_path / "file.pkl", arrays), lambda: read(path, SIZES)
    elif kind == "landmarks":
        path, reader = _save(tmp_path / "file.npy", landmark_tables(80)), lambda: read_landmarks(path, 80)
    else:
        np.savez(path, **tables)
        reader = lambda: read_mediapipe(path, 80)  # noqa: E731
    reader()
    good, rng, refused = path.read_bytes(), np.random.default_rng(4), 0
    structure = [i for i, byte in enumerate(good) if 32 <= byte < 123]  # opcodes, names and headers rather than numbers
    for _ in range(400):
        damaged = bytearray(good)
        for place in rng.choice(structure, rng.integers(1, 5)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged if rng.random() < 0.9 else damaged[: rng.integers(len(damaged))])
        try:
            reader()
        except FlameError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 40


def test_a_header_that_is_no_header_is_refused(tmp_path):
    raw = b"\x93NUMPY\x01\x00" + (8).to_bytes(2, "little") + b"{'descr("
    (tmp_path / "f.npy").write_bytes(raw)
    with pytest.raises(FlameError, match=r"f\.npy is not an \.npy file"):
        read_frontal(tmp_path / "f.npy", 40, SIZES)
