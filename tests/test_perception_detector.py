"""Detection on a real face, on synthetic placements of it and on pictures that hold none."""

from __future__ import annotations

import gc
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from ofer_models.perception.crops import overlap
from ofer_models.perception.detector import Detection, FaceDetector, suppress
from ofer_models.perception.landmarks import FaceLandmarker

PHOTOGRAPHS = sorted((Path(__file__).resolve().parents[2] / "shared" / "images").glob("*.jpg"))
FACE = np.array([178.0, 83.0, 94.0, 94.0])  # of the astronaut, by eye


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


def test_astronaut_is_one_face_with_keypoints_in_place(detector):
    (face,) = detector.detect(astronaut())
    assert overlap(face.box, FACE) > 0.8
    assert face.score > 0.8
    np.testing.assert_allclose(face.keypoints[:3], [[203, 99], [248, 101], [224, 125]], atol=12)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (3, 2), (480, 640)])
def test_pictures_without_a_face(detector, size):
    assert detector.detect(np.full((*size, 3), 128, np.uint8)) == []


def test_two_faces_of_different_size(detector):
    frame = np.full((480, 640, 3), 120, np.uint8)
    large, small = astronaut()[:320], cv2.resize(astronaut(), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    frame[160:, 320:] = large[:, 64:384]
    frame[:256, :256] = small
    found = detector.detect(frame)
    centres = sorted(tuple(face.box[:2] + face.box[2:] / 2) for face in found)
    np.testing.assert_allclose(centres, [[112, 65], [481, 290]], atol=12)


def test_an_8000_pixel_image_gives_full_size_coordinates(detector):
    huge = cv2.resize(astronaut(), (8000, 8000), interpolation=cv2.INTER_NEAREST)
    (face,) = detector.detect(huge)
    assert overlap(face.box, FACE * (8000 / 512)) > 0.8


@pytest.mark.parametrize("bad", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)])
def test_wrong_arrays_are_refused(detector, bad):
    with pytest.raises(ValueError, match="RGB image"):
        detector.detect(bad)


def test_suppression_keeps_the_best_of_each_face():
    def at(x, side, score):
        return Detection(np.array([x, 0.0, side, side]), score, np.zeros((6, 2)))

    kept = suppress([at(0, 100, 0.6), at(10, 100, 0.9), at(30, 20, 0.7), at(90, 100, 0.5)])
    assert [face.score for face in kept] == [0.9, 0.5]


@pytest.mark.skipif(not PHOTOGRAPHS, reason="the shared photographs are not here")
def test_a_face_in_each_shared_photograph(detector):
    counts = {path.stem: len(detector.detect(cv2.imread(str(path))[..., ::-1])) for path in PHOTOGRAPHS}
    assert counts == dict.fromkeys(counts, 1)


@pytest.mark.parametrize("make", [FaceDetector, FaceLandmarker])
def test_graphs_end_with_their_owner(make):
    owner = make()
    shared = getattr(owner, "_graphs", None) or [owner._graph]
    graphs = [graph for one in shared for graph, _ in one._idle]
    del shared
    assert all(graph._graph is not None for graph in graphs)
    del owner
    gc.collect()
    assert all(graph._graph is None for graph in graphs), "closed: each keeps 20 MB otherwise"
