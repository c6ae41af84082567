"""Where on the open head MediaPipe sees its points when the head is dressed as people are.

The head's own embedding was found on plainly painted heads. On people's skin, under brows of hair, MediaPipe means
places a few millimetres lower on brows and nose, on photographs as on renderings. A network whose points are to stand
beside MediaPipe's has to mean the same places:

    python -m ofer_models.workshop.head.people_points out/eyes

draws people with the assets in that folder (fetched there) and writes the file that `PeopleSource` reads, and into the
open bundle's head the landmarks that pictures are compared with.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ofer_models.bundle.manifest import HEAD
from ofer_models.files.arrays import read_npz
from ofer_models.head.landmark_sets import N_MEDIAPIPE, ON_PEOPLE, OUTER_CORNERS
from ofer_models.head.model import HeadModel
from ofer_models.perception.crops import canonical_face
from ofer_models.tracking.spread import REGIONS
from ofer_models.workshop.bundle_writer import set_head
from ofer_models.workshop.head.face_parts import PART_POINTS, part_triangles
from ofer_models.workshop.pictures.people.assets import load_library
from ofer_models.workshop.pictures.people.source import SEEN_POINTS, PeopleSource, Picture
from ofer_models.workshop.pictures.people.view import placed, project

_BUNDLE = Path("engines/open")
_SEED, _PICTURES = 3, 500
_FRONTAL = 20.0  # degrees of yaw up to which a picture counts
_FARTHEST = 0.006  # metres in depth; a point that would move further lies where the surface turns away: it stays


def find_points(head: HeadModel, source: PeopleSource, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (468,) and barycentric coordinates (468, 3) of the places, from `count` pictures of a source; both
    sides of the face are taken together.
    """
    from ofer_models.perception.landmarks import FaceLandmarker, Roi

    landmarker, offsets = FaceLandmarker(), []
    for index in range(count):
        picture = source.picture(index)
        if _yaw(picture) > _FRONTAL:
            continue
        vertices = head.decode(picture.betas, picture.expression, picture.jaw)
        true = project(placed(head.landmarks(vertices, "mediapipe"), picture.pose), picture.camera)[1]
        low, high = true.min(0), true.max(0)
        found = landmarker.locate(picture.image, Roi(*((low + high) / 2), 1.5 * float((high - low).max()), 0.0))
        if found is not None:
            off = _in_face_axes(found.points[:N_MEDIAPIPE, :2] - true, true)
            offsets.append(np.where(picture.visible[:N_MEDIAPIPE, None], off, np.nan))
    off = np.nanmedian(np.stack(offsets), axis=0)
    face = canonical_face()[:N_MEDIAPIPE]
    mirror = np.linalg.norm(face[:, None] * [-1, 1, 1] - face, axis=-1).argmin(1)
    return moved(head, (off + off[mirror] * [-1, 1]) / 2)


def moved(head: HeadModel, off: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (468,) and barycentric coordinates (468, 3) of the head's points, moved by off (468, 2), to the left
    side of the face and down it in parts of the distance between the outer corners of the eyes, each on its own lip or
    lid."""
    places = head.landmarks(head.v_template, "mediapipe")
    size = float(np.linalg.norm(np.subtract(*places[list(OUTER_CORNERS)])))
    target = places + np.pad(size * off * [1, -1], ((0, 0), (0, 1)))
    skin = ~np.isin(head.faces, head.masks["eyes"]).any(1) & ~np.isin(head.faces, head.masks["inner_mouth"]).all(1)
    allowed = dict.fromkeys(range(N_MEDIAPIPE), skin)
    for part, own in part_triangles(head).items():
        allowed |= dict.fromkeys(PART_POINTS[part], skin & own)
    embedding = head.embeddings["mediapipe"]
    triangle, bary = embedding.triangle.copy(), embedding.bary.copy()
    for point, triangles in allowed.items():
        found = _before(target[point], head, np.flatnonzero(triangles))
        if found is not None:
            triangle[point], bary[point] = found
    return triangle, bary


def _before(place: np.ndarray, head: HeadModel, usable: np.ndarray) -> tuple[int, np.ndarray] | None:
    """The triangle, of those usable (n,), and the barycentric coordinates (3,) of what lies straight before or behind a
    place (3,) on the mean head, nearest to it; None where that is further than _FARTHEST, or nothing."""
    corners = head.v_template[head.faces[usable]].astype(np.float64)
    first, second, away = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], place - corners[:, 0]
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    front = np.flatnonzero(area > 1e-12)  # m^2, seen from before
    u = (away[:, 0] * second[:, 1] - away[:, 1] * second[:, 0])[front] / area[front]
    v = (first[:, 0] * away[:, 1] - first[:, 1] * away[:, 0])[front] / area[front]
    inside = (u >= 0) & (v >= 0) & (u + v <= 1)
    if not inside.any():
        return None
    bary = np.stack([1 - u - v, u, v], axis=-1)[inside]
    rows = front[inside]
    off = np.abs((bary * corners[rows, :, 2]).sum(-1) - place[2])
    best = off.argmin()
    return (int(usable[rows[best]]), bary[best].astype(np.float32)) if off[best] <= _FARTHEST else None


def _yaw(picture: Picture) -> float:
    return abs(float(np.degrees(np.arctan2(picture.pose[0, 2], -picture.pose[2, 2]))))


def _in_face_axes(off: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Offsets (n, 2) px along the line through the outer corners of the eyes and across it, in parts of its length."""
    right, left = points[list(OUTER_CORNERS)]
    across = (left - right) / np.square(left - right).sum()
    return np.stack([off @ across, off @ [-across[1], across[0]]], axis=-1)


def tracked(head: HeadModel, triangle: np.ndarray, bary: np.ndarray) -> dict[str, np.ndarray]:
    """The head's arrays of the landmarks that a picture's points are compared with: those places, but the lips' of its
    own embedding, with which mouths are read better, on photographs as on Open-545 (docs/photographs.md)."""
    lips, own = list(REGIONS["mouth"]), head.embeddings["mediapipe"]
    triangle, bary = triangle.astype(np.int64), bary.astype(np.float32)
    triangle[lips], bary[lips] = own.triangle[lips], own.bary[lips]
    return {f"{ON_PEOPLE}_triangle": triangle, f"{ON_PEOPLE}_bary": bary}


def main(assets: Path) -> None:
    """Write the file beside `PeopleSource`, and the landmarks into the head of the open bundle."""
    path = _BUNDLE / HEAD
    head = HeadModel.load(path)
    source = PeopleSource(head, load_library(assets), _SEED, occluded_share=0.0)
    triangle, bary = find_points(head, source, _PICTURES)
    np.savez_compressed(SEEN_POINTS, triangle=triangle.astype(np.int32), bary=bary.astype(np.float32))
    np.savez_compressed(path, **(read_npz(path) | tracked(head, triangle, bary)))
    set_head(_BUNDLE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
