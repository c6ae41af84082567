"""Names that are a node's own: ids of faces, TF frames; and what belongs to a thread or a request alone."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import itertools
import re
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_support import FakePipeline, NodeHarness, RosSession, fake_face, held_up, image_message, synthetic_head
from skimage.data import astronaut
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from ofer_msgs.msg import FaceArray
from ofer_ros.base.face_ids import face_ids
from ofer_ros.input.name_watch import NameWatch
from ofer_ros.nodes import ofer_node
from ofer_ros.nodes.ofer_node import OferNode
from ofer_ros.output import publishers, transforms
from ofer_ros.output.messages import face_array_message

pytestmark = pytest.mark.ros


def first(count: int, seed=None) -> list[str]:
    return list(itertools.islice(face_ids(seed), count))


def test_ids_are_five_letters_none_twice_and_follow_from_a_seed():
    ids = first(20000)
    assert len(set(ids)) == 20000 and all(re.fullmatch("[a-z]{5}", one) for one in ids)
    assert not set(first(50)) & set(first(50)), "another node, or another run"
    assert first(20, (0, "/left/ofer_node")) == first(20, (0, "/left/ofer_node"))
    seeds = [(0, "/left/ofer_node"), (0, "/right/ofer_node"), (1, "/left/ofer_node")]
    assert len({one for seed in seeds for one in first(20, seed)}) == 60


@pytest.mark.parametrize("deterministic", [False, True])
def test_two_namespaces_on_one_machine_share_no_face(open_bundle, deterministic):
    """The shipped pipeline in both, one camera for both."""
    with RosSession() as session:
        faces: dict[str, list] = {}
        for space in ("left", "right"):
            given = {"autostart": True, "identity_in_background": False, "deterministic_ids": deterministic}
            given |= {"max_frame_age": 3600.0, "candidates": 4, "hypotheses": 2}
            overrides = [Parameter(name, value=value) for name, value in given.items()]
            remaps = ["--ros-args", "-r", "image_raw:=/image"]
            node = OferNode(
                context=session.context, namespace=space, parameter_overrides=overrides, cli_args=remaps
            )
            assert node.autostart()
            session.add(node)
            faces[space] = []
            session.client.create_subscription(FaceArray, f"/{space}/ofer_node/faces", faces[space].append, 10)
        images = session.client.create_publisher(type(image_message()), "/image", 5)
        picture = np.ascontiguousarray(astronaut())
        stamps = itertools.count(100, 0.01)  # a node that misses many frames still sees one face

        def both() -> bool:
            images.publish(image_message(picture, stamp=next(stamps)))
            time.sleep(0.2)
            return all(any(message.faces for message in found) for found in faces.values())

        session.wait_for(both)
        ids = {face.id for found in faces.values() for message in found for face in message.faces}
    assert len(ids) == 2 and all(re.fullmatch("[a-z]{5}", one) for one in ids)


def test_two_nodes_of_one_name_are_told_after_a_while_and_a_restart_is_not():
    """One that was killed is still thought to be there for twenty seconds."""
    seconds, names, logged = [100.0], [("ofer_node", "/left"), ("ofer_node", "/")], []
    node = SimpleNamespace(
        get_name=lambda: "ofer_node", get_namespace=lambda: "/", get_fully_qualified_name=lambda: "/ofer_node",
        get_node_names_and_namespaces=lambda: names, get_logger=lambda: SimpleNamespace(warning=logged.append),
    )  # fmt: skip
    watch = NameWatch(node, lambda: seconds[0])

    def after(wait: float) -> str:
        seconds[0] += wait
        return watch.check()

    assert after(100.0) == ""
    names.append(("ofer_node", "/"))
    assert after(1.0) == after(30.0) == ""
    assert after(30.0).startswith("2 nodes are called /ofer_node, ") and after(1.0) and len(logged) == 1
    names.pop()
    assert after(1.0) == after(100.0) == ""


def test_a_twin_is_a_warning_of_the_node():
    with NodeHarness(silence_warning=3600.0) as harness:
        harness.add(Node("ofer_node", context=harness.context))
        seconds = itertools.count(time.monotonic(), 30.0)
        harness.node._names._clock = lambda: next(seconds)
        told = harness.status(lambda status: "2 nodes are called /ofer_node" in status.message)
        assert told.level == b"\1" and "a name or a namespace of its own" in told.message


def test_tf_frames_have_the_prefix(monkeypatch):
    monkeypatch.setattr(transforms, "TFMessage", None)
    message = face_array_message([fake_face("abcde")], Header(frame_id="camera"), (480, 640, 3))
    assert transforms.FaceTransforms(None, synthetic_head(), "/left/")._prefix == "left/", "tf2 takes no leading slash"
    face, gaze = transforms.FaceTransforms(None, synthetic_head(), "left/").transforms(message)
    assert (face.child_frame_id, gaze.header.frame_id, gaze.child_frame_id) == (
        "left/face_abcde", "left/face_abcde", "left/gaze_abcde",
    )  # fmt: skip


def test_a_frame_that_hangs_holds_up_neither_diagnostics_nor_services(monkeypatch):
    """`expire` wants the lock that the frame at work holds."""
    monkeypatch.setattr(ofer_node, "_PATIENCE", 0.2)
    behaviour, busy, go_on = held_up()
    pipeline, lock = FakePipeline(), threading.Lock()

    def working(rgb):
        with lock:
            return behaviour(rgb)

    def expire():
        with lock:
            pipeline.expiries += 1

    pipeline.behaviour, pipeline.expire = working, expire
    with NodeHarness(pipeline) as harness:
        harness.send(image_message(stamp=1.0))
        assert busy.wait(60)
        before = pipeline.expiries
        for _ in range(3):  # seconds
            harness.status(lambda status: True)
        assert harness.node._stream._worker._requests.qsize() == 1, "one waits, however long the frame takes"
        assert not harness.call(Trigger, "/ofer_node/forget", Trigger.Request()).success
        assert pipeline.expiries == before
        go_on.set()
        harness.wait_for(lambda: pipeline.expiries > before)


def test_what_a_running_frame_uses_is_destroyed_after_it(monkeypatch):
    monkeypatch.setattr(ofer_node, "_STOP_PATIENCE", 0.2)
    monkeypatch.setattr(ofer_node, "_PATIENCE", 0.2)
    behaviour, busy, go_on = held_up()
    made: list[weakref.ref] = []
    calls: list[tuple] = []

    def make(settings) -> FakePipeline:
        pipeline = FakePipeline(behaviour=behaviour)
        pipeline.calls = calls
        made.append(weakref.ref(pipeline))
        return pipeline

    with NodeHarness(make_pipeline=make) as harness:
        harness.send(image_message(stamp=1.0))
        assert busy.wait(60)
        assert harness.change("deactivate")
        answer = harness.call(Trigger, "/ofer_node/forget", Trigger.Request())
        assert not answer.success and "right after it" in answer.message, "not beside the frame"
        assert harness.change("cleanup")
        assert harness.client.count_publishers("/ofer_node/faces") == 1
        assert harness.call(Trigger, "/ofer_node/forget", Trigger.Request()).success
        go_on.set()
        harness.wait_for(lambda: harness.client.count_publishers("/ofer_node/faces") == 0)
        assert harness.faces_at(1.0) is None, "nobody waits for it any more"
        assert calls == [("forget", "ofer-worker")]
        harness.wait_for(lambda: made[0]() is None)  # each real one is 60 MB
        assert not harness.escaped


def test_outputs_that_cannot_be_made_leave_nothing_behind(monkeypatch):
    def fail(*_, **__):
        raise ValueError("no message")

    with NodeHarness(start=False) as harness:
        monkeypatch.setattr(publishers, "head_model_message", fail)
        before = harness.node.count_publishers("/ofer_node/faces"), len(list(harness.node.publishers))
        assert not harness.change("configure")
        assert (harness.node.count_publishers("/ofer_node/faces"), len(list(harness.node.publishers))) == before
