"""Where a moving camera is: a tree of TF frames, and the node's parameter `filtering_frame`."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from ros_support import NodeHarness, RosSession, image_message
from std_msgs.msg import Header

from ofer_models.head.rotations import quaternion_from_matrix
from ofer_ros.base.problem_log import ProblemLog
from ofer_ros.input import camera_place
from ofer_ros.input.camera_place import CameraPlace
from ofer_ros.input.frame_tree import AHEAD, KEPT, FrameTree, NoTransformError, Placed

pytestmark = pytest.mark.ros


def turn(degrees: float, axis: int = 2) -> np.ndarray:
    return cv2.Rodrigues(np.radians(degrees) * np.eye(3)[axis])[0]


def placed(time: float, translation=(0.0, 0.0, 0.0), rotation: np.ndarray | None = None) -> Placed:
    matrix = np.eye(3) if rotation is None else rotation
    return Placed(time, np.array(translation, float), quaternion_from_matrix(matrix))


@pytest.fixture
def robot() -> FrameTree:
    """map, odom, base, neck, camera: a robot that drives along x at 1 m/s and turns its neck by 30 degrees a second."""
    tree = FrameTree()
    tree.put("map", "odom", placed(0.0, (10.0, 0.0, 0.0), turn(90)))
    tree.put("neck", "camera", placed(0.0, (0.1, 0.0, 0.2)), static=True)
    for step in range(11):
        tree.put("odom", "base", placed(0.1 * step, (0.1 * step, 0.0, 0.0)))
        tree.put("base", "neck", placed(0.1 * step, (0.0, 0.0, 1.0), turn(3.0 * step)))
    return tree


def test_a_place_is_found_through_the_tree_between_the_times_that_were_heard(robot):
    found = robot.place("camera", "odom", 0.55)
    np.testing.assert_allclose(found.rotation, turn(16.5), atol=1e-9)
    np.testing.assert_allclose(found.translation, np.array([0.55, 0, 1.0]) + turn(16.5) @ [0.1, 0, 0.2], atol=1e-9)
    down = robot.place("odom", "camera", 0.55)
    np.testing.assert_allclose(down.rotation @ found.rotation, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(found.rotation @ down.translation + found.translation, 0, atol=1e-12)
    same = robot.place("camera", "camera", 99.0)
    np.testing.assert_array_equal(same.rotation, np.eye(3))


def test_what_lies_above_both_frames_does_not_matter(robot):
    """map -> odom was heard once, long before."""
    assert robot.place("camera", "odom", 1.0).translation[0] == pytest.approx(1.0 + 0.1 * np.cos(np.radians(30)))
    with pytest.raises(NoTransformError, match="'odom' was last heard of 1.00 s earlier"):
        robot.place("camera", "map", 1.0)


def test_a_little_beyond_the_newest_it_goes_on_as_it_went(robot):
    found = robot.place("camera", "odom", 1.05)
    np.testing.assert_allclose(found.rotation, turn(31.5), atol=1e-9)
    with pytest.raises(NoTransformError, match="last heard of 0.20 s earlier"):
        robot.place("camera", "odom", 1.0 + 2 * AHEAD)


@pytest.mark.parametrize(
    ("child", "frame", "time", "reason"),
    [
        ("camera", "kitchen", 0.5, "'camera' and 'kitchen' are not in one tree"),
        ("", "odom", 0.5, "'' and 'odom' are not in one tree"),
        ("camera", "odom", -0.5, "known from 0.50 s later on"),
    ],
)
def test_why_there_is_no_place_is_told(robot, child, frame, time, reason):
    with pytest.raises(NoTransformError, match=reason):
        robot.place(child, frame, time)


def test_what_publishers_do_wrong_is_survived(robot):
    robot.put("base", "neck", placed(1.1, (np.nan, 0.0, 0.0)))
    robot.put("base", "neck", Placed(1.1, np.zeros(3), np.zeros(4)))
    robot.put("base", "neck", placed(1.0, (0.0, 0.0, 1.0), turn(30)))  # said twice
    np.testing.assert_allclose(robot.place("neck", "base", 1.0).rotation, turn(30), atol=1e-9)
    robot.put("camera", "odom", placed(1.0))  # a circle
    with pytest.raises(NoTransformError, match="not in one tree"):
        robot.place("camera", "map", 1.0)


def test_a_frame_is_kept_for_a_while_and_begins_anew_where_time_does():
    tree = FrameTree()
    for step in range(400):
        tree.put("odom", "camera", placed(100 + 0.1 * step, (step, 0.0, 0.0)))
    assert len(tree._moving["camera"]) == round(10 * KEPT) + 1
    tree.put("odom", "camera", placed(50.0, (7.0, 0.0, 0.0)))
    assert tree.place("camera", "odom", 50.0).translation[0] == 7.0
    with pytest.raises(NoTransformError, match="last heard"):
        tree.place("camera", "odom", 130.0)
    tree.put("arm", "camera", placed(50.0))
    with pytest.raises(NoTransformError, match="not in one tree"):
        tree.place("camera", "odom", 50.0)


def transform(parent: str, child: str, at: float, yaw: float = 0.0) -> TransformStamped:
    message = TransformStamped(header=image_message(stamp=at, frame_id=parent).header, child_frame_id=child)
    message.transform.translation = Vector3(x=1.0)
    x, y, z, w = map(float, quaternion_from_matrix(turn(yaw)))
    message.transform.rotation = Quaternion(x=x, y=y, z=z, w=w)
    return message


class Heard:
    """In the place of tf2_msgs/TFMessage."""

    def __init__(self, *transforms: TransformStamped) -> None:
        self.transforms = transforms


def test_without_tf2_msgs_it_is_said_and_faces_come_all_the_same(monkeypatch, capfd):
    monkeypatch.setattr(camera_place, "TFMessage", None)
    with NodeHarness(filtering_frame="odom") as harness:
        assert harness.send_and_wait(image_message(stamp=1.0)).faces
        assert harness.pipeline.camera_pose is None
    assert capfd.readouterr().err.count("filtering_frame: tf2_msgs is not installed") == 1


def test_a_camera_whose_place_stays_away_is_told_once(monkeypatch):
    logged: list[str] = []
    now = [100.0]
    monkeypatch.setattr(camera_place, "TFMessage", Time)  # any type of message: nothing comes over these topics
    with RosSession() as session:
        problems = ProblemLog(logged.append, lambda: 0.0)
        place = CameraPlace(session.client, "/odom", problems, session.client.default_callback_group, lambda: now[0])
        header = Header(stamp=Time(sec=5), frame_id="camera")
        assert place.at(header) is None and not logged, "TF may be on its way"
        for _ in range(3):
            now[0] += 3.0
            assert place.at(header) is None
        assert logged == [
            "filtering_frame: 'camera' and 'odom' are not in one tree of frames: "
            "faces are filtered as if the camera stood still"
        ]
        assert problems.latest() == logged[0], "in the diagnostics for as long as it lasts"
        place.hear(Heard(transform("odom", "/base", 5.0, 30.0)), static=False)
        place.hear(Heard(transform("base", "camera", 0.0)), static=True)
        found = place.at(header)
        np.testing.assert_allclose(found.rotation, turn(30), atol=1e-9)
        np.testing.assert_allclose(found.translation, [1 + np.cos(np.pi / 6), 0.5, 0], atol=1e-9)
        place.destroy()


def test_the_pipeline_is_told_where_the_camera_was_by_the_real_tf():
    messages = pytest.importorskip("tf2_msgs.msg", reason="ros-<distribution>-tf2-msgs")
    with NodeHarness(filtering_frame="odom") as harness:
        tf = harness.client.create_publisher(messages.TFMessage, "/tf", 100)
        harness.wait_for(lambda: tf.get_subscription_count() == 1)
        tf.publish(messages.TFMessage(transforms=[transform("odom", "camera", at, 10 * at) for at in (1.0, 2.0, 3.0)]))

        def told() -> bool:
            harness.send_and_wait(image_message(stamp=told.stamp))
            told.stamp += 0.001
            return harness.pipeline.camera_pose is not None

        told.stamp = 2.5
        harness.wait_for(told)
        np.testing.assert_allclose(harness.pipeline.camera_pose.rotation, turn(25), atol=0.02)
        assert harness.change("deactivate")
        harness.wait_for(lambda: tf.get_subscription_count() == 0)
