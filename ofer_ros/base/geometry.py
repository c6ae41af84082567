"""Poses and stamps between ROS messages and numbers. Pure functions on numpy arrays."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion

from ofer_models.head.rotations import matrix_from_quaternion, quaternion_from_matrix


def pose_message(rotation: np.ndarray, translation: np.ndarray) -> Pose:
    """geometry_msgs/Pose of a rotation (3, 3) and a translation (3,) in metres."""
    x, y, z, w = map(float, quaternion_from_matrix(rotation))
    px, py, pz = map(float, translation)
    return Pose(position=Point(x=px, y=py, z=pz), orientation=Quaternion(x=x, y=y, z=z, w=w))


def pose_arrays(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and translation (3,), float64, of a geometry_msgs/Pose."""
    q, p = pose.orientation, pose.position
    return matrix_from_quaternion(np.array([q.x, q.y, q.z, q.w])), np.array([p.x, p.y, p.z])


def seconds(stamp: Time) -> float:
    """Stamp in seconds as a float (exact to about 0.2 microseconds for present dates)."""
    return stamp.sec + 1e-9 * stamp.nanosec


def stamp_key(stamp: Time) -> int:
    """Stamp in nanoseconds: exact, and what messages of one frame are matched by."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec
