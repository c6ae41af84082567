"""Markers: the numpy template against the real message type, ids and deletion, and the mesh they carry."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import numpy as np
from builtin_interfaces.msg import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from ros_support import fake_face, synthetic_head
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from ofer_models.drawing.shading import spread_colors
from ofer_models.tracking.spread import spread_mm
from ofer_ros.base.settings import LayerSettings
from ofer_ros.output import marker_cdr
from ofer_ros.output.face_meshes import FaceLandmarks, MeshDecoder
from ofer_ros.output.marker_array import Deletions, FaceMarkers, Lifetime, TrackNumbers, delete_all
from ofer_ros.output.marker_cdr import BulkMarker, MarkerEncoder, Style, marker_array, plain_marker
from ofer_ros.output.marker_layers import FULL_SPREAD, LANDMARKS, MESH, NAMESPACES, TEXT
from ofer_ros.output.messages import face_array_message, face_message
from ofer_ros.record.observations import marker_difference
from tools.soak.checks import marker_heads

pytestmark = pytest.mark.ros
HEAD = synthetic_head()
LAYERS = ("mesh", "hypotheses", "identity", "uncertainty", "landmarks", "text")


def layers(*names: str, side_by_side: bool = False) -> LayerSettings:
    shown = {f"show_{name}": name in names for name in LAYERS}
    return LayerSettings(mesh_region="face", hypotheses_side_by_side=side_by_side, **shown)


MESH_ONLY = layers("mesh")


def faces_message(*tracks: str, stamp: float = 1.0, frame_id: str = "camera"):
    header = Header(frame_id=frame_id)
    header.stamp.sec, header.stamp.nanosec = int(stamp), round((stamp % 1) * 1e9)
    return face_array_message([fake_face(track, seed=i) for i, track in enumerate(tracks)], header, (480, 640, 3))


def bulk(style: Style, number: int, count: int, rng: np.random.Generator) -> BulkMarker:
    return BulkMarker(style, number, rng.normal(size=(count, 3)), rng.uniform(0, 1, (count, 4)).astype(np.float32))


names = st.text("abcdefgh_/", max_size=12)


@settings(max_examples=100, deadline=None)
@given(
    frame_id=st.text("abcdefgh_/", max_size=20),
    layers=st.lists(
        st.tuples(names, st.sampled_from([Marker.TRIANGLE_LIST, Marker.POINTS, Marker.TEXT_VIEW_FACING]), names),
        max_size=5,
    ),
    counts=st.lists(st.integers(1, 30), min_size=5, max_size=5),
    sec=st.integers(0, 2**31 - 1),
    nanosec=st.integers(0, 999_999_999),
    lifetime=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_templates_and_objects_in_any_order_equal_the_real_message(frame_id, layers, counts, sec, nanosec, lifetime):
    rng = np.random.default_rng(0)
    stamp, items = Time(sec=sec, nanosec=nanosec), []
    for number, ((namespace, kind, text), count) in enumerate(zip(layers, counts, strict=False)):
        style = Style(namespace, kind, 0.5, lifetime)
        if kind == Marker.TEXT_VIEW_FACING:
            items.append(plain_marker(style, frame_id, stamp, number))
            items[-1].text = text
        else:
            items += [bulk(style, number, 3 * count, rng), bulk(style, number + 100, 3 * count, rng)]
    encoder = MarkerEncoder()
    expected = marker_array(frame_id, stamp, items)
    for _ in range(2):  # the second time from the remembered templates
        data = encoder.encode(frame_id, stamp, items)
        assert deserialize_message(data, MarkerArray) == expected
    assert marker_heads(data) == [(marker.ns, marker.id, marker.action, lifetime) for marker in expected.markers]


def test_markers_hold_the_decoded_mesh():
    message = faces_message("f1", "f2")
    received = deserialize_message(FaceMarkers(HEAD).encode(message, MESH_ONLY), MarkerArray)
    assert marker_difference(received, message, MeshDecoder(HEAD)) < 1e-6
    assert [marker.id for marker in received.markers] == [0, 1]
    for marker in received.markers:
        assert marker.type == Marker.TRIANGLE_LIST
        assert marker.header == message.header
        assert len(marker.points) % 3 == 0
        assert len(marker.points) == len(marker.colors)
        assert marker.pose.orientation.w == 1.0


def test_the_check_notices_a_moved_point_and_a_missing_face():
    message = faces_message("f1")
    received = deserialize_message(FaceMarkers(HEAD).encode(message, MESH_ONLY), MarkerArray)
    received.markers[0].points[7].y += 1e-4
    assert marker_difference(received, message, MeshDecoder(HEAD)) == pytest.approx(1e-4, rel=1e-2)
    assert marker_difference(MarkerArray(), message, MeshDecoder(HEAD)) == float("inf")


def test_marker_points_are_the_posed_head_in_the_optical_frame():
    face = fake_face()
    sent = face_message(face)
    shape, expression, jaw = face.shape, face.expressions[face.selected], face.jaws[face.selected]
    expected = HEAD.decode(shape, expression, jaw) @ face.rotation.T + face.translation
    decoder = MeshDecoder(HEAD, "head")
    np.testing.assert_allclose(decoder.vertices(sent), expected[decoder.vertex_indices], atol=1e-6)


def test_face_region_leaves_out_what_is_not_face():
    face, head = MeshDecoder(HEAD, "face"), MeshDecoder(HEAD, "head")
    mask = set(HEAD.masks["face"])
    assert len(mask ^ set(face.vertex_indices)) < 0.1 * len(mask), "but for an even border, the mask"
    assert 0 < len(face.triangles) < len(head.triangles) == len(HEAD.faces)
    with pytest.raises(ValueError, match="neck"):
        MeshDecoder(HEAD, "neck")


def test_shading_is_brighter_towards_the_light_and_never_black():
    received = deserialize_message(FaceMarkers(HEAD, "head").encode(faces_message("f1"), MESH_ONLY), MarkerArray)
    red = np.array([color.r for color in received.markers[0].colors])
    assert red.min() > 0.1
    assert red.max() > 2 * red.min()


def test_numbers_are_the_smallest_free_and_stay():
    numbers = TrackNumbers()
    assert numbers.update(["f1", "f2"]) == [0, 1]
    assert numbers.update(["f2"]) == [1]
    assert numbers.update(["f2", "f3"]) == [1, 0]
    assert numbers.update(["f3", "f2", "f4"]) == [0, 1, 2]


def test_what_is_gone_is_deleted_repeatedly_until_it_comes_back():
    deletions = Deletions()
    one, two = ("mesh", 0), ("mesh", 1)
    assert deletions.update({one, two}) == []
    assert deletions.update({two}) == [one]
    assert deletions.update({two}) == [one], "said again for a reader that missed it"
    assert deletions.update({one, two}) == [], "shown again: nothing to delete"
    assert deletions.update(set()) == [one, two]
    assert 5 < next(count for count in range(1000) if not deletions.update(set())) < 50


@pytest.mark.parametrize("step", [0.03, 0.0, -0.001, -0.3, -1000.0])
def test_deletions_do_not_depend_on_stamps(step):
    markers = FaceMarkers(HEAD)
    markers.encode(faces_message("f1", stamp=50_000.0), MESH_ONLY)
    messages = [faces_message(stamp=50_000.0 + step * i) for i in range(1, 41)]
    gone = [len(deserialize_message(markers.encode(one, MESH_ONLY), MarkerArray).markers) for one in messages]
    assert gone[:5] == [1] * 5 and gone[-1] == 0


def test_an_empty_frame_deletes_the_lost_face():
    meshes = FaceMarkers(HEAD)
    meshes.encode(faces_message("f1", stamp=1.0), MESH_ONLY)
    received = deserialize_message(meshes.encode(faces_message(stamp=1.1), MESH_ONLY), MarkerArray)
    assert [(marker.id, marker.action, marker.ns) for marker in received.markers] == [(0, Marker.DELETE, "mesh")]


def test_another_layout_falls_back_to_objects(monkeypatch):
    message = faces_message("f1")
    fast = FaceMarkers(HEAD)
    expected = fast.encode(message, MESH_ONLY)
    assert fast.fast
    # As if this distribution's Marker had colours in another place.
    monkeypatch.setattr(marker_cdr, "_COLOR_MARK", (0.1, 0.1, 0.1, 0.1))
    monkeypatch.setattr(marker_cdr, "_place", lambda data, mark: (_ for _ in ()).throw(marker_cdr.LayoutError()))
    slow = FaceMarkers(HEAD)
    received = deserialize_message(slow.encode(message, MESH_ONLY), MarkerArray)
    assert not slow.fast
    assert received == deserialize_message(expected, MarkerArray)


def test_delete_all_has_no_points():
    received = deserialize_message(serialize_message(delete_all()), MarkerArray)
    (marker,) = received.markers
    assert (marker.action, marker.ns) == (Marker.DELETEALL, ""), "with a namespace RViz clears that layer alone"


def test_sizes_are_those_that_rviz_asks_of_each_type():
    markers = [plain_marker(style, "camera", Time(), 0) for style in (MESH, LANDMARKS, TEXT)]
    mesh, points, text = [(one.scale.x, one.scale.y, one.scale.z) for one in markers]
    assert mesh == (1.0, 1.0, 1.0)
    assert points == (LANDMARKS.size, LANDMARKS.size, 0.0)
    assert text == (0.0, 0.0, TEXT.size)


def test_markers_outlive_the_pause_until_the_next_ones():
    now, arrived = [1e9], [7.0]
    lifetime = Lifetime(lambda: arrived[0])

    def after(seconds: float, period: float = 0.0) -> float:
        now[0] += seconds
        return lifetime.next(now[0], period)

    assert after(0.03) == after(0.5) == 2.0
    assert after(0.03, period=1 / 0.3) > 10.0, "marker_rate"
    assert after(5.0) > 15.0, "a slow camera"
    assert after(1000.0) < 100.0, "a camera that was away is no slow one"
    assert after(0.03) == after(-1000.0) == 2.0, "also when a bag begins anew"
    arrived[0] += 5.0
    assert after(0.0) > 15.0, "a slow camera whose stamps stand still"


def test_every_marker_of_a_message_has_the_longer_lifetime():
    data = FaceMarkers(HEAD).encode(faces_message("f1"), layers(*LAYERS), period=10.0)
    lives = {marker.lifetime.sec for marker in deserialize_message(data, MarkerArray).markers}
    assert lives == {32}


def test_serialised_markers_are_bytes_as_publish_wants_them():
    assert type(FaceMarkers(HEAD).encode(faces_message("f1"), MESH_ONLY)) is bytes


def received(message, settings: LayerSettings) -> list[Marker]:
    return deserialize_message(FaceMarkers(HEAD).encode(message, settings), MarkerArray).markers


def points_of(marker: Marker) -> np.ndarray:
    return np.array([(point.x, point.y, point.z) for point in marker.points])


def colors_of(marker: Marker) -> np.ndarray:
    return np.array([(color.r, color.g, color.b, color.a) for color in marker.colors])


def test_each_layer_is_a_namespace_of_its_own_and_ids_are_unique():
    assert received(faces_message("f1", "f2"), layers()) == []
    for name in LAYERS:
        assert {marker.ns for marker in received(faces_message("f1", "f2"), layers(name))} == {name}
    everything = received(faces_message("f1", "f2"), layers(*LAYERS))
    assert {marker.ns for marker in everything} == set(LAYERS) == set(NAMESPACES)
    keys = [(marker.ns, marker.id) for marker in everything]
    assert len(set(keys)) == len(keys)
    assert all(marker.header.frame_id == "camera" and marker.header.stamp.sec == 1 for marker in everything)
    assert {len(marker.points) % 3 for marker in everything if marker.type == Marker.TRIANGLE_LIST} == {0}


def test_all_hypotheses_lie_transparent_in_one_place_or_beside_each_other():
    message = faces_message("f1")
    decoder = MeshDecoder(HEAD)
    together = received(message, layers("hypotheses"))
    assert [marker.id for marker in together] == list(range(15))
    for row in (0, 7, 14):
        expected = decoder.vertices(message.faces[0], row)[decoder.triangles.ravel()]
        np.testing.assert_allclose(points_of(together[row]), expected, atol=1e-6)
        assert (colors_of(together[row])[:, 3] < 0.3).all()
    apart = received(message, layers("hypotheses", side_by_side=True))
    boxes = [(points_of(marker)[:, :2].min(0), points_of(marker)[:, :2].max(0)) for marker in apart]
    face = decoder.vertices(message.faces[0])
    assert all(low[0] > face[:, 0].max() for low, _ in boxes), "to the right of the face"
    for i, (low, high) in enumerate(boxes):
        assert all((low > other_high).any() or (high < other_low).any() for other_low, other_high in boxes[:i])
    assert (colors_of(apart[3])[:, 3] == 1).all()
    assert len({marker.pose.position.x for marker in apart}) == 1


def test_the_identity_layer_has_neither_expression_nor_open_mouth():
    face = fake_face()
    (marker,) = received(faces_message("f1"), layers("identity"))
    expected = HEAD.decode(face.shape) @ face.rotation.T + face.translation
    decoder = MeshDecoder(HEAD)
    np.testing.assert_allclose(
        points_of(marker), expected[decoder.vertex_indices][decoder.triangles.ravel()], atol=1e-6
    )


def test_the_uncertainty_of_one_hypothesis_is_grey():
    message = face_array_message([fake_face(hypotheses=1)], Header(frame_id="camera"), (48, 64))
    (surface, *_) = FaceMarkers(HEAD).layers.uncertainty(
        message.faces[0], MeshDecoder(HEAD).vertices(message.faces[0]), 0, "camera", Time()
    )
    assert np.ptp(surface.colors[:, :3], axis=1).max() < 1e-6


def test_the_uncertainty_layer_is_coloured_by_the_spread_and_has_a_legend():
    message = faces_message("f1")
    surface, bar, *texts = received(message, layers("uncertainty"))
    spread = spread_mm(MeshDecoder(HEAD).hypotheses(message.faces[0]), np.array(message.faces[0].scores))
    corners = MeshDecoder(HEAD).triangles.ravel()
    hue = spread_colors(spread, FULL_SPREAD)[corners]
    seen = colors_of(surface)[:, :3]
    np.testing.assert_allclose(seen / seen.sum(1, keepdims=True), hue / hue.sum(1, keepdims=True), atol=1e-5)
    assert [text.text for text in texts] == ["0 mm", "4 mm", "8 mm and more"]
    heights = [text.pose.position.y for text in texts]
    assert heights[0] > heights[1] > heights[2], "y points down: the least at the bottom"
    colors, points = colors_of(bar)[:, :3], points_of(bar)
    np.testing.assert_allclose(colors[points[:, 1].argmax()], spread_colors(0.0, FULL_SPREAD), atol=1e-6)
    np.testing.assert_allclose(colors[points[:, 1].argmin()], spread_colors(FULL_SPREAD, FULL_SPREAD), atol=1e-6)
    assert points[:, 0].min() > points_of(surface)[:, 0].max(), "beside the face"
    for text in texts:
        left = text.pose.position.x - 0.5 * text.scale.z * len(text.text) / 2
        assert points[:, 0].max() < left < points[:, 0].max() + 0.03, "RViz centres texts: none over the bar"


def test_what_lies_on_the_mesh_is_drawn_a_little_before_it():
    message = faces_message("f1")
    mesh, surface, *_ = received(message, layers("mesh", "uncertainty"))
    points = points_of(received(message, layers("landmarks"))[0])
    below = points_of(mesh)
    before = np.linalg.norm(below, axis=1) - np.linalg.norm(points_of(surface), axis=1)
    np.testing.assert_allclose(before, 0.001, atol=1e-6)
    rays = np.cross(below, points_of(surface))
    np.testing.assert_allclose(rays, 0.0, atol=1e-6, err_msg="in the image they stay where they were")
    on_mesh = FaceLandmarks(HEAD)(message.faces[0])
    np.testing.assert_allclose(np.linalg.norm(on_mesh - points, axis=1), 0.002, atol=1e-6)


def test_landmarks_are_points_on_the_shown_mesh_and_text_is_above_it():
    face = fake_face()
    points, text = received(faces_message("f1"), layers("landmarks", "text"))
    vertices = HEAD.decode(face.shape, face.expressions[face.selected], face.jaws[face.selected])
    expected = HEAD.landmarks(vertices, "landmarks68") @ face.rotation.T + face.translation
    assert points.type == Marker.POINTS and 0 < points.scale.x < 0.01
    np.testing.assert_allclose(points_of(points), expected, atol=2.1e-3)
    assert text.type == Marker.TEXT_VIEW_FACING
    assert text.text.startswith("f1  20 % hidden\nidentity 1 locked\n15 hypotheses, mouth 3.0 mm apart")
    assert text.pose.position.y < (vertices @ face.rotation.T + face.translation)[:, 1].min()


def test_a_layer_that_is_switched_off_and_hypotheses_that_are_gone_are_deleted():
    markers = FaceMarkers(HEAD)
    markers.encode(faces_message("f1", stamp=1.0), layers("hypotheses", "text"))
    fewer = face_array_message([fake_face("f1", 13)], faces_message(stamp=1.1).header, (480, 640, 3))
    after = deserialize_message(markers.encode(fewer, layers("hypotheses")), MarkerArray).markers
    gone = {(marker.ns, marker.id) for marker in after if marker.action == Marker.DELETE}
    assert gone == {("text", 0), ("hypotheses", 13), ("hypotheses", 14)}


def test_forgetting_drops_what_was_kept_for_speed():
    markers = FaceMarkers(HEAD)
    before = markers.encode(faces_message("f1"), MESH_ONLY)
    assert markers.layers.decoder._identities and markers._encoder._templates
    markers.forget()
    assert not markers.layers.decoder._identities and not markers._encoder._templates
    assert markers.encode(faces_message("f1"), MESH_ONLY) == before
