"""The whole pipeline on a GPU with strict rules: warm-up, faces that come and go, identities on their own thread."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading

import numpy as np
import pytest
from strict_device import StrictDriver
from strict_tensorrt import StrictTensorRt, strict_backend

from ofer_models.bundle.manifest import LANDMARKS, STAGES, Bundle
from ofer_models.bundle.tensors import StageError
from ofer_models.perception.tracker import Track
from ofer_models.pipeline import FacePipeline
from ofer_models.pipeline_settings import PipelineSettings
from ofer_models.runtime.batches import batch_for, batches
from ofer_models.runtime.tensorrt import cuda_driver
from ofer_models.runtime.tensorrt.backend import TensorRtBackend, here
from ofer_models.tracking.load_plan import TIERS
from ofer_models.workshop.compile import build
from ofer_models.workshop.measure.speed import bench, gpu
from ofer_models.workshop.measure.speed.bench import StillFaces

FACES = 3
SMALL = PipelineSettings(hypotheses=3, candidates=6, steps=4, max_faces=FACES, background=True, latency_bound=50.0)
FRAME = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)


class ComingAndGoing:
    """Up to three faces; who is there changes every few frames, and whoever comes back is somebody new."""

    def __init__(self, seed: int = 0) -> None:
        self._rng, self._frames = np.random.default_rng(seed), 0
        self._places: list[Track] = StillFaces(FACES)(FRAME, 0.0)
        self._names = [f"f{place}" for place in range(FACES)]
        self._there = [True] * FACES

    def __call__(self, frame: np.ndarray, stamp: float) -> list[Track]:
        self._frames += 1
        if self._frames % 7 == 0:
            place = int(self._rng.integers(FACES))
            self._there[place] = not self._there[place]
            self._names[place] = f"f{self._frames}"
        return [
            dataclasses.replace(track, id=name)
            for track, name, there in zip(self._places, self._names, self._there, strict=True)
            if there
        ]

    def reset(self) -> None:
        """Nothing to forget."""


@pytest.fixture()
def driver():
    driver = StrictDriver()
    yield driver
    assert driver.broken == []


@pytest.fixture(scope="module")
def engines(open_bundle, tmp_path_factory):
    """The open bundle with engines for the GPU that is here."""
    try:
        here()
    except StageError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("engines") / "open"
    bundle = Bundle.load(shutil.copytree(open_bundle.path, folder, ignore=shutil.ignore_patterns("*.engine*")))
    build.build(build.Order(bundle, precision="fp32"))
    return bundle


@pytest.fixture(params=["strict", pytest.param("real", marks=pytest.mark.gpu)])
def opened(request):
    """A TensorRT backend on the open bundle, of a stand-in and, where there is one, of a GPU."""
    if request.param == "real":
        folder = request.getfixturevalue("engines").path
        return lambda: TensorRtBackend.here(folder)
    names = ("open_bundle", "tmp_path", "driver")
    bundle, folder, driver = (request.getfixturevalue(name) for name in names)
    return lambda: strict_backend(bundle, folder, driver, StrictTensorRt(driver))


def test_a_device_gives_what_the_cpu_gives(opened, open_bundle):
    """While faces come and go, and when all is closed nothing is held."""
    settings = dataclasses.replace(SMALL, background=False, latency_bound=0.0)
    backend = opened()
    ours, reference = (FacePipeline(open_bundle, settings, backend=one) for one in (backend, "onnxruntime"))
    for pipeline in (ours, reference):
        pipeline._perception.frontend = ComingAndGoing()
    ours.warm_up()
    for i in range(30):
        found, expected = ours(FRAME, i / 30), reference(FRAME, i / 30)
        assert [face.id for face in found] == [face.id for face in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.expressions, other.expressions, atol=2e-3)
    ours.close()
    assert backend.memory == 0


def test_two_threads_share_a_device(opened, open_bundle):
    """Frames that need no capture any more, and identities that are drawn all the time."""
    backend = opened()
    pipeline = FacePipeline(open_bundle, SMALL, backend=backend)
    pipeline._perception.frontend = ComingAndGoing(1)
    pipeline.warm_up()
    held = backend.memory
    for i in range(100):
        pipeline.reset_identity()
        for face in pipeline(FRAME, i / 30):
            assert np.isfinite(face.expressions).all() and np.isfinite(face.shape).all()
    assert backend.memory == held
    pipeline.close()
    assert backend.memory == 0


@pytest.fixture()
def make(open_bundle, tmp_path, driver):
    """A pipeline on the strict device."""
    trt = StrictTensorRt(driver)

    def pipeline(settings: PipelineSettings = SMALL) -> FacePipeline:
        backend = strict_backend(open_bundle, tmp_path, driver, trt)
        made = FacePipeline(open_bundle, settings, backend=backend)
        made._perception.frontend = ComingAndGoing()
        return made

    pipeline.trt = trt
    return pipeline


def test_faces_share_a_few_sizes():
    assert [batch_for(faces) for faces in range(1, 10)] == [1, 2, 4, 4, 8, 8, 8, 8, 16]
    assert batch_for(3, most=3) == 3 and batch_for(1, least=4) == 4
    assert batches(1) == [1] and batches(4) == [4, 2, 1] and batches(6) == [6, 4, 2, 1]


def test_nothing_is_captured_after_the_warm_up(make, driver):
    """Every tier of the load plan, every number of faces, identities on one and on several views."""
    pipeline, said = make(), []
    pipeline.warm_up(said.append)
    assert len(said) == 2 + len(batches(FACES)) * len({(tier.steps, tier.count(SMALL.hypotheses)) for tier in TIERS})
    assert said[0].startswith("warm-up 1 of ") and "MB on the GPU" in said[-1]
    before = driver.calls["cuStreamBeginCapture"], driver.calls["cuMemAlloc"], dict(make.trt.compiled)
    for i in range(120):
        pipeline.plan._level = (i // 20) % len(TIERS)
        pipeline(FRAME, i / 30)
    pipeline.close()
    after = driver.calls["cuStreamBeginCapture"], driver.calls["cuMemAlloc"], dict(make.trt.compiled)
    assert after == before
    assert driver.empty


def test_a_thousand_frames_break_no_rule_and_memory_returns(make, driver):
    """Without a warm-up: captures happen among the frames, while identities are drawn on the other thread."""
    for _ in range(2):
        pipeline = make()
        most = []
        for i in range(500):
            pipeline.plan._level = (i // 20) % len(TIERS)
            for face in pipeline(FRAME, i / 30):
                assert np.isfinite(face.expressions).all()
            most.append(driver.used)
        assert pipeline.gpu_memory > driver.used  # the engines count as well
        assert pipeline.status()["gpu_memory_mb"] == f"{pipeline.gpu_memory / 2**20:.1f}"
        assert driver.calls["cuGraphLaunch"] > 1000 and max(most[250:]) == most[-1]
        pipeline.close()
        assert driver.empty and not threading.current_thread().daemon
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ofer-identity")]


def test_other_numbers_of_hypotheses_and_steps_are_warmed_up_at_once(make, driver):
    pipeline = make()
    pipeline.warm_up()
    pipeline.set_hypotheses(4)
    pipeline.set_steps(3)
    captured = driver.calls["cuStreamBeginCapture"]
    for i in range(20):
        pipeline(FRAME, i / 30)
    pipeline.close()
    assert driver.calls["cuStreamBeginCapture"] == captured


class TestBench:
    """`ofer bench --gpu`, on the strict device and where there is none."""

    def test_one_json_holds_everything(self, open_bundle, tmp_path, driver, monkeypatch):
        monkeypatch.setattr(bench, "FACES", (1, 2))
        monkeypatch.setattr(bench, "BATCHES", (1, 2))
        monkeypatch.setattr(gpu, "_MOST_FACES", 2)
        backend = strict_backend(open_bundle, tmp_path, driver, StrictTensorRt(driver))

        def none():
            raise StageError("does not build for sm90")

        kept = []
        chosen = [gpu.Way("tensorrt", lambda: backend, True), gpu.Way("other", none, False)]
        figures = gpu.run(open_bundle, 3, lambda line: None, lambda so_far: kept.append(json.dumps(so_far)), chosen)
        one = figures["runtimes"]["tensorrt"]
        assert len(kept) == 3 and figures["runtimes"]["other"] == {"not_run": "does not build for sm90"}
        assert one["stages_ms"].keys() == {*STAGES, LANDMARKS} and one["networks_ms_per_face"].keys() == {"1", "2"}
        for title in ("frame_ms", "frame_ms_while_identities_are_drawn"):
            assert one[title].keys() == {"1", "2"} and all(value > 0 for value in one[title].values())
        assert one["warm_up_s"] > 0 and one["gpu_memory_mb"] > 1 and one["differences"]["vertices_mm"] < 0.1
        assert figures["reference"].keys() == {*STAGES, LANDMARKS}
        assert driver.empty

    def test_results_that_are_apart_stop_it(self, open_bundle, tmp_path, driver, monkeypatch):
        backend = strict_backend(open_bundle, tmp_path, driver, StrictTensorRt(driver))
        monkeypatch.setattr(gpu, "_MOST_FACES", 1)
        monkeypatch.setattr(bench, "HALF_TOLERANCE", -1.0)
        with pytest.raises(StageError, match="on tensorrt differs from fp32 on the CPU by"):
            gpu.run(open_bundle, 3, lambda line: None, chosen=[gpu.Way("tensorrt", lambda: backend, True)])
        assert driver.empty

    def test_without_a_gpu_it_goes_as_far_as_the_first_call_of_the_device(self, open_bundle):
        if cuda_driver.gpu_present():
            pytest.skip("there is a GPU")
        kept = []
        with pytest.raises(StageError, match=r"nothing ran on a GPU \(torch fp16: torch .* finds no GPU; tensorrt: "):
            gpu.run(open_bundle, 3, lambda line: None, lambda so_far: kept.append(json.dumps(so_far)))
        assert len(kept) == 5 and json.loads(kept[-1])["runtimes"].keys() == {
            "torch fp16", "tensorrt", "torch", "onnxruntime CUDA"
        }  # fmt: skip
