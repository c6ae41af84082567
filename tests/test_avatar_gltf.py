"""Animated heads as GLB: read back by a reader written from glTF's description."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ofer_models.avatar.performance import Performance
from ofer_models.bundle import Bundle, default_bundle
from ofer_models.head.arkit import ARKIT_NAMES
from ofer_models.head.model import HeadModel, rotation_matrices

pytest.importorskip("pygltflib", reason="pygltflib is of the extra `avatar`")
from ofer_models.avatar.gltf import morph_targets, write_glb

COMPONENTS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return Bundle.load(default_bundle()).head


def played(count: int) -> list[Performance]:
    frames = []
    for index in range(count):
        weights = np.zeros(52, np.float32)
        weights[ARKIT_NAMES.index("jawOpen")] = index / count
        turned = rotation_matrices(np.array([0.0, np.pi * (0.9 + 0.1 * index), 0.0]))  # through half a turn
        frames.append(Performance(100 + index / 30, weights, weights, turned, np.array([0.1 * index, 0, -1.0])))
    return frames


def read(path: Path) -> tuple[dict, list[np.ndarray]]:
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert magic == b"glTF" and version == 2 and length == len(data)
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    document = json.loads(data[20 : 20 + size])
    binary = data[28 + size :]
    arrays = []
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        width = COMPONENTS[accessor["type"]]
        dtype = {5125: np.uint32, 5126: np.float32}[accessor["componentType"]]
        values = np.frombuffer(binary, dtype, accessor["count"] * width, view.get("byteOffset", 0))
        arrays.append(values.reshape(-1, width).squeeze())
    return document, arrays


def test_the_head_is_written_with_arkits_shapes_and_plays(head, tmp_path):
    betas = np.linspace(-1, 1, head.n_shape, dtype=np.float32)
    frames = played(5)
    write_glb(tmp_path / "a" / "head.glb", head, betas, frames)
    document, arrays = read(tmp_path / "a" / "head.glb")
    mesh = document["meshes"][0]
    assert mesh["extras"]["targetNames"] == list(ARKIT_NAMES)
    primitive = mesh["primitives"][0]
    rest = arrays[primitive["attributes"]["POSITION"]]
    np.testing.assert_allclose(rest, head.decode(betas), atol=1e-6)
    np.testing.assert_array_equal(arrays[primitive["indices"]].reshape(-1, 3), head.faces)
    assert len(primitive["targets"]) == 52
    opened = rest + arrays[primitive["targets"][ARKIT_NAMES.index("jawOpen")]["POSITION"]]
    none = np.zeros(head.n_expression, np.float32)
    expected = head.decode(betas, none, np.array([head.jaw_open_angle, 0, 0], np.float32))
    np.testing.assert_allclose(opened, expected, atol=1e-6)
    animation = document["animations"][0]
    tracks = {channel["target"]["path"]: animation["samplers"][channel["sampler"]] for channel in animation["channels"]}
    times = arrays[tracks["weights"]["input"]]
    np.testing.assert_allclose(times, np.arange(5) / 30, atol=1e-6)
    np.testing.assert_allclose(arrays[tracks["weights"]["output"]].reshape(5, 52), [f.weights for f in frames])
    np.testing.assert_allclose(arrays[tracks["translation"]["output"]][:, 0], 0.1 * np.arange(5), atol=1e-6)
    quaternions = arrays[tracks["rotation"]["output"]]
    assert (np.einsum("nq,nq->n", quaternions[1:], quaternions[:-1]) > 0.9).all(), "the short way round"


def test_morph_targets_are_the_units(head):
    moved = morph_targets(head, np.zeros(head.n_shape, np.float32))
    assert moved.shape == (52, head.n_vertices, 3)
    assert not moved[ARKIT_NAMES.index("tongueOut")].any()
    reach = 1000 * np.linalg.norm(moved, axis=-1).max(axis=1)
    still = [name for name, millimetres in zip(ARKIT_NAMES, reach, strict=True) if millimetres < 0.5]
    assert still == ["tongueOut"]


def test_frames_that_glTFs_time_cannot_tell_apart_are_left_out(head, tmp_path):
    stamps = (0.0, 40000.0, 40000.001, 40001.0)
    frames = [replace(one, stamp=stamp) for one, stamp in zip(played(4), stamps, strict=True)]
    write_glb(tmp_path / "head.glb", head, np.zeros(head.n_shape, np.float32), frames)
    document, arrays = read(tmp_path / "head.glb")
    animation = document["animations"][0]
    times = arrays[animation["samplers"][0]["input"]]
    assert times.tolist() == [0, 40000, 40001]
    counts = {len(arrays[sampler["output"]]) for sampler in animation["samplers"]}
    assert counts == {3, 3 * 52}


@pytest.mark.parametrize("frames", [[], [*played(2), *played(2)]])
def test_an_animation_needs_frames_with_rising_stamps(head, frames, tmp_path):
    with pytest.raises(ValueError, match="stamps that rise"):
        write_glb(tmp_path / "head.glb", head, np.zeros(head.n_shape, np.float32), frames)
    assert not (tmp_path / "head.glb").exists()


@pytest.mark.ros
def test_animate_writes_the_face_of_a_folder_of_pictures(tmp_path):
    pytest.importorskip("rclpy", reason="source .venv/ofer_env.sh for ROS")
    import cv2
    from typer.testing import CliRunner

    from ofer_ros.camera.scene import Scene
    from ofer_ros.demo.animate import app

    folder = tmp_path / "pictures"
    folder.mkdir()
    scene = Scene()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.jpg"), cv2.cvtColor(scene(number).rgb, cv2.COLOR_RGB2BGR))
    ran = CliRunner().invoke(app, [str(folder), "-o", str(tmp_path / "head.glb"), "--rate", "10"])
    assert ran.exit_code == 0, ran.output
    assert "3 of 3 frames with the face, 0.2 s" in ran.output
    document, _ = read(tmp_path / "head.glb")
    assert document["accessors"][document["animations"][0]["samplers"][0]["input"]]["count"] == 3

    cv2.imwrite(str(folder / "blank.jpg"), np.zeros((64, 64, 3), np.uint8))
    ran = CliRunner().invoke(app, [str(folder / "blank.jpg"), "-o", str(tmp_path / "none.glb")])
    assert ran.exit_code == 1 and not (tmp_path / "none.glb").exists()


def test_a_source_s_own_times_are_the_animation_s():
    from ofer_ros.camera.source_frame import Recorded, SourceFrame
    from ofer_ros.demo import animate

    picture = np.zeros((4, 4, 3), np.uint8)
    video = [SourceFrame(picture, "", time=number / 24) for number in range(3)]
    bag = [SourceFrame(picture, "", recorded=Recorded(stamp, "", 0)) for stamp in (5 * 10**9, 7 * 10**9)]
    pictures = [SourceFrame(picture, ""), SourceFrame(picture, "", problem="damaged"), SourceFrame(picture, "")]
    for frames, stamps in ((video, [0, 1 / 24, 2 / 24]), (bag, [5, 7]), (pictures, [0, 0.2])):
        assert [stamp for _, stamp in animate._stamped(iter(frames), 10.0)] == pytest.approx(stamps)


@pytest.mark.ros
@pytest.mark.parametrize(("arguments", "said"), [
    (["/nowhere"], "source '/nowhere' is neither"), (["scene", "--bundle", "nowhere"], "no bundle at"),
    (["scene", "--hypothesis", "shown"], "is neither `selected`, `mean` nor a number"),
    (["scene", "--hypothesis", "15"], "hypothesis 15 is asked for, the face has 15"),
    (["scene", "-o", "."], "cannot be written"), (["scene", "-o", f"{__file__}/head.glb"], "cannot be written"),
])  # fmt: skip
def test_animate_says_in_one_line_and_before_the_work_what_cannot_be(arguments, said, tmp_path, monkeypatch):
    pytest.importorskip("rclpy", reason="source .venv/ofer_env.sh for ROS")
    from typer.testing import CliRunner

    from ofer_ros.demo import animate

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(animate, "performances", lambda *_: pytest.fail("a frame was looked at"))
    ran = CliRunner().invoke(animate.app, arguments)
    assert ran.exit_code == 1 and isinstance(ran.exception, SystemExit), ran.exception
    lines = ran.output.splitlines()
    assert len(lines) == 1 and lines[0].startswith("animate: ") and said in lines[0], lines
    assert list(tmp_path.iterdir()) == []
