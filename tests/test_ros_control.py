"""ofer_node's services, parameters at work, lifecycle with every error path, sim time, QoS and namespaces, over DDS."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import gc
import threading
import time
import weakref
from dataclasses import replace

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from ros_support import FakePipeline, NodeHarness, RosSession, fake_face, held_up, image_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool, Trigger

from ofer_models.bundle.tensors import StageError
from ofer_msgs.msg import BlendshapesArray, FaceArray
from ofer_msgs.srv import ResetIdentity
from ofer_ros.nodes import ofer_node
from ofer_ros.nodes.camera_node import camera_info
from ofer_ros.nodes.ofer_node import OferNode

pytestmark = pytest.mark.ros
WORKER = "ofer-worker"


@pytest.fixture
def harness():
    with NodeHarness() as harness:
        yield harness
        assert not harness.escaped


def forget(harness):
    return harness.call(Trigger, "/ofer_node/forget", Trigger.Request())


def reset_identity(harness, track: str = ""):
    return harness.call(ResetIdentity, "/ofer_node/reset_identity", ResetIdentity.Request(id=track))


# Services


def test_forget_is_done_between_two_frames_by_the_thread_that_owns_the_pipeline(harness):
    harness.send_and_wait(image_message(stamp=1.0))
    decoder = harness.node._outputs.drawings._markers_of.layers.decoder
    harness.wait_for(lambda: decoder._identities)
    assert forget(harness).success
    assert harness.pipeline.calls == [("forget", WORKER)]
    assert not decoder._identities, "shapes kept for speed are gone as well"
    assert harness.send_and_wait(image_message(stamp=2.0)).faces


def test_reset_identity_of_one_face_of_all_and_of_nobody(harness):
    harness.pipeline.tracks = ["f1", "f2"]
    harness.send_and_wait(image_message(stamp=1.0))
    assert reset_identity(harness, "f2").success
    assert reset_identity(harness).success
    assert harness.pipeline.calls == [("reset_identity", "f2", WORKER), ("reset_identity", None, WORKER)]
    answer = reset_identity(harness, "f9")
    assert not answer.success
    assert answer.message == "there is no face 'f9'; there are: f1, f2"


def test_services_in_states_without_a_worker():
    with NodeHarness(start=False) as harness:
        assert forget(harness).success
        answer = reset_identity(harness)
        assert not answer.success and answer.message == "the node is unconfigured, not active"
        assert harness.change("configure")
        assert forget(harness).success
        assert [call[0] for call in harness.pipeline.calls] == ["forget"]
        assert not reset_identity(harness).success


def test_a_service_that_fails_says_so_and_the_node_goes_on(harness, capfd):
    harness.pipeline.forget = lambda: 1 / 0
    answer = forget(harness)
    assert not answer.success and "ZeroDivisionError" in answer.message
    assert "a service failed" in capfd.readouterr().err
    assert harness.send_and_wait(image_message(stamp=1.0)).faces


def test_a_service_does_not_wait_for_ever_for_a_frame(monkeypatch):
    monkeypatch.setattr(ofer_node, "_PATIENCE", 0.3)
    behaviour, busy, go_on = held_up()
    with NodeHarness(FakePipeline(behaviour=behaviour)) as harness:
        harness.send(image_message(stamp=1.0))
        assert busy.wait(60)
        answer = forget(harness)
        assert not answer.success and "right after it" in answer.message
        assert not harness.pipeline.calls
        go_on.set()
        harness.wait_for(lambda: harness.pipeline.calls == [("forget", WORKER)])


def test_a_pause_takes_the_markers_of_the_frame_at_work_away_too():
    busy, go_on = threading.Event(), threading.Event()
    with NodeHarness() as harness:
        harness.send_and_wait(image_message(stamp=1.0))
        publish = harness.node._outputs.publish

        def slow(result):
            busy.set()
            go_on.wait(120)
            return publish(result)

        harness.node._outputs.publish = slow
        harness.send(image_message(stamp=2.0))
        assert busy.wait(60)
        assert harness.call(SetBool, "/ofer_node/enable", SetBool.Request(data=False)).success
        go_on.set()
        harness.wait_for(lambda: harness.faces_at(2.0))
        for _ in range(2):  # after the frame, and after what it left on its way to us
            assert forget(harness).success
        assert harness.cleared(), "the last word"


# Parameters


def test_hypotheses_and_steps_change_while_faces_are_tracked(harness):
    assert harness.send_and_wait(image_message(stamp=1.0)).faces[0].num_hypotheses == 15
    assert harness.set(hypotheses=4, steps=7) == ["", ""]
    harness.wait_for(lambda: ("steps", 7, WORKER) in harness.pipeline.calls)
    assert harness.send_and_wait(image_message(stamp=2.0)).faces[0].num_hypotheses == 4
    assert harness.set(steps=0) == [""]
    harness.wait_for(lambda: ("steps", None, WORKER) in harness.pipeline.calls)
    assert ("hypotheses", 4, WORKER) in harness.pipeline.calls
    assert harness.pipeline.resets == 1, "tracks go on"


def test_what_is_loaded_is_refused_at_work_and_taken_up_at_the_next_activate():
    made = []

    def make(settings):
        made.append(settings)
        if settings.bundle == "bad":
            raise ValueError("no bundle at bad")
        return FakePipeline()

    with NodeHarness(make_pipeline=make) as harness:
        (reason,) = harness.set(bundle="other")
        assert reason == (
            "bundle cannot change while the node is active; first: ros2 lifecycle set /ofer_node deactivate"
        )
        assert harness.change("deactivate")
        assert harness.change("activate")
        assert len(made) == 1, "nothing has changed: nothing is loaded again"
        assert harness.change("deactivate")
        assert harness.set(bundle="other", mesh_region="head") == ["", ""]
        assert harness.change("activate")
        assert (made[1].bundle, made[1].mesh_region) == ("other", "head")
        assert harness.change("deactivate")
        assert harness.set(bundle="bad") == [""]
        assert not harness.change("activate")
        assert harness.node.state == "inactive"
        status = harness.status(lambda status: status.level == DiagnosticStatus.ERROR)
        assert status.message == "cannot activate: no bundle at bad"
        assert harness.set(bundle="other") == [""]
        assert harness.change("activate")
        harness.wait_for(lambda: harness.images.get_subscription_count() == 1)
        assert harness.send_and_wait(image_message(stamp=1.0)).faces


def test_publishers_events_are_not_asked_at_each_wake_up(harness):
    """Of eight cameras in one process they were much of what an image cost the executor. Of topics that the node
    listens to it must tell."""
    assert harness.node.state == "active" and all(not one.event_handlers for one in harness.node.publishers)
    assert all(one.event_handlers for one in harness.node.subscriptions)


def test_layers_are_switched_on_and_off_at_work(harness):
    def shown() -> set[str]:
        harness.send_and_wait(image_message(stamp=time.time()))
        return {marker.ns for marker in harness.last_markers() if marker.action == 0}

    harness.wait_for(lambda: shown() == {"mesh"})
    assert harness.set(show_mesh=False, show_text=True, show_uncertainty=True) == ["", "", ""]
    harness.wait_for(lambda: shown() == {"text", "uncertainty"})
    assert any(m.ns == "mesh" and m.action == 2 for message in harness.markers for m in message.markers)
    assert harness.set(show_text=False, show_uncertainty=False) == ["", ""]
    harness.wait_for(lambda: shown() == set())


def test_blendshapes_and_the_link_topic_come_while_somebody_listens(harness, open_head):
    face = replace(
        fake_face(),
        shape=np.zeros(open_head.n_shape, np.float32),
        expression=np.full(50, 0.25, np.float32),
        jaw=np.array([open_head.jaw_open_angle, 0, 0], np.float32),
    )
    blendshapes, link = [], []
    subscribe = harness.client.create_subscription
    assert harness.change("deactivate") and harness.change("cleanup")
    harness.pipeline.head, harness.pipeline.behaviour = open_head, lambda rgb: [face]
    assert harness.change("configure") and harness.change("activate")
    harness.wait_for(lambda: harness.images.get_subscription_count() == 1)
    subscribe(BlendshapesArray, "/ofer_node/blendshapes", blendshapes.append, 10)
    subscribe(FaceArray, "/ofer_node/faces_selected", link.append, 10)
    harness.wait_for(lambda: harness.send_and_wait(image_message(stamp=time.time())) and blendshapes and link)
    (entry,) = blendshapes[-1].faces
    named = dict(zip(blendshapes[-1].names, entry.weights, strict=True))
    assert len(named) == 52
    assert named["mouthSmileLeft"] == pytest.approx(0.25) and named["jawOpen"] == 1 and named["tongueOut"] == 0
    assert entry.id == "f1" and entry.residual == 0
    assert link[-1].faces[0].num_hypotheses == 1


# Lifecycle

CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = (
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_DEACTIVATE,
)
SHUTDOWN = {
    "unconfigured": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    "inactive": Transition.TRANSITION_INACTIVE_SHUTDOWN,
    "active": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}
GOES = {
    ("unconfigured", CONFIGURE): "inactive",
    ("inactive", CLEANUP): "unconfigured",
    ("inactive", ACTIVATE): "active",
    ("active", DEACTIVATE): "inactive",
    **{(state, number): "finalized" for state, number in SHUTDOWN.items()},
}
WAY = {"unconfigured": [], "inactive": [CONFIGURE], "active": [CONFIGURE, ACTIVATE]}


def by_number(harness, number: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=number))
    return harness.call(ChangeState, "/ofer_node/change_state", request).success


@pytest.mark.parametrize("state", WAY)
def test_every_transition_from_every_state(state):
    with NodeHarness(start=False) as harness:
        for number in WAY[state]:
            assert by_number(harness, number)
        assert harness.node.state == state
        for number in (CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE, *SHUTDOWN.values()):
            if (state, number) not in GOES:
                assert not by_number(harness, number)
                assert harness.node.state == state
        for number in (number for (start, number) in GOES if start == state and number not in SHUTDOWN.values()):
            assert by_number(harness, number)
            assert harness.node.state == GOES[state, number]
            back = {"inactive": WAY["inactive"], "unconfigured": [], "active": WAY["active"]}[state]
            if harness.node.state == "inactive":  # to where we came from
                assert by_number(harness, ACTIVATE if state == "active" else CLEANUP)
            elif state == "inactive":
                assert by_number(harness, DEACTIVATE if harness.node.state == "active" else back[0])
            assert harness.node.state == state
        assert by_number(harness, SHUTDOWN[state])
        assert harness.node.state == "finalized"
        assert harness.node.count_subscribers("/image_raw") == 0
        for number in (CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE, *SHUTDOWN.values()):
            assert not by_number(harness, number)
        assert not harness.escaped
        assert forget(harness).success, "finalized, and services still answer"


def test_nothing_of_a_pipeline_is_left_after_cleanup():
    def make(settings):
        pipeline = FakePipeline()
        pipeline.itself = pipeline  # a circle, as real ones have
        return pipeline

    with NodeHarness(make_pipeline=make) as harness:
        harness.send_and_wait(image_message(stamp=1.0))
        node = harness.node
        assert gc.get_freeze_count(), "no frame waits for the collector to look through what was loaded"
        held = [weakref.ref(one) for one in (node._pipeline, node._outputs, node._stream)]
        assert harness.change("deactivate") and harness.change("cleanup")
        assert [reference() for reference in held] == [None] * 3, "each real one is 60 MB"
        assert not gc.get_freeze_count()


def test_networks_are_warmed_up_at_configure_and_given_back_at_cleanup(capfd):
    """With progress in the log; again when the parameters that they depend on have changed."""
    made = []

    def make(settings):
        made.append(FakePipeline())
        return made[-1]

    with NodeHarness(make_pipeline=make) as harness:
        assert [one.warm_ups for one in made] == [1] and "warm-up 1 of 1" in capfd.readouterr().err
        assert harness.change("deactivate") and made[0].closed == 0
        assert harness.change("cleanup") and made[0].closed == 1
        assert harness.change("configure")
        assert harness.set(hypotheses=7) == [""] and harness.change("activate")
        assert [(one.warm_ups, one.closed) for one in made] == [(1, 1), (1, 1), (1, 0)]
    assert made[-1].closed == 1


def test_a_gpu_that_is_full_at_configure_is_one_line(capfd):
    class Full(FakePipeline):
        def warm_up(self, say):
            raise StageError("the NVIDIA driver's cuMemAlloc fails with CUDA_ERROR_OUT_OF_MEMORY (2)")

    with NodeHarness(pipeline=Full(), start=False) as harness:
        assert not harness.change("configure")
        assert harness.pipeline.closed == 1
    said = capfd.readouterr().err
    assert "cannot configure: the NVIDIA driver's cuMemAlloc fails" in said and "Traceback" not in said


def test_an_activate_that_fails_half_way_leaves_nothing_running(monkeypatch, capfd):
    create = OferNode.create_subscription

    def fail(node, kind, topic, *args, **kwargs):
        if topic == "camera_info":
            raise RuntimeError("out of order")
        return create(node, kind, topic, *args, **kwargs)

    with NodeHarness(start=False) as harness:
        assert harness.change("configure")
        with monkeypatch.context() as broken:
            broken.setattr(OferNode, "create_subscription", fail)
            assert not harness.change("activate")
        assert harness.node.state == "inactive"
        harness.wait_for(lambda: harness.node.count_subscribers("/image_raw") == 0)
        assert harness.node._stream is None
        assert not [thread for thread in threading.enumerate() if thread.name == WORKER]
        assert "on_activate raised" in capfd.readouterr().err
        assert harness.change("activate")
        harness.wait_for(lambda: harness.images.get_subscription_count() == 1)
        assert harness.send_and_wait(image_message(stamp=1.0)).faces


@pytest.mark.parametrize("step", ["deactivate", "cleanup"])
def test_a_step_back_that_fails_ends_unconfigured_with_nothing_left(harness, capfd, step):
    if step == "cleanup":
        assert harness.change("deactivate")
    outputs = harness.node._outputs
    name = {"deactivate": "clear", "cleanup": "destroy"}[step]
    original = getattr(outputs, name)
    calls = []

    def fail_once():
        calls.append(name)
        if len(calls) == 1:
            raise RuntimeError("out of order")
        original()

    setattr(outputs, name, fail_once)
    assert not harness.change(step)
    assert harness.node.state == "unconfigured"
    assert "RuntimeError: out of order" in capfd.readouterr().err
    harness.wait_for(lambda: harness.images.get_subscription_count() == 0)
    assert harness.change("configure") and harness.change("activate")
    harness.wait_for(lambda: harness.images.get_subscription_count() == 1)
    assert harness.send_and_wait(image_message(stamp=9.0)).faces


def test_an_unexpected_error_in_configure_has_its_traceback_and_an_expected_one_has_not(capfd):
    def make(settings):
        raise (ValueError if settings.seed else RuntimeError)("bad luck")

    with NodeHarness(make_pipeline=make, start=False) as harness:
        assert not harness.change("configure")
        assert "Traceback" in capfd.readouterr().err
        assert harness.set(seed=1) == [""]
        assert not harness.change("configure")
        errors = capfd.readouterr().err
        assert "Traceback" not in errors and errors.count("cannot configure: bad luck") == 1
        assert harness.node.state == "unconfigured"


def test_a_frame_that_does_not_end_is_not_joined_by_a_second_worker(monkeypatch, capfd):
    monkeypatch.setattr(ofer_node, "_STOP_PATIENCE", 0.2)
    behaviour, busy, go_on = held_up()
    with NodeHarness(FakePipeline(behaviour=behaviour)) as harness:
        harness.send(image_message(stamp=1.0))
        assert busy.wait(60)
        assert harness.change("deactivate")
        assert not harness.change("activate")
        assert "still at work" in capfd.readouterr().err
        go_on.set()
        harness.wait_for(lambda: harness.change("activate"))
        harness.wait_for(lambda: harness.images.get_subscription_count() == 1)
        assert harness.send_and_wait(image_message(stamp=2.0))


def test_an_identity_that_does_not_end_holds_up_neither_cleanup_nor_the_next_start(monkeypatch, capfd):
    monkeypatch.setattr(ofer_node, "_STOP_PATIENCE", 0.2)
    go_on, pipelines = threading.Event(), []

    class Drawing(FakePipeline):
        def close(self) -> None:
            assert go_on.wait(120)
            super().close()

    with NodeHarness(make_pipeline=lambda settings: pipelines.append(Drawing()) or pipelines[-1]) as harness:
        assert harness.change("deactivate") and harness.change("cleanup")
        assert "the identity at work did not finish in 0.2 s" in capfd.readouterr().err
        assert harness.change("configure") and harness.change("activate")
        harness.wait_for(lambda: harness.images.get_subscription_count() == 1)
        assert harness.send_and_wait(image_message(stamp=2.0))
        go_on.set()
        harness.wait_for(lambda: pipelines[0].closed == 1)


def test_identities_that_cannot_be_drawn_are_a_warning_while_they_cannot(harness):
    harness.send_and_wait(image_message(stamp=1.0))
    harness.node._pipeline.identity_trouble = "an identity could not be drawn: no memory"
    told = harness.status(lambda status: "identity" in status.message)
    assert (told.level, told.message) == (b"\1", "an identity could not be drawn: no memory")
    harness.node._pipeline.identity_trouble = ""
    harness.status(lambda status: status.level == b"\0")


# Cameras


def info(width: int, height: int, degrees: float, stamp: float) -> CameraInfo:
    return camera_info(image_message(stamp=stamp).header, width, height, degrees)


def focal(harness) -> float:
    """Focal length, in image widths, of the last frame's intrinsics; None while they are a guess."""
    intrinsics = harness.pipeline.frames[-1][2]
    return intrinsics.K[0, 0] / intrinsics.width if intrinsics.metric else None


def expected_focal(degrees: float) -> float:
    return 0.5 / np.tan(np.radians(degrees) / 2)


def test_a_new_calibration_and_a_new_resolution_are_taken_up_in_the_stream(harness):
    infos = harness.client.create_publisher(CameraInfo, "/camera_info", qos_profile_sensor_data)
    harness.wait_for(lambda: infos.get_subscription_count() == 1)
    clock = 1.0
    for width, height, degrees in [(64, 48, 60.0), (64, 48, 80.0), (32, 24, 80.0), (128, 96, 50.0), (64, 48, 70.0)]:

        def seen(width=width, height=height, degrees=degrees) -> bool:
            nonlocal clock
            clock += 0.1
            infos.publish(info(width, height, degrees, clock))
            harness.send_and_wait(image_message(np.full((height, width, 3), 90, np.uint8), stamp=clock))
            return focal(harness) == pytest.approx(expected_focal(degrees))

        harness.wait_for(seen)
    assert harness.node._statistics.failures == harness.node._statistics.bad_images == 0


@pytest.mark.parametrize("sync", ["exact", "approximate"])
def test_images_are_used_with_their_own_camera_info_where_sync_asks_for_it(sync):
    shift = {"exact": 0.0, "approximate": 0.004}[sync]
    with NodeHarness(sync=sync, sync_slop=0.01, silence_warning=0.5) as harness:
        infos = harness.client.create_publisher(CameraInfo, "/camera_info", qos_profile_sensor_data)
        harness.wait_for(lambda: infos.get_subscription_count() == 1)

        def lonely() -> bool:
            harness.send(image_message(stamp=time.time()))
            time.sleep(0.1)
            return any("none with a CameraInfo on /camera_info" in status.message for status in harness.diagnostics)

        harness.wait_for(lonely)
        assert not harness.faces
        for number, degrees in enumerate([50.0, 90.0, 70.0]):
            stamp = 2e9 + number  # far from the above, and no two alike

            def answered(stamp=stamp, degrees=degrees) -> bool:
                infos.publish(info(64, 48, degrees, stamp + shift))
                harness.send(image_message(stamp=stamp))
                time.sleep(0.05)
                return harness.faces_at(stamp) is not None

            harness.wait_for(answered)
            assert focal(harness) == pytest.approx(expected_focal(degrees))
        assert not harness.escaped


def test_sync_without_any_camera_info_says_which_topic_is_missing():
    with NodeHarness(sync="exact", silence_warning=0.5) as harness:

        def told() -> bool:
            harness.send(image_message(stamp=time.time()))
            time.sleep(0.1)
            return any("/camera_info has no publisher" in status.message for status in harness.diagnostics)

        harness.wait_for(told)


# Middleware


def test_quality_of_service_is_what_the_parameters_ask_for():
    with NodeHarness(image_reliability="reliable", image_depth=3, silence_warning=0.5, transport="raw") as harness:
        (endpoint,) = harness.wait_for(lambda: harness.client.get_subscriptions_info_by_topic("/image_raw"))
        assert endpoint.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        assert harness.send_and_wait(image_message(stamp=1.0)).faces
        harness.client.destroy_publisher(harness.images)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        harness.images = harness.client.create_publisher(Image, "/image_raw", best_effort)
        text = "does not fit: set image_reliability to best_effort"
        harness.status(lambda status: status.level == DiagnosticStatus.WARN and text in status.message)


def test_simulated_time_stamps_the_diagnostics_and_does_not_stop_them():
    with NodeHarness(use_sim_time=True) as harness:
        stamps = []
        harness.client.create_subscription(
            type(ofer_node.DiagnosticArray()), "/diagnostics", lambda message: stamps.append(message.header.stamp), 10
        )
        harness.wait_for(lambda: len(stamps) >= 2)
        assert stamps[-1].sec == 0, "no clock is running, and yet the node tells how it is"
        clock = harness.client.create_publisher(Clock, "/clock", 10)

        def told() -> bool:
            message = Clock()
            message.clock.sec = 4242
            clock.publish(message)
            time.sleep(0.1)
            return stamps[-1].sec == 4242

        harness.wait_for(told)
        assert harness.send_and_wait(image_message(stamp=4242.5)).faces


def test_several_nodes_in_namespaces_keep_apart():
    with RosSession() as session:
        nodes, images, answers = {}, {}, {"left": [], "right": []}
        for name, degrees in (("left", 60.0), ("right", 90.0)):
            pipeline = FakePipeline()
            pipeline.tracks = [name]
            node = OferNode(
                lambda settings, pipeline=pipeline: pipeline,
                context=session.context,
                namespace=f"/{name}",
                parameter_overrides=[Parameter("field_of_view", value=degrees)],
            )
            nodes[name] = session.add(node)
            images[name] = session.client.create_publisher(Image, f"/{name}/image_raw", 5)
            session.client.create_subscription(FaceArray, f"/{name}/ofer_node/faces", answers[name].append, 10)
            request = ChangeState.Request()
            for number in (CONFIGURE, ACTIVATE):
                request.transition.id = number
                assert session.call(ChangeState, f"/{name}/ofer_node/change_state", request).success
        session.wait_for(lambda: all(p.get_subscription_count() == 1 for p in images.values()))
        session.wait_for(lambda: all(session.client.count_publishers(f"/{n}/ofer_node/faces") for n in nodes))

        def both() -> bool:
            for publisher in images.values():
                publisher.publish(image_message(stamp=time.time()))
            time.sleep(0.05)
            return all(answers.values())

        session.wait_for(both)
        for name, received in answers.items():
            assert {face.id for message in received for face in message.faces} == {name}
        assert nodes["left"]._pipeline.frames[-1][2].K[0, 0] > nodes["right"]._pipeline.frames[-1][2].K[0, 0]
        assert {node.get_fully_qualified_name() for node in nodes.values()} == {"/left/ofer_node", "/right/ofer_node"}
        assert not session.escaped
