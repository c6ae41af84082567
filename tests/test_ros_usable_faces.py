"""FaceArrays of other programs: a face that cannot be used, or has another's id, costs no other and no node."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import json
from copy import deepcopy

import numpy as np
from rclpy.parameter import Parameter
from ros_support import RosSession, fake_face, image_message, synthetic_head
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from ofer_msgs.msg import FaceArray
from ofer_ros.base.qos import FACES
from ofer_ros.nodes.mesh_node import MeshNode
from ofer_ros.nodes.recorder import Recorder
from ofer_ros.output.messages import face_array_message, selected_only
from ofer_ros.output.usable_faces import UsableFaces

pytestmark = pytest.mark.ros
HEAD = synthetic_head()


def message(*ids: str, stamp: float = 1.0) -> FaceArray:
    faces = [fake_face(name, seed=number) for number, name in enumerate(ids)]
    return face_array_message(faces, image_message(stamp=stamp).header, (48, 64))


def changed(**values: object) -> FaceArray:
    """Two faces, of which the first is not as it should be."""
    two = deepcopy(message("bad", "good"))
    for name, value in values.items():
        setattr(two.faces[0], name, value)
    return two


def far_away() -> FaceArray:
    two = changed()
    two.faces[0].pose.position.z = float("inf")
    return two


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        pytest.param(changed(id="good"), "another face of this message has the same id", id="twins"),
        pytest.param(changed(shape=[0.0] * 3), "3 shape and 6 expression coefficients", id="another-head"),
        pytest.param(changed(expressions=[], jaws=[], scores=[]), "do not fit 15 hypotheses", id="no-hypotheses"),
        pytest.param(changed(num_hypotheses=0), "do not fit 0 hypotheses", id="none-counted"),
        pytest.param(changed(selected=15), "the selected row 15", id="selected"),
        pytest.param(changed(scores=[1.0]), "1 scores", id="scores"),
        pytest.param(changed(scores=[float("nan")] * 15), "not finite", id="nan-scores"),
        pytest.param(changed(jaw=[0.0] * 2), "2 jaw numbers", id="jaw"),
        pytest.param(changed(expression=[float("nan")] * 6), "not finite", id="nan"),
        pytest.param(far_away(), "not finite", id="pose"),
    ],
)
def test_what_cannot_be_used_is_left_out_and_told_and_the_other_stays(given, reason):
    told: list[str] = []
    usable = UsableFaces(HEAD, told.append)(given)
    assert [face.id for face in usable.faces] == ["good"] and len(told) == 1
    assert told[0].startswith(f"face {given.faces[0].id!r} is left out: ") and reason in told[0]
    assert (usable.header, usable.image_width) == (given.header, 64)


def test_what_is_as_it_should_be_is_handed_on_as_it_is():
    told: list[str] = []
    usable = UsableFaces(HEAD, told.append)
    for given in (message("a", "b"), message(), selected_only(message("a", "b")), message("")):
        assert usable(given) is given
    assert told == []


def test_ids_that_a_terminal_would_obey_are_shown_as_text():
    told: list[str] = []
    UsableFaces(HEAD, told.append)(changed(id="\x1b[31m" + 1000 * "x", shape=[]))
    assert "\x1b" not in told[0] and "\\x1b[31m" in told[0] and len(told[0]) < 200


def test_mesh_node_shows_the_others():
    with RosSession() as session:
        session.add(MeshNode(HEAD, context=session.context))
        arrived: list[MarkerArray] = []
        session.client.create_subscription(MarkerArray, "/mesh_node/markers", arrived.append, 10)
        faces = session.client.create_publisher(FaceArray, "/faces", FACES)

        def shown(given: FaceArray, second: int) -> set[tuple[str, int]]:
            given.header.stamp.sec = second

            def answered() -> list:
                faces.publish(given)
                return [one.markers for one in arrived if one.markers and one.markers[0].header.stamp.sec == second]

            markers = session.wait_for(answered)[0]
            keys = [(marker.ns, marker.id) for marker in markers]
            assert len(set(keys)) == len(keys), "RViz takes the last of those with the same name"
            return {(marker.ns, marker.id) for marker in markers if marker.points}

        assert len(shown(message("a", "b"), 1)) == 2
        assert len(shown(message("a", "a"), 2)) == 1
        assert len(shown(changed(expression=[float("nan")] * 6), 3)) == 1
        assert not session.escaped


def test_a_recorder_writes_its_files_whatever_it_was_sent(tmp_path):
    with RosSession() as session:
        output = Parameter("output", value=str(tmp_path))
        recorder = session.add(Recorder(HEAD, context=session.context, parameter_overrides=[output]))
        faces = session.client.create_publisher(FaceArray, "/ofer_node/faces", FACES)
        overlay = session.client.create_publisher(Image, "/ofer_node/overlay", 10)
        broken = image_message(np.zeros((8, 8, 3), np.uint8))
        broken.step = 1

        def heard() -> bool:
            overlay.publish(broken)
            for given in (message("a", "a"), changed(shape=[]), changed(expressions=[float("nan")] * 90)):
                faces.publish(given)
            return recorder.observations.messages > 6

        session.wait_for(heard)
        assert not session.escaped
        recorder.close()
    summary = json.loads((tmp_path / "recorder.json").read_text())["summary"]
    assert summary["tracks"] == 2, "a, and the good one"
