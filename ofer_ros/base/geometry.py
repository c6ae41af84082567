"""Rotations between matrices and ROS quaternions, and stamps. Pure functions on numpy arrays."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion


def quaternion_from_matrix(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion (x, y, z, w) with w >= 0 of a rotation matrix (3, 3).

    Shepperd's method: solve for the largest of the four components first, so that nothing is divided by a small number.
    """
    m = np.asarray(rotation, np.float64)
    squares = np.array([m[0, 0], m[1, 1], m[2, 2], m.trace()])
    largest = int(np.argmax(squares))
    if largest == 3:
        q = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1 + squares[3]])
    else:
        i, j, k = largest, (largest + 1) % 3, (largest + 2) % 3
        q = np.empty(4)
        q[i] = 1 + 2 * m[i, i] - squares[3]
        q[j] = m[i, j] + m[j, i]
        q[k] = m[i, k] + m[k, i]
        q[3] = m[k, j] - m[j, k]
    q /= np.linalg.norm(q)
    return -q if q[3] < 0 else q


def matrix_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) float64 of a quaternion (x, y, z, w) of any length but zero."""
    x, y, z, w = np.asarray(quaternion, np.float64) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


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
