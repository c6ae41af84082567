"""Nodes that drive avatars, heard by a socket, as the program at the far end hears them."""

from __future__ import annotations

import socket
import struct
import sys

import numpy as np
import pytest

from ofer_ros.base.qos import FACES

pytest.importorskip("rclpy", reason="source .venv/ofer_env.sh for ROS")
pythonosc = pytest.importorskip("pythonosc", reason="python-osc is of the extra `avatar`")

from pythonosc.osc_bundle import OscBundle
from rclpy.parameter import Parameter
from ros_support import LIMIT, RosSession, fake_face
from std_msgs.msg import Header

import ofer_models.avatar
from ofer_models.bundle import Bundle, default_bundle
from ofer_models.head.arkit import ARKIT_NAMES
from ofer_msgs.msg import FaceArray
from ofer_ros.nodes.live_link_node import LiveLinkNode
from ofer_ros.nodes.vmc_node import VmcNode
from ofer_ros.output.messages import face_array_message

pytestmark = pytest.mark.ros
HEAD = Bundle.load(default_bundle()).head


class FarEnd:
    """A node that sends to a socket of ours, and a publisher in the place of ofer_node."""

    def __init__(self, session: RosSession, node_class: type, **parameters: object) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(LIMIT)
        overrides = {"port": self.socket.getsockname()[1]} | parameters
        given = [Parameter(name, value=value) for name, value in overrides.items()]
        session.add(node_class(context=session.context, parameter_overrides=given))
        self._publisher = session.client.create_publisher(FaceArray, "/ofer_node/faces", FACES)
        session.wait_for(self._publisher.get_subscription_count)
        self._number = 0

    def send(self, *weights_of: tuple[str, dict[str, float]], hypotheses: int = 3) -> None:
        """Faces by id with expression coefficients by name, in all hypotheses."""
        faces = []
        for name, values in weights_of:
            face = fake_face(name, hypotheses=hypotheses)
            row = np.array([values.get(unit, 0.0) for unit in HEAD.expression_names], np.float32)
            object.__setattr__(face, "shape", np.zeros(HEAD.n_shape, np.float32))
            object.__setattr__(face, "expression", row)
            object.__setattr__(face, "expressions", np.tile(row, (hypotheses, 1)))
            object.__setattr__(face, "jaws", np.zeros((hypotheses, 3), np.float32))
            object.__setattr__(face, "scores", np.full(hypotheses, 1 / hypotheses, np.float32))
            faces.append(face)
        self._number += 1
        header = Header(frame_id="camera")
        header.stamp.sec = self._number  # a second apart: the filter begins anew
        self._publisher.publish(face_array_message(faces, header, (480, 640)))

    def hear(self) -> bytes:
        return self.socket.recv(65536)

    def silent(self, seconds: float = 0.3) -> bool:
        self.socket.settimeout(seconds)
        try:
            return not self.socket.recv(65536)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(LIMIT)


@pytest.fixture
def session():
    with RosSession() as session:
        yield session


def test_vmc_sends_what_the_face_does_and_says_when_it_is_lost(session):
    far = FarEnd(session, VmcNode)
    far.send()
    far.send(("f1", {"eyeBlinkLeft": 0.75}))
    heard = {tuple(m.params[:1]): m.params for m in OscBundle(far.hear()) if m.address == "/VMC/Ext/Blend/Val"}
    assert heard["EyeBlinkLeft",][1] == pytest.approx(0.75)
    far.send()
    lost = list(OscBundle(far.hear()))
    assert lost[0].params[3] == 0, "tracking status"
    kept = {message.params[0]: message.params[1] for message in lost if message.address == "/VMC/Ext/Blend/Val"}
    assert kept["EyeBlinkLeft"] == pytest.approx(0.75)


def test_live_link_follows_one_face_and_is_silent_without_it(session):
    far = FarEnd(session, LiveLinkNode, face="f2", subject="left")
    far.send(("f1", {"mouthPucker": 1.0}), ("f2", {"mouthPucker": 0.5}))
    data = far.hear()
    assert data[5:13] == b"ofer_ros" and data[13:21] == struct.pack(">i", 4) + b"left"
    assert struct.unpack(">61f", data[-244:])[ARKIT_NAMES.index("mouthPucker")] == pytest.approx(0.5)
    far.send(("f1", {"mouthPucker": 1.0}))
    assert far.silent()


def test_a_hypothesis_that_is_not_there_is_one_line_and_the_node_goes_on(session):
    far = FarEnd(session, LiveLinkNode, hypothesis="7")
    far.send(("f1", {}))
    assert far.silent()
    far.send(("f1", {}), hypotheses=8)
    assert far.hear()
    assert session.escaped == []


def test_a_face_that_cannot_be_used_and_a_second_one_of_its_name_cost_no_other(session, capfd):
    far = FarEnd(session, LiveLinkNode, face="f2")
    far.send(("f1", {"mouthPucker": float("nan")}), ("f2", {"mouthPucker": 0.5}), ("f2", {"mouthPucker": 1.0}))
    assert struct.unpack(">61f", far.hear()[-244:])[ARKIT_NAMES.index("mouthPucker")] == pytest.approx(0.5)
    said = capfd.readouterr().err
    assert said.count("face 'f1' is left out: its coefficients or its pose are not finite") == 1
    assert said.count("face 'f2' is left out: another face of this message has the same id") == 1


@pytest.mark.parametrize("parameters, said", [
    ({"host": "no.such.host.invalid"}, "host 'no.such.host.invalid' is not known"),
    ({"bundle": "nowhere"}, "no bundle at"),
    ({"hypothesis": "shown"}, "is neither `selected`, `mean` nor a number"),
])
def test_what_cannot_work_is_said_at_the_start(session, parameters, said):
    with pytest.raises(ValueError, match=said):
        FarEnd(session, VmcNode, **parameters)


def test_without_python_osc_it_is_said_what_to_install(session, monkeypatch):
    monkeypatch.setitem(sys.modules, "ofer_models.avatar.vmc", None)
    monkeypatch.delattr(ofer_models.avatar, "vmc", raising=False)
    with pytest.raises(ValueError, match="pip install python-osc"):
        FarEnd(session, VmcNode)
