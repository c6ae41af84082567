"""Several cameras through one set of stages: the faces of each are those that it has alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from dataset_support import face_picture

from ofer_models.camera_batch import CameraFrame, SharedStages, process_together
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.perception.landmarks import FaceLandmarker, Roi
from ofer_models.perception.mediapipe_graph import SharedGraph
from ofer_models.pipeline import FacePipeline
from ofer_models.pipeline_settings import PipelineSettings

SETTINGS = PipelineSettings(hypotheses=3, candidates=4, seed=2)


@pytest.fixture(scope="module")
def shared():
    stages = SharedStages()
    yield stages
    stages.close()


def test_faces_are_those_of_a_camera_alone(open_bundle, shared):
    pictures = [face_picture(6 * number)[..., ::-1].copy() for number in range(3)]
    pictures[1] = np.full_like(pictures[1], 90)  # nobody there
    together = [shared.pipeline(open_bundle, SETTINGS) for _ in pictures]
    alone = [FacePipeline(open_bundle, SETTINGS) for _ in pictures]
    assert len({pipeline.stages_key for pipeline in together}) == 1
    for stamp in (0.0, 0.2):
        frames = [CameraFrame(one, rgb, stamp) for one, rgb in zip(together, pictures, strict=True)]
        for faces, pipeline, rgb in zip(process_together(frames), alone, pictures, strict=True):
            expected = pipeline(rgb, stamp)
            assert [face.id for face in faces] == [face.id for face in expected]
            for face, other in zip(faces, expected, strict=True):
                np.testing.assert_allclose(face.expressions, other.expressions, atol=1e-3)
                np.testing.assert_allclose(face.translation, other.translation, atol=1e-3)
                np.testing.assert_allclose(face.shape, other.shape, atol=1e-3)
    assert together[0].timings.keys() >= {"perception", "expression", "pose", "total"}


def test_each_camera_sees_through_its_own_lens(open_bundle, shared):
    """One picture by lenses of 40 and 90 degrees: nearer by what the focal lengths differ in, as each has it alone."""
    picture = face_picture()[..., ::-1].copy()
    height, width = picture.shape[:2]
    long, wide = (Intrinsics.from_field_of_view(width, height, degrees) for degrees in (40, 90))
    skewed = replace(long, K=long.K + [[0, 40.0, 0], [0, 0, 0], [0, 0, 0]])
    lenses = (long, wide, skewed)
    together = [shared.pipeline(open_bundle, SETTINGS) for _ in lenses]
    alone = [FacePipeline(open_bundle, SETTINGS) for _ in lenses]
    for stamp in (0.0, 0.2):
        frames = [CameraFrame(one, picture, stamp, lens) for one, lens in zip(together, lenses, strict=True)]
        found = [face for (face,) in process_together(frames)]
        expected = [one(picture, stamp, lens)[0] for one, lens in zip(alone, lenses, strict=True)]
        for face, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(face.translation, other.translation, atol=1e-3)
            np.testing.assert_allclose(face.rotation, other.rotation, atol=1e-3)
            np.testing.assert_allclose(face.expressions, other.expressions, atol=1e-3)
    assert found[0].translation[2] > 2 * found[1].translation[2]


def test_steps_are_each_cameras_own_on_the_same_networks(open_bundle, shared):
    """Of three, one is set to five steps while it works and one begins so: as each is alone, and drawn together."""
    steps, picture = (None, None, 5), face_picture()[..., ::-1].copy()
    together = [shared.pipeline(open_bundle, replace(SETTINGS, steps=count)) for count in steps]
    alone = [FacePipeline(open_bundle, replace(SETTINGS, steps=count)) for count in steps]
    assert len({id(one._stages.expression_context) for one in together}) == 1
    for stamp in (0.0, 0.2):
        found = [faces[0] for faces in process_together([CameraFrame(one, picture, stamp) for one in together])]
        expected = [one(picture, stamp)[0] for one in alone]
        for face, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(face.expressions, other.expressions, atol=1e-3)
        together[1].set_steps(5)
        alone[1].set_steps(5)
    assert np.abs(found[1].expressions - found[0].expressions).max() > 0.01
    assert together[0].stages_key != together[1].stages_key == together[2].stages_key
    with pytest.raises(ValueError, match="steps"):
        shared.pipeline(open_bundle, replace(SETTINGS, steps=2))


def test_cameras_share_as_many_graphs_as_threads_look_for_faces(open_bundle, monkeypatch):
    started = []
    start = SharedGraph._start
    monkeypatch.setattr(SharedGraph, "_start", lambda self: started.append(self) or start(self))
    stages, picture = SharedStages(), face_picture()[..., ::-1].copy()
    cameras = [stages.pipeline(open_bundle, SETTINGS) for _ in range(4)]
    graphs = len(set(started))
    assert len(started) == graphs == 3  # two detectors and the landmarks, once
    with ThreadPoolExecutor(2) as pool:
        for stamp in (0.0, 0.2):
            answers = process_together([CameraFrame(one, picture, stamp) for one in cameras], pool)
            assert [len(faces) for faces in answers] == [1] * len(cameras)
    assert len(started) <= 2 * graphs
    stages.close()


def test_a_graph_that_fails_is_not_run_again(monkeypatch):
    landmarker, picture = FaceLandmarker(), face_picture()[..., ::-1].copy()
    broken, _ = landmarker._graph._idle[0]
    monkeypatch.setattr(broken, "process", lambda inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        landmarker(picture, Roi(100.0, 100.0, 150.0, 0.0))
    landmarker(picture, Roi(100.0, 100.0, 150.0, 0.0))
    assert [graph is broken for graph, _ in landmarker._graph._idle] == [False]


def test_a_frame_that_raises_changes_nothing_for_the_others(open_bundle, shared):
    good, bad = (shared.pipeline(open_bundle, SETTINGS) for _ in range(2))
    picture = face_picture()[..., ::-1].copy()
    faces, error = process_together([CameraFrame(good, picture, 0.0), CameraFrame(bad, picture, float("nan"))])
    assert len(faces) == 1 and isinstance(error, ValueError)
    failing = bad._method.identify
    bad._method.identify = lambda *arguments: 1 / 0
    faces, error = process_together([CameraFrame(good, picture, 0.1), CameraFrame(bad, picture, 0.1)])
    bad._method.identify = failing
    assert len(faces) == 1 and isinstance(error, ZeroDivisionError)


def test_networks_are_not_taken_from_under_a_draw(open_bundle):
    begun, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    shared = SharedStages()
    pipeline = shared.pipeline(open_bundle, replace(SETTINGS, background=True))
    runner, runtime = pipeline._identities._runner, pipeline._stages.runtime
    close, draw = runtime.close, runner._draw

    def drawn(request):
        begun.set()
        assert go_on.wait(120) and not closed.is_set()
        return draw(request)

    runner._draw, runtime.close = drawn, lambda: closed.set() or close()
    pipeline(face_picture()[..., ::-1].copy(), 0.0)
    assert begun.wait(60)
    closing = threading.Thread(target=shared.close)
    closing.start()
    assert not closed.wait(0.05)
    go_on.set()
    closing.join(60)
    assert closed.is_set()
