"""Faces to messages and back, rotations, and the overlay's projection."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from ros_support import N_EXPRESSION, N_SHAPE, fake_face, synthetic_head
from std_msgs.msg import Header

from ofer_models.drawing.overlay import draw_label, draw_landmarks, draw_mesh
from ofer_models.drawing.shading import Shader
from ofer_models.head.model import rotation_matrices
from ofer_models.head.rotations import matrix_from_quaternion, quaternion_from_matrix
from ofer_models.perception.intrinsics import Intrinsics
from ofer_msgs.msg import FaceArray
from ofer_ros.base.geometry import pose_arrays, pose_message
from ofer_ros.output import messages, transforms
from ofer_ros.output.face_meshes import MeshDecoder
from ofer_ros.output.messages import coefficients, face_array_message, face_message, head_model_message, selected_only

pytestmark = pytest.mark.ros
HEAD = synthetic_head()
axis_angles = st.tuples(*3 * [st.floats(-3.2, 3.2)]).map(np.array)


@settings(max_examples=200, deadline=None)
@given(axis_angles)
def test_rotations_survive_quaternions(axis_angle):
    rotation = rotation_matrices(axis_angle)
    quaternion = quaternion_from_matrix(rotation)
    assert np.linalg.norm(quaternion) == pytest.approx(1)
    assert quaternion[3] >= 0
    np.testing.assert_allclose(matrix_from_quaternion(quaternion), rotation, atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_turns(axis):
    rotation = -np.eye(3)
    rotation[axis, axis] = 1
    np.testing.assert_allclose(matrix_from_quaternion(quaternion_from_matrix(rotation)), rotation, atol=1e-12)


def test_pose_has_the_quaternion_of_a_known_turn():
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # 90 degrees about z
    pose = pose_message(quarter, np.array([1.0, 2.0, 3.0]))
    assert (pose.orientation.z, pose.orientation.w) == (pytest.approx(np.sqrt(0.5)), pytest.approx(np.sqrt(0.5)))
    rotation, translation = pose_arrays(pose)
    np.testing.assert_allclose(rotation, quarter, atol=1e-12)
    np.testing.assert_array_equal(translation, [1, 2, 3])


def test_a_face_survives_the_wire():
    face = fake_face()
    sent = face_array_message([face], Header(frame_id="camera"), (480, 640, 3))
    received = deserialize_message(serialize_message(sent), FaceArray)
    got = received.faces[0]
    assert (received.image_height, received.image_width) == (480, 640)
    assert (got.id, got.metric, got.num_hypotheses, got.selected) == (face.id, True, 15, face.selected)
    assert (got.roi.x_offset, got.roi.y_offset, got.roi.width, got.roi.height) == face.roi
    np.testing.assert_array_equal(np.array(got.expressions).reshape(15, N_EXPRESSION), face.expressions)
    np.testing.assert_array_equal(np.array(got.jaws).reshape(15, 3), face.jaws)
    np.testing.assert_array_equal(got.scores, face.scores)
    rotation, translation = pose_arrays(got.pose)
    np.testing.assert_allclose(rotation, face.rotation, atol=1e-12)
    np.testing.assert_allclose(translation, face.translation, atol=1e-12)
    for name in ("confidence", "identity_revision", "identity_score", "identity_blend", "occlusion", "landmark_error"):
        assert getattr(got, name) == pytest.approx(getattr(face, name), rel=1e-6)
    assert got.identity_state == "locked"
    assert (got.spread_mouth, got.spread_eyes, got.spread_brows) == pytest.approx((0.003, 0.001, 0.002))
    shape, expression, _ = coefficients(got)
    np.testing.assert_array_equal(shape, face.shape)
    np.testing.assert_array_equal(expression, face.expressions[face.selected])
    np.testing.assert_array_equal(coefficients(got, 7)[2], face.jaws[7])


def test_a_face_beside_the_image_has_no_box():
    face = SimpleNamespace(**{**vars(fake_face()), "roi": (0, 0, 0, 0)})
    roi = face_message(face).roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (0, 0, 0, 0)


@pytest.mark.parametrize("damage", [{"selected": 15}, {"num_hypotheses": 0}, {"num_hypotheses": 7}, {"jaws": [0.0]}])
def test_a_face_that_contradicts_itself_is_refused(damage):
    message = face_message(fake_face())
    for name, value in damage.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match="face 'f1'"):
        coefficients(message, message.selected)


def test_what_is_shown_is_the_smoothed_expression_else_the_selected_row():
    face = fake_face()
    message = face_message(replace(face, expression=face.expressions[0] + 1, jaw=face.jaws[0]))
    np.testing.assert_array_equal(coefficients(message)[1], face.expressions[0] + 1)
    np.testing.assert_array_equal(coefficients(message, 3)[1], face.expressions[3])
    message.expression, message.jaw = [], []
    np.testing.assert_array_equal(coefficients(message)[1], face.expressions[face.selected])
    message.expression, message.jaw = [0.0] * N_EXPRESSION, [0.0]
    with pytest.raises(ValueError, match="1 jaw numbers"):
        coefficients(message)


def test_the_selected_hypothesis_alone_makes_the_same_mesh_from_a_fraction_of_the_bytes():
    sent = face_array_message([fake_face()], Header(frame_id="camera"), (480, 640, 3))
    small = deserialize_message(serialize_message(selected_only(sent)), FaceArray)
    decoder = MeshDecoder(HEAD)
    np.testing.assert_array_equal(decoder.vertices(small.faces[0]), decoder.vertices(sent.faces[0]))
    assert small.faces[0].num_hypotheses == 1
    assert sent.faces[0].num_hypotheses == 15, "the message itself is not changed"
    assert len(serialize_message(selected_only(sent))) < 0.6 * len(serialize_message(sent))


def test_a_face_on_a_link_has_less_than_3_kb(open_head):
    """With the sizes of the open head and 15 hypotheses: what mesh_node needs, and the whole of it."""
    face = SimpleNamespace(
        **{
            **vars(fake_face()),
            "shape": np.ones(open_head.n_shape, np.float32),
            "expressions": np.ones((15, open_head.n_expression), np.float32),
            "jaws": np.ones((15, 3), np.float32),
            "expression": np.ones(open_head.n_expression, np.float32),
            "jaw": np.ones(3, np.float32),
        }
    )
    header = Header(frame_id="camera_optical_frame")
    sizes = [len(serialize_message(face_array_message(n * [face], header, (480, 640, 3)))) for n in (1, 2)]
    small = [
        len(serialize_message(selected_only(face_array_message(n * [face], header, (480, 640, 3))))) for n in (1, 2)
    ]
    assert max(small[0], small[1] - small[0]) < 3000
    assert 3000 < sizes[1] - sizes[0] < 5000, "all hypotheses: why there is a topic without"


def rebuilt(model, face) -> np.ndarray:
    """Vertices (V, 3) by the formula in HeadModel.msg and nothing else of ours."""
    count = model.n_vertices
    template = np.reshape(model.template_vertices, (count, 3))
    directions = np.reshape(model.directions, (count, 3, -1))
    coefficients = np.concatenate([face.shape, face.expression])
    angle = np.linalg.norm(face.jaw)
    x, y, z = np.array(face.jaw) / max(angle, 1e-12)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.sin(angle) * k + (1 - np.cos(angle)) * k @ k
    correctives = np.reshape(model.jaw_correctives, (count, 3, 9))
    vertices = template + directions @ coefficients + correctives @ turn.ravel()
    joint = np.array(model.jaw_joint) + np.reshape(model.jaw_joint_directions, (3, -1)) @ coefficients
    return vertices + np.array(model.jaw_weights)[:, None] * ((vertices - joint) @ turn.T)


def test_the_head_model_alone_makes_every_mesh():
    message = head_model_message(SimpleNamespace(name="open", version="1"), HEAD, Header())
    model = deserialize_message(serialize_message(message), type(message))
    face = fake_face()
    got = rebuilt(model, face_message(face))
    expected = HEAD.decode(face.shape, face.expressions[face.selected], face.jaws[face.selected])
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_array_equal(np.reshape(model.triangles, (-1, 3)), HEAD.faces)
    assert 0 < len(model.face_triangles) < len(model.triangles)
    bare = head_model_message(SimpleNamespace(name="open", version="1"), HEAD, Header(), arrays=False)
    assert not len(bare.directions) and bare.head_sha256 == HEAD.sha256


def test_coefficients_of_another_head_are_refused():
    message = face_message(fake_face())
    message.shape = [0.0] * (N_SHAPE + 1)
    with pytest.raises(ValueError, match=f"{N_SHAPE + 1} shape"):
        MeshDecoder(HEAD).vertices(message)


def test_a_face_that_is_not_finite_is_refused():
    message = face_message(fake_face())
    message.pose.position.z = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        MeshDecoder(HEAD).vertices(message)


def test_head_model_tells_what_a_decoder_needs():
    message = head_model_message(SimpleNamespace(name="open", version="1"), HEAD, Header())
    assert (message.n_shape, message.n_expression) == (N_SHAPE, N_EXPRESSION) == (len(message.shape_names), 6)
    assert message.head_sha256 == HEAD.sha256
    assert message.n_triangles == len(HEAD.faces)
    assert list(message.expression_names) == list(HEAD.expression_names)
    assert "metres" in message.units
    assert message.head_axes == messages.HEAD_AXES


def test_the_overlay_mesh_lies_where_the_head_projects():
    face = fake_face()
    camera = Intrinsics.from_field_of_view(640, 480)
    decoder = MeshDecoder(HEAD)
    vertices = decoder.vertices(face_message(face))
    image = np.zeros((480, 640, 3), np.uint8)
    draw_mesh(image, vertices, Shader(decoder.triangles, len(vertices)), camera)
    rows, columns = np.nonzero(image.sum(axis=2))
    pixels = vertices[:, :2] / vertices[:, 2:] * camera.K[0, 0] + camera.K[:2, 2]
    assert abs(columns.min() - pixels[:, 0].min()) < 12
    assert abs(rows.max() - pixels[:, 1].max()) < 12
    assert abs(columns.mean() - pixels[:, 0].mean()) < 8


def square(corner_colors: np.ndarray) -> np.ndarray:
    """A square of two triangles, 0.2 m wide, 1 m in front of a camera with 100 px of focal length, in these colours."""
    vertices = np.array([[-0.1, -0.1, 1], [0.1, -0.1, 1], [0.1, 0.1, 1], [-0.1, 0.1, 1]])
    camera = Intrinsics(np.array([[100.0, 0, 19.5], [0, 100, 19.5], [0, 0, 1]]), 40, 40)
    image = np.zeros((40, 40, 3), np.uint8)
    shader = Shader(np.array([[0, 2, 1], [0, 3, 2]]), 4)
    draw_mesh(image, vertices, shader, camera, opacity=1.0, colors=corner_colors)
    return image / (255 * shader.brightness(vertices)[0])


def test_colours_run_evenly_from_vertex_to_vertex():
    ramp = np.zeros((4, 3), np.float32)
    ramp[[1, 2], 0] = 1  # red grows to the right
    ramp[[2, 3], 2] = 1  # blue grows downwards
    image = square(ramp)
    inside = np.arange(11, 28)
    expected = (inside - 9.5) / 20
    np.testing.assert_allclose(image[inside][:, inside, 0], np.tile(expected, (17, 1)), atol=0.01)
    np.testing.assert_allclose(image[inside][:, inside, 2], np.tile(expected[:, None], (1, 17)), atol=0.01)
    assert not image[..., 1].any()


def test_the_outline_is_soft_and_nothing_is_painted_beyond_it():
    image = square(np.ones((4, 3), np.float32))[..., 0]
    assert image[20, 20] == pytest.approx(1, abs=0.01)
    assert 0.2 < image[20, 10] < 0.8
    assert not image[:9].any() and not image[:, 31:].any()


@pytest.mark.parametrize("shift", [(0, 0, -2.0), (5.0, 0, 0), (0, 0, -0.6)])
def test_a_mesh_behind_or_beside_the_camera_draws_nothing(shift):
    decoder = MeshDecoder(HEAD)
    vertices = decoder.vertices(face_message(fake_face())) + shift
    image = np.zeros((480, 640, 3), np.uint8)
    draw_mesh(image, vertices, Shader(decoder.triangles, len(vertices)), Intrinsics.from_field_of_view(640, 480))
    assert not image.any()


def test_landmarks_outside_the_image_are_left_out():
    image = np.zeros((10, 10, 3), np.uint8)
    draw_landmarks(image, np.array([[3.0, 4.0, 0], [-1, 2, 0], [10, 2, 0], [4, 99, 0]]))
    assert np.argwhere(image.any(axis=2)).tolist() == [[4, 3]]
    draw_label(image, (-5, -5, 100, 100), "f1")


def test_transforms_follow_rep_155(monkeypatch):
    face = fake_face()
    message = face_array_message([face], Header(frame_id="camera"), (480, 640, 3))
    monkeypatch.setattr(transforms, "TFMessage", None)
    transform, gaze = transforms.FaceTransforms(None, HEAD).transforms(message)
    assert (transform.header.frame_id, transform.child_frame_id) == ("camera", "face_f1")
    q = transform.transform.rotation
    axes = matrix_from_quaternion(np.array([q.x, q.y, q.z, q.w]))
    np.testing.assert_allclose(axes[:, 0], face.rotation[:, 2], atol=1e-9)  # x out of the face
    np.testing.assert_allclose(axes[:, 2], face.rotation[:, 1], atol=1e-9)  # z up
    vertices = HEAD.decode(face.shape, face.expressions[face.selected], face.jaws[face.selected])
    sellion = HEAD.landmarks(vertices, "landmarks68")[27] @ face.rotation.T + face.translation
    t = transform.transform.translation
    np.testing.assert_allclose([t.x, t.y, t.z], sellion, atol=1e-6)
    assert (gaze.header.frame_id, gaze.child_frame_id) == ("face_f1", "gaze_f1")
    q = gaze.transform.rotation
    axes = axes @ matrix_from_quaternion(np.array([q.x, q.y, q.z, q.w]))
    np.testing.assert_allclose(axes[:, 2], face.rotation[:, 2], atol=1e-9)  # z forward
    np.testing.assert_allclose(axes[:, 0], -face.rotation[:, 0], atol=1e-9)  # x to the person's right
    np.testing.assert_allclose(axes[:, 1], -face.rotation[:, 1], atol=1e-9)  # y down
    assert (gaze.transform.translation.x, gaze.transform.translation.y, gaze.transform.translation.z) == (0, 0, 0)


def test_a_gaze_turns_with_the_eyes(monkeypatch, open_head):
    face = replace(
        fake_face(), shape=np.zeros(open_head.n_shape, np.float32), jaw=np.zeros(3, np.float32),
        expression=np.zeros(open_head.n_expression, np.float32),
    )  # fmt: skip
    for unit in ("eyeLookOutLeft", "eyeLookInRight", "eyeLookUpLeft", "eyeLookUpRight"):
        face.expression[open_head.expression_names.index(unit)] = 1
    monkeypatch.setattr(transforms, "TFMessage", None)
    message = face_array_message([face], Header(frame_id="camera"), (480, 640, 3))
    q = transforms.FaceTransforms(None, open_head).transforms(message)[1].transform.rotation
    x, y, z = matrix_from_quaternion(np.array([q.x, q.y, q.z, q.w])).T  # axes in the face's frame: x out, y left, z up
    assert z[0] > 0.85 and z[1] > 0.25 and z[2] > 0.1, "ahead, to the person's left and up"
    assert abs(x[2]) < 1e-9 and x[1] < -0.8 and y[2] < -0.8, "upright"
    np.testing.assert_allclose(np.cross(x, y), z, atol=1e-9)
