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

from ofer_ros import marker_cdr, markers
from ofer_ros.marker_cdr import MarkerEncoder, MarkerStyle, TriangleMarker, marker_array
from ofer_ros.markers import MarkerIds, MeshMarkers, delete_all
from ofer_ros.mesh import MeshDecoder
from ofer_ros.messages import face_array_message, face_message
from ofer_ros.observations import marker_difference

pytestmark = pytest.mark.ros
HEAD = synthetic_head()


def faces_message(*tracks: str, stamp: float = 1.0, frame_id: str = "camera"):
    header = Header(frame_id=frame_id)
    header.stamp.sec, header.stamp.nanosec = int(stamp), round((stamp % 1) * 1e9)
    return face_array_message([fake_face(track, seed=i) for i, track in enumerate(tracks)], header, (480, 640, 3))


def triangles(number: int, count: int, rng: np.random.Generator) -> TriangleMarker:
    return TriangleMarker(number, rng.normal(size=(3 * count, 3)), rng.uniform(0, 1, (3 * count, 4)).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(
    namespace=st.text("abcdefgh_/", max_size=12),
    frame_id=st.text("abcdefgh_/", max_size=20),
    counts=st.lists(st.integers(1, 30), max_size=4),
    deleted=st.lists(st.integers(0, 1000), max_size=3),
    sec=st.integers(0, 2**31 - 1),
    nanosec=st.integers(0, 999_999_999),
    lifetime=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_template_equals_the_real_message(namespace, frame_id, counts, deleted, sec, nanosec, lifetime):
    rng = np.random.default_rng(0)
    style, stamp = MarkerStyle(namespace, lifetime), Time(sec=sec, nanosec=nanosec)
    meshes = [triangles(number, count, rng) for number, count in enumerate(counts)]
    encoder = MarkerEncoder(style)
    expected = marker_array(style, frame_id, stamp, meshes, deleted)
    for _ in range(2):  # the second time from the remembered template
        received = deserialize_message(encoder.encode(frame_id, stamp, meshes, deleted), MarkerArray)
        assert received == expected


def test_markers_hold_the_decoded_mesh():
    message = faces_message("f1", "f2")
    received = deserialize_message(MeshMarkers(HEAD).encode(message), MarkerArray)
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
    received = deserialize_message(MeshMarkers(HEAD).encode(message), MarkerArray)
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
    received = deserialize_message(MeshMarkers(HEAD, "head").encode(faces_message("f1")), MarkerArray)
    red = np.array([color.r for color in received.markers[0].colors])
    assert red.min() > 0.1
    assert red.max() > 2 * red.min()


def test_lost_tracks_are_deleted_repeatedly_and_numbers_reused():
    ids = MarkerIds()
    assert ids.update(["f1", "f2"], 0.0) == ([0, 1], [])
    assert ids.update(["f2"], 0.1) == ([1], [0])
    assert ids.update(["f2"], 0.9) == ([1], [0]), "said again for a reader that missed it"
    assert ids.update(["f2", "f3"], 0.95) == ([1, 2], [0]), "a number that is being deleted is not given away"
    assert ids.update(["f2", "f3"], 1.2) == ([1, 2], [])
    assert ids.update(["f2", "f3", "f4"], 1.3) == ([1, 2, 0], [])


def test_a_clock_that_jumps_back_frees_the_numbers():
    ids = MarkerIds()
    ids.update(["f1"], 100.0)
    ids.update([], 100.1)
    assert ids.update(["f2"], 5.0) == ([0], [])


def test_an_empty_frame_deletes_the_lost_face():
    meshes = MeshMarkers(HEAD)
    meshes.encode(faces_message("f1", stamp=1.0))
    received = deserialize_message(meshes.encode(faces_message(stamp=1.1)), MarkerArray)
    assert [(marker.id, marker.action, marker.ns) for marker in received.markers] == [(0, Marker.DELETE, "mesh")]


def test_another_layout_falls_back_to_objects(monkeypatch):
    message = faces_message("f1")
    fast = MeshMarkers(HEAD)
    expected = fast.encode(message)
    assert fast.fast
    # As if this distribution's Marker had colours in another place.
    monkeypatch.setattr(marker_cdr, "_COLOR_MARK", (0.1, 0.1, 0.1, 0.1))
    monkeypatch.setattr(
        marker_cdr, "_places", lambda data, mark, expected: (_ for _ in ()).throw(marker_cdr.LayoutError())
    )
    slow = MeshMarkers(HEAD)
    received = deserialize_message(slow.encode(message), MarkerArray)
    assert not slow.fast
    assert received == deserialize_message(expected, MarkerArray)


def test_delete_all_has_no_points():
    received = deserialize_message(serialize_message(delete_all()), MarkerArray)
    assert [marker.action for marker in received.markers] == [Marker.DELETEALL]


def test_serialised_markers_are_bytes_as_publish_wants_them():
    assert type(markers.MeshMarkers(HEAD).encode(faces_message("f1"))) is bytes
