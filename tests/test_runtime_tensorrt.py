"""Running engines on `strict_device`, which enforces the rules of a GPU and of TensorRT; the rest is the real thing."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from recipe import recipe_state, relative_error
from strict_device import Status, StrictDriver
from strict_tensorrt import Kind, StrictTensorRt

from ofer_models.bundle.manifest import BundleError
from ofer_models.bundle.tensors import ANY, GraphSpec, StageError
from ofer_models.files.hashing import sha256_of
from ofer_models.runtime import engine_cache
from ofer_models.runtime.engine_cache import EngineKey, Runtime
from ofer_models.runtime.onnxruntime_backend import OnnxRuntimeBackend
from ofer_models.runtime.solvers import solver_table
from ofer_models.runtime.stages import StageSet
from ofer_models.runtime.tensorrt import lane
from ofer_models.runtime.tensorrt.backend import TensorRtBackend
from ofer_models.runtime.tensorrt.cuda_driver import CudaDevice, current_gpu
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.export import export_sampler

HERE = Runtime("tensorrt_rtx", "1.7.1", ("sm86",))
WIDTH, CONTEXT = 7, 12
PROFILE = {"F": (1, 3, 3), "N": (1, 4, 8), "K": (1, 5, 20)}
PROFILES = [{"F": (1, 1, 1), "N": (1, 4, 4), "K": (1, 5, 5)}, PROFILE]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.manual_seed(0)
    net = Denoiser(WIDTH, (WIDTH, 8, 8), CONTEXT, maps=2, heads=2, head_dim=4, time=16).eval()
    net.load_official(recipe_state(net.official_slots(), seed=3))
    with torch.no_grad():
        net.leave.weight *= 0.3
    return export_sampler(net, tmp_path_factory.mktemp("sampler"), "expgen")


@pytest.fixture()
def graphs(files, tmp_path):
    """Graphs with engines in a folder of their own, as `ofer build` leaves them."""
    samples = ("F", "N", WIDTH)
    tensors = {
        "cond": ({"context": ("F", CONTEXT), "timesteps": ("K",)}, {"modulation": ("K", "F", ANY)}),
        "step": ({"x": samples, "x0_prev": samples, "modulation": ("F", ANY), "coefficients": (5,)},
                 {"x_next": samples, "x0": samples}),
    }  # fmt: skip
    for path in files.values():
        key = EngineKey(path.name, sha256_of(path), "tensorrt_rtx", "1.7.1", ("sm86",), "fp16", PROFILE)
        engine_cache.write(tmp_path, key, b"plan of " + path.name.encode(), {}, 1.0)
    return {part: GraphSpec(files[part], *tensors[part]) for part in files}


@pytest.fixture()
def driver():
    """The device's driver; whatever else a test looks at, no rule may have been broken."""
    driver = StrictDriver()
    yield driver
    assert driver.broken == []


@pytest.fixture()
def trt(driver):
    return StrictTensorRt(driver)


@pytest.fixture()
def backend(files, tmp_path, driver, trt):
    by_name = {path.stem: path for path in files.values()}

    def deserialise(path):
        return trt.engine(by_name[path.name.split(".")[0]], PROFILES)

    return TensorRtBackend(tmp_path, HERE, trt, trt.messages, CudaDevice(driver), deserialise)


def inputs(faces, samples, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (faces, CONTEXT), (faces, samples, WIDTH)
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


@pytest.mark.parametrize(("solver", "steps"), [("dpmpp_2m", 5), ("ddim", 6), ("ddpm", 5), ("dpmpp_2m", 3)])
def test_a_captured_loop_gives_what_the_session_loop_gives(graphs, backend, driver, solver, steps):
    expected = OnnxRuntimeBackend().sampler(graphs["cond"], graphs["step"])
    sampler, table = backend.sampler(graphs["cond"], graphs["step"]), solver_table(solver, steps)
    for faces, samples, seed in ((1, 4, 0), (3, 2, 1), (2, 4, 3), (1, 4, 2), (1, 4, 2)):
        context, noise = inputs(faces, samples, seed)
        found = sampler.sample(context, noise, table, np.random.default_rng(9))
        again = expected.sample(context, noise, table, np.random.default_rng(9))
        assert relative_error(found, again) < 1e-5
    if solver != "ddpm":
        assert driver.calls["cuGraphLaunch"] >= 5  # one graph a call
        allocated = driver.calls["cuMemAlloc"]
        sampler.sample(*inputs(1, 4, 5), table)
        assert driver.calls["cuMemAlloc"] == allocated  # buffers are reused
    backend.close()
    assert driver.empty


def test_a_stage_runs_captured_at_every_size(graphs, backend, driver):
    stage, expected = backend.load(graphs["cond"]), OnnxRuntimeBackend().load(graphs["cond"])
    for faces, steps in ((1, 2), (3, 7), (2, 7), (1, 2)):
        arrays = {"context": inputs(faces, 1, faces)[0], "timesteps": np.linspace(999, 0, steps, dtype=np.float32)}
        found = stage(**arrays)
        assert found["modulation"].shape[:2] == (steps, faces)
        assert relative_error(found["modulation"], expected(**arrays)["modulation"]) < 1e-6
    kept = found["modulation"].copy()
    stage(context=inputs(1, 1, 8)[0], timesteps=arrays["timesteps"])
    np.testing.assert_array_equal(found["modulation"], kept)  # results are the caller's own


def test_few_faces_run_on_an_engine_that_was_built_for_more(graphs, backend, files, tmp_path, trt):
    """`--batch 2..3`: one face runs beside an empty row."""
    profile = PROFILE | {"F": (2, 3, 3)}
    cond = graphs["cond"]
    for entry in engine_cache.entries(tmp_path):
        engine_cache.remove(tmp_path, entry.key)
    key = EngineKey(cond.path.name, sha256_of(cond.path), "tensorrt_rtx", "1.7.1", ("sm86",), "fp16", profile)
    engine_cache.write(tmp_path, key, b"plan", {}, 1.0)
    backend._deserialise = lambda path: trt.engine(files["cond"], [profile])
    arrays = {"context": inputs(1, 1)[0], "timesteps": np.zeros(2, np.float32)}
    found = backend.load(cond)(**arrays)["modulation"]
    assert found.shape[:2] == (2, 1)
    assert relative_error(found, OnnxRuntimeBackend().load(cond)(**arrays)["modulation"]) < 1e-6


def test_sizes_beyond_the_engine_are_refused(graphs, backend):
    stage = backend.load(graphs["cond"])
    with pytest.raises(StageError, match=r"expgen_cond\.\w+\.engine was built for F = 1\.\.3, asked for 4"):
        stage(context=inputs(4, 1)[0], timesteps=np.zeros(2, np.float32))
    with pytest.raises(StageError, match="missing timesteps"):
        stage(context=inputs(1, 1)[0])
    sampler = backend.sampler(graphs["cond"], graphs["step"])
    with pytest.raises(StageError, match=r"expgen_step\.\w+\.engine was built for N = 1\.\.8, asked for 9"):
        sampler.sample(*inputs(1, 9), solver_table("ddim", 4))


def test_an_engine_whose_tensors_differ_from_the_manifest_is_refused(graphs, backend, files, trt):
    cond = graphs["cond"]
    wrong = GraphSpec(cond.path, {"context": ("F", 9), "timesteps": ("K",)}, cond.outputs)
    with pytest.raises(StageError, match=r"\.engine: input 'context' is \(F, 12\), the manifest says \(F, 9\)"):
        backend.load(wrong)
    backend._deserialise = lambda path: trt.engine(files["cond"], PROFILES, kinds={"timesteps": Kind.HALF})
    with pytest.raises(StageError, match="'timesteps' is Kind.HALF, should be float32"):
        backend.load(cond)
    backend._deserialise, trt.messages.last = lambda path: None, "platform mismatch"
    with pytest.raises(StageError, match=r"TensorRT refuses it \(platform mismatch\); run `ofer build"):
        backend.load(cond)


class TestTwoThreads:
    """Frames on one thread, identities on another, on lanes of their own."""

    def samplers(self, backend, graphs):
        return [backend.sampler(graphs["cond"], graphs["step"], urgent) for urgent in (True, False)]

    def test_frames_have_the_higher_priority(self, backend, graphs, driver):
        self.samplers(backend, graphs)
        assert sorted(stream.priority for stream in driver.streams.values()) == [-5, 0]

    def test_neither_speaks_while_the_other_captures(self, backend, graphs, driver):
        """Every size is new: captures on both sides all the time. Before, launches went into the other's graph."""
        expected = OnnxRuntimeBackend().sampler(graphs["cond"], graphs["step"])
        problems, driver.jitter = [], 0.0005

        def draw(sampler, seed):
            try:
                for i in range(20):
                    table = solver_table("dpmpp_2m", 3 + (i + seed) % 17)
                    context, noise = inputs(1 + i % 3, 1 + i % 8, seed + i)
                    found = sampler.sample(context, noise, table)
                    assert relative_error(found, expected.sample(context, noise, table)) < 1e-5
            except BaseException as error:
                problems.append(error)

        threads = [
            threading.Thread(target=draw, args=(sampler, 7 * i))
            for i, sampler in enumerate(self.samplers(backend, graphs))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert problems == []
        backend.close()
        assert driver.empty

    def test_a_draw_that_takes_long_holds_no_frame_up(self, backend, graphs, driver):
        """Neither a captured frame nor one that has to be captured first."""
        frames, identities = self.samplers(backend, graphs)
        table = solver_table("ddim", 4)
        identities.sample(*inputs(1, 4), table)
        [slow] = [stream for stream in driver.streams.values() if stream.priority == 0]
        slow.held.set()
        draw = threading.Thread(target=identities.sample, args=(*inputs(1, 4), table), daemon=True)
        draw.start()
        found = []

        def three_frames():
            for samples in (3, 3, 5):
                found.append(frames.sample(*inputs(2, samples), table).shape)

        stream = threading.Thread(target=three_frames, daemon=True)
        stream.start()
        stream.join(300)
        assert found == [(2, 3, WIDTH), (2, 3, WIDTH), (2, 5, WIDTH)]
        assert draw.is_alive() and slow.queue
        slow.held.clear()
        slow.go_on.set()
        draw.join(300)
        assert not draw.is_alive()


class TestMemory:
    def test_two_lanes_have_one_scratch_each(self, backend, graphs, driver):
        sampler = backend.sampler(graphs["cond"], graphs["step"])
        sampler.sample(*inputs(3, 8), solver_table("ddim", 20))
        before = driver.used
        for steps in range(3, 9):
            sampler.sample(*inputs(1, 2), solver_table("ddim", steps))
        small = 4 * (8 * 64 * 5 + 12 + 64 * 20 + 8 * 7 * 14) + 20 * 256
        assert driver.used - before < 6 * (small + 4 * 7 * sampler._stages[0].outputs["modulation"][-1])
        assert backend.memory == driver.used + sum(entry.size for entry in engine_cache.entries(backend._folder))

    def test_what_was_used_long_ago_goes_first(self, backend, graphs, driver, monkeypatch):
        monkeypatch.setattr(lane.Lane.__init__, "__defaults__", (4,))
        sampler = backend.sampler(graphs["cond"], graphs["step"])
        blocks = []
        for steps in (20, *range(3, 13)):
            sampler.sample(*inputs(1, 2), solver_table("ddim", steps))
            sampler.sample(*inputs(1, 2), solver_table("ddim", 20))  # stays
            blocks.append(len(driver.memory))
        assert len(driver.graphs) == 4 and max(blocks) == max(blocks[:4])
        captures = driver.calls["cuStreamBeginCapture"]
        sampler.sample(*inputs(1, 2), solver_table("ddim", 20))
        assert driver.calls["cuStreamBeginCapture"] == captures

    def test_a_larger_size_replaces_the_scratch_and_the_graphs_that_know_it(self, backend, graphs, driver):
        sampler, table = backend.sampler(graphs["cond"], graphs["step"]), solver_table("ddim", 4)
        expected = OnnxRuntimeBackend().sampler(graphs["cond"], graphs["step"])
        for samples in (2, 8, 2):
            found = sampler.sample(*inputs(1, samples), table)
            assert relative_error(found, expected.sample(*inputs(1, samples), table)) < 1e-5
        assert len(driver.graphs) == 2

    def test_a_gpu_that_is_full_is_told_and_nothing_is_lost(self, backend, graphs, driver):
        sampler, table = backend.sampler(graphs["cond"], graphs["step"]), solver_table("ddim", 4)
        sampler.sample(*inputs(1, 2), table)
        used = driver.used
        driver.fail_next["cuMemAlloc"] = Status.CUDA_ERROR_OUT_OF_MEMORY
        with pytest.raises(StageError, match="cuMemAlloc fails with CUDA_ERROR_OUT_OF_MEMORY"):
            sampler.sample(*inputs(1, 1), table)
        assert driver.used == used
        sampler.sample(*inputs(1, 1), table)

    def test_after_close_calls_are_refused(self, backend, graphs, driver):
        stage = backend.load(graphs["cond"])
        backend.close()
        backend.close()
        assert driver.empty and backend.memory == 0
        with pytest.raises(StageError, match="the GPU was given back"):
            stage(context=inputs(1, 1)[0], timesteps=np.zeros(2, np.float32))


class TestCaptureThatFails:
    def test_runs_uncaptured_and_says_why_once(self, backend, graphs, driver, trt, files, caplog):
        """TensorRT's own words, not the driver's 901 that follows from them; nothing leaks."""
        backend._deserialise = lambda path: trt.engine(
            files["cond" if "cond" in path.name else "step"], PROFILES, says="needs 7 bytes more"
        )
        sampler, table = backend.sampler(graphs["cond"], graphs["step"]), solver_table("ddim", 4)
        expected = OnnxRuntimeBackend().sampler(graphs["cond"], graphs["step"])
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                for samples in (2, 3):
                    found = sampler.sample(*inputs(2, samples), table)
                    assert relative_error(found, expected.sample(*inputs(2, samples), table)) < 1e-5
        [said] = [record.getMessage() for record in caplog.records]
        assert "runs call by call" in said and "needs 7 bytes more" in said and "901" not in said
        assert not driver.graphs and not driver.runs
        backend.close()
        assert driver.empty

    def test_an_engine_that_cannot_be_captured_is_asked_first(self, backend, graphs, driver, trt, files, caplog):
        backend._deserialise = lambda path: trt.engine(files["cond"], PROFILES, capturable=False)
        arrays = {"context": inputs(1, 1)[0], "timesteps": np.zeros(2, np.float32)}
        found = backend.load(graphs["cond"])(**arrays)["modulation"]
        assert relative_error(found, OnnxRuntimeBackend().load(graphs["cond"])(**arrays)["modulation"]) < 1e-6
        assert driver.calls["cuStreamBeginCapture"] == 0 and "TensorRT says that it cannot be" in caplog.text

    def test_a_graph_that_the_driver_refuses_is_thrown_away(self, backend, graphs, driver):
        driver.fail_next["cuGraphInstantiate"] = Status.CUDA_ERROR_OUT_OF_MEMORY
        stage = backend.load(graphs["cond"])
        stage(context=inputs(1, 1)[0], timesteps=np.zeros(2, np.float32))
        assert not driver.graphs and not driver.runs


class TestKernels:
    """TensorRT-RTX compiles for a size when it first runs, and keeps what it compiled beside the engine."""

    def test_the_next_start_finds_them(self, backend, graphs, tmp_path, trt, driver):
        arrays = {"context": inputs(1, 1)[0], "timesteps": np.zeros(2, np.float32)}
        backend.load(graphs["cond"])(**arrays)
        backend.settle()
        backend.close()
        [kept] = tmp_path.glob("*.kernels")
        assert kept.name.startswith("expgen_cond.") and kept.name.endswith(".engine.kernels")
        assert trt.compiled == {"expgen_cond.onnx": 1}
        again = TensorRtBackend(tmp_path, HERE, trt, trt.messages, CudaDevice(driver), backend._deserialise)
        again.load(graphs["cond"])(**arrays)
        assert trt.compiled == {"expgen_cond.onnx": 1}
        kept.write_bytes(b"of another driver")
        other = TensorRtBackend(tmp_path, HERE, trt, trt.messages, CudaDevice(driver), backend._deserialise)
        other.load(graphs["cond"])(**arrays)
        assert trt.compiled == {"expgen_cond.onnx": 2}

    def test_they_go_with_their_engine(self, backend, graphs, tmp_path):
        backend.load(graphs["cond"])(context=inputs(1, 1)[0], timesteps=np.zeros(2, np.float32))
        backend.settle()
        engine_cache.prune(tmp_path, {}, [])
        assert not list(tmp_path.iterdir())

    def test_where_they_cannot_be_kept_a_line_says_so(self, backend, graphs, monkeypatch, caplog):
        backend.load(graphs["cond"])(context=inputs(1, 1)[0], timesteps=np.zeros(2, np.float32))

        def refused(path, content):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("ofer_models.runtime.tensorrt.context.write_whole", refused)
        backend.settle()
        assert "Read-only file system" in caplog.text

    def test_native_tensorrt_has_none(self, graphs, tmp_path, driver, files):
        trt = StrictTensorRt(driver, "tensorrt", "10.3.0")
        for entry in engine_cache.entries(tmp_path):
            native = {"flavour": "tensorrt", "version": "10.3.0", "gpus": ("sm87 Orin",)}
            engine_cache.write(tmp_path, dataclasses.replace(entry.key, **native), b"plan", {}, 1.0)
        backend = TensorRtBackend(
            tmp_path, Runtime("tensorrt", "10.3.0", ("sm87", "sm87 Orin")), trt, trt.messages, CudaDevice(driver),
            lambda path: trt.engine(files["cond"], PROFILES),
        )  # fmt: skip
        backend.load(graphs["cond"])(context=inputs(1, 1)[0], timesteps=np.zeros(2, np.float32))
        backend.settle()
        assert not list(tmp_path.glob("*.kernels")) and driver.graphs


class TestBindings:
    def test_every_function_that_is_called_is_one_of_the_real_bindings(self, backend, graphs, driver):
        """With as many parameters as its own description says."""
        real = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
        called = Counter()

        class Listening:
            def __getattr__(self, name):
                value = getattr(driver, name)
                if not name.startswith("cu"):
                    return value

                def call(*arguments):
                    head = getattr(real, name).__doc__.strip().splitlines()[0]
                    parameters = [part for part in head[head.index("(") + 1 : head.rindex(")")].split(",") if part]
                    assert len(parameters) == len(arguments), head
                    called[name] += 1
                    return value(*arguments)

                return call

        backend._device.driver = Listening()
        sampler = backend.sampler(graphs["cond"], graphs["step"], urgent=False)
        sampler.sample(*inputs(1, 2), solver_table("ddim", 4))
        backend.sampler(graphs["cond"], graphs["step"]).sample(*inputs(1, 2), solver_table("ddim", 4))
        backend.close()
        current_gpu(Listening())
        assert len(called) > 25
        for kind in ("CUstream_flags", "CUevent_flags", "CUstreamCaptureMode", "CUdevice_attribute"):
            for member in getattr(driver, kind):
                assert int(getattr(getattr(real, kind), member.name)) == member, (kind, member)


def test_the_node_is_told_which_command_builds_a_missing_engine(open_bundle, tmp_path, driver, trt, monkeypatch):
    """Through the same door as the node: a bundle's stages with backend tensorrt."""
    backend = TensorRtBackend(tmp_path, HERE, trt, trt.messages, CudaDevice(driver), lambda path: None)
    monkeypatch.setattr("ofer_models.runtime.stages.open_backend", lambda *_: backend)
    said = rf"identity_context\.onnx has no engine for sm86; run `ofer build --bundle {tmp_path}`"
    with pytest.raises(BundleError, match=said):
        StageSet(open_bundle, backend="tensorrt")
