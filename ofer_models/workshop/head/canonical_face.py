"""Make canonical_face.npz, the mean face that landmarks are frontalised to.

    python -m ofer_models.workshop.head.canonical_face

The only input is MediaPipe's own output on `skimage.data.astronaut()` (public domain, NASA).  The 478 points are made
mirror-symmetric, which also takes out the remaining yaw and roll, and turned so that the plane of the face is upright.
A development tool: it needs scikit-image and SciPy, the run time does not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from skimage.data import astronaut

from ofer_models.head.rigid import best_rotation
from ofer_models.perception.landmarks import FaceLandmarker, Roi

FACE = Roi(224.0, 124.0, 163.0, 0.06)  # of the astronaut
EYE_DISTANCE = 0.635  # 35.2 px of ArcFace's template in half crops
FOREHEAD, CHIN = 10, 152


def mirror_partners(points: np.ndarray, flipped: np.ndarray) -> np.ndarray:
    """(P,) index of each point's partner on the other side of the face.

    points, flipped: (P, 3) landmarks of a picture and of its left-right flip, the latter's x negated.
    """
    points, flipped = points - points.mean(axis=0), flipped - flipped.mean(axis=0)
    partner = linear_sum_assignment(((points[:, None] - flipped[None]) ** 2).sum(axis=-1))[1]
    if not np.array_equal(partner[partner], np.arange(len(points))):
        raise RuntimeError("the landmarks of the flipped picture do not pair up; use a more frontal picture")
    return partner


def symmetric(points: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """`points` (P, 3) averaged with their mirror image; centred, mirror plane x = 0."""
    for _ in range(10):  # converges: each round is symmetric about a plane that is nearer to x = 0
        points = points - points.mean(axis=0)
        mirrored = points[partner] * [-1, 1, 1]
        average = (points + mirrored @ best_rotation(mirrored, points)[0]) / 2
        normal = np.linalg.svd(average - average[partner])[2][0]
        points = average @ _rotation_to_x(normal)
    return points


def _rotation_to_x(normal: np.ndarray) -> np.ndarray:
    """Smallest rotation (3, 3), for row vectors, that carries the unit vector `normal` to the x axis."""
    normal = normal * np.sign(normal[0])
    axis = np.cross(normal, [1, 0, 0])
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return (np.eye(3) + skew + skew @ skew / (1 + normal[0])).T


def main() -> None:
    landmarker, picture = FaceLandmarker(), astronaut()
    points = landmarker.locate(picture, FACE).points.astype(np.float64)
    mirrored_face = replace(FACE, x=picture.shape[1] - 1 - FACE.x, angle=-FACE.angle)
    flipped = landmarker.locate(np.ascontiguousarray(picture[:, ::-1]), mirrored_face).points * [-1, 1, 1]
    points = symmetric(points, mirror_partners(points, flipped))
    down = points[CHIN] - points[FOREHEAD]
    pitch = np.arctan2(down[2], down[1])
    c, s = np.cos(pitch), np.sin(pitch)
    points = points @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    eyes = (points[[33, 133]].mean(axis=0), points[[263, 362]].mean(axis=0))
    points *= EYE_DISTANCE / np.linalg.norm(eyes[1] - eyes[0])
    path = Path(__file__).resolve().parents[2] / "perception" / "canonical_face.npz"
    np.savez_compressed(path, points=points.astype(np.float32), origin="MediaPipe 0.10.21 on skimage.data.astronaut()")
    print(f"wrote {path}: {len(points)} points")


if __name__ == "__main__":
    main()
