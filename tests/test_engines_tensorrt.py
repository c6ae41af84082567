"""Running engines, with stand-ins for the GPU and for TensorRT's objects; everything between them is the real thing.

The stand-in device keeps its memory on the host and does queued work at `synchronize`, captured work at `launch` and
with the addresses of the capture: what a real one does.
"""

from __future__ import annotations

import ctypes
import enum
import math

import numpy as np
import pytest
import torch
from recipe import recipe_state, relative_error

from ofer_models.bundle.manifest import BundleError
from ofer_models.bundle.tensors import ANY, GraphSpec, StageError
from ofer_models.files.hashing import sha256_of
from ofer_models.runtime import backend as choice
from ofer_models.runtime import engine_cache
from ofer_models.runtime.engine_cache import EngineKey, Runtime
from ofer_models.runtime.onnxruntime_backend import OnnxRuntimeBackend, OnnxStage
from ofer_models.runtime.solvers import solver_table
from ofer_models.runtime.stages import StageSet
from ofer_models.runtime.tensorrt.backend import TensorRtBackend
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.export import export_sampler

HERE = Runtime("tensorrt_rtx", "1.7.1", ("sm86",))
WIDTH, CONTEXT = 7, 12


class Mode(enum.Enum):
    INPUT, OUTPUT = 1, 2


class Kind(enum.Enum):
    FLOAT, HALF = 1, 2


def view(pointer, count):
    return np.frombuffer((ctypes.c_float * count).from_address(pointer), np.float32)


class HostDevice:
    """Device memory is host memory; NaN until written. Counts allocations and launches."""

    stream = 7

    def __init__(self):
        self.memory, self.queue, self.recording, self.launches = [], [], None, 0

    def activate(self):
        pass

    def allocate(self, size):
        assert self.recording is None, "a capture forbids allocations"
        array = np.full(size // 4 + 64, np.nan, np.float32)
        self.memory.append(array)
        return array.ctypes.data + -array.ctypes.data % 256 if size else array.ctypes.data

    def pinned(self, shape):
        return np.full(shape, np.nan, np.float32)

    def do(self, work):
        (self.queue if self.recording is None else self.recording).append(work)

    def upload(self, target, source):
        self.do(lambda: view(target, source.size).__setitem__(..., source.ravel()))

    def download(self, target, source):
        self.do(lambda: target.ravel().__setitem__(..., view(source, target.size)))

    def gather_rows(self, target, source, rows, width, pitch):
        def copy():
            for row in range(rows):
                ctypes.memmove(target + row * width, source + row * pitch, width)

        self.do(copy)

    def synchronize(self):
        for work in self.queue:
            work()
        self.queue = []

    def capture(self, work):
        self.recording = []
        work()
        graph, self.recording = self.recording, None
        return graph

    def launch(self, graph):
        self.launches += 1
        self.queue += graph


class HostEngine:
    """TensorRT's engine and execution context in one, computing with ONNX Runtime."""

    def __init__(self, path, device, kinds=None):
        self.stage, self.device, self.kinds = OnnxStage(path), device, kinds or {}
        self.names = [*self.stage.inputs, *self.stage.outputs]
        self.num_io_tensors = len(self.names)
        self.addresses, self.shapes = {}, {}

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return Mode.INPUT if name in self.stage.inputs else Mode.OUTPUT

    def get_tensor_dtype(self, name):
        return self.kinds.get(name, Kind.FLOAT)

    def get_tensor_shape(self, name):
        dims = (self.stage.inputs | self.stage.outputs)[name]
        return [-1 if isinstance(dim, str) else dim for dim in dims]

    def create_execution_context(self):
        return HostEngine(self.stage.path, self.device)

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name, pointer):
        assert pointer % 256 == 0, "TensorRT wants aligned addresses"
        self.addresses[name] = pointer

    def execute_async_v3(self, stream):
        assert stream == self.device.stream and self.addresses.keys() == set(self.names)
        addresses = dict(self.addresses)

        def run():
            given = {n: view(addresses[n], math.prod(s)).reshape(s).copy() for n, s in self.shapes.items()}
            for name, array in self.stage(**given).items():
                view(addresses[name], array.size)[...] = array.ravel()

        self.device.do(run)
        return True


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
        "cond": ({"context": ("F", CONTEXT), "timesteps": ("K",)}, {"modulation": ("F", "K", ANY)}),
        "step": ({"x": samples, "x0_prev": samples, "modulation": ("F", ANY), "coefficients": (5,)},
                 {"x_next": samples, "x0": samples}),
    }  # fmt: skip
    for path in files.values():
        profile = {"F": (1, 1, 3), "N": (1, 4, 8), "K": (1, 5, 20)}
        key = EngineKey(path.name, sha256_of(path), "tensorrt_rtx", "1.7.1", ("sm86",), "fp16", profile)
        engine_cache.write(tmp_path, key, b"plan of " + path.name.encode(), {}, 1.0)
    return {part: GraphSpec(files[part], *tensors[part]) for part in files}


@pytest.fixture()
def device():
    return HostDevice()


@pytest.fixture()
def backend(files, tmp_path, device):
    def deserialise(path):
        return HostEngine(files[path.name.split(".")[0].removeprefix("expgen_")], device)

    return TensorRtBackend(tmp_path, HERE, device, deserialise)


def inputs(faces, samples, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (faces, CONTEXT), (faces, samples, WIDTH)
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


@pytest.mark.parametrize(("solver", "steps"), [("dpmpp_2m", 5), ("ddim", 6), ("ddpm", 5)])
def test_a_captured_loop_gives_what_the_session_loop_gives(graphs, backend, device, solver, steps):
    expected = OnnxRuntimeBackend().sampler(graphs["cond"], graphs["step"])
    sampler, table = backend.sampler(graphs["cond"], graphs["step"]), solver_table(solver, steps)
    for faces, samples, seed in ((1, 4, 0), (3, 2, 1), (1, 4, 2), (1, 4, 2)):
        context, noise = inputs(faces, samples, seed)
        found = sampler.sample(context, noise, table, np.random.default_rng(9))
        again = expected.sample(context, noise, table, np.random.default_rng(9))
        assert relative_error(found, again) < 1e-5
    if solver != "ddpm":
        assert device.launches == 4  # one graph a call
        allocated = len(device.memory)
        sampler.sample(*inputs(1, 4, 5), table)
        assert len(device.memory) == allocated  # buffers are reused


def test_a_stage_runs_captured_at_every_size(graphs, backend, device):
    stage, expected = backend.load(graphs["cond"]), OnnxRuntimeBackend().load(graphs["cond"])
    for faces, steps in ((1, 2), (3, 7), (1, 2)):
        arrays = {"context": inputs(faces, 1, faces)[0], "timesteps": np.linspace(999, 0, steps, dtype=np.float32)}
        found = stage(**arrays)
        assert relative_error(found["modulation"], expected(**arrays)["modulation"]) < 1e-6
    assert device.launches == 3
    kept = found["modulation"].copy()
    stage(context=inputs(1, 1, 8)[0], timesteps=arrays["timesteps"])
    np.testing.assert_array_equal(found["modulation"], kept)  # results are the caller's own


def test_sizes_beyond_the_engine_are_refused(graphs, backend):
    stage = backend.load(graphs["cond"])
    with pytest.raises(StageError, match=r"expgen_cond\.\w+\.engine was built for F = 1\.\.3, asked for 4"):
        stage(context=inputs(4, 1)[0], timesteps=np.zeros(2, np.float32))
    with pytest.raises(StageError, match="missing timesteps"):
        stage(context=inputs(1, 1)[0])


def test_an_engine_whose_tensors_differ_from_the_manifest_is_refused(graphs, backend, files, device):
    cond = graphs["cond"]
    wrong = GraphSpec(cond.path, {"context": ("F", 9), "timesteps": ("K",)}, cond.outputs)
    with pytest.raises(StageError, match=r"\.engine: input 'context' is \(F, 12\), the manifest says \(F, 9\)"):
        backend.load(wrong)
    backend._deserialise = lambda path: HostEngine(files["cond"], device, {"timesteps": Kind.HALF})
    with pytest.raises(StageError, match="'timesteps' is Kind.HALF, should be float32"):
        backend.load(cond)
    backend._deserialise = lambda path: None
    with pytest.raises(StageError, match="TensorRT refuses it; run `ofer build"):
        backend.load(cond)


def test_the_node_is_told_which_command_builds_a_missing_engine(open_bundle, tmp_path, device, monkeypatch):
    """Through the same door as the node: a bundle's stages with backend tensorrt."""
    backend = TensorRtBackend(tmp_path, HERE, device, lambda path: None)
    monkeypatch.setattr("ofer_models.runtime.stages.open_backend", lambda *_: backend)
    said = rf"identity_context\.onnx has no engine for sm86; run `ofer build --bundle {tmp_path}`"
    with pytest.raises(BundleError, match=said):
        StageSet(open_bundle, backend="tensorrt")


def test_auto_takes_tensorrt_only_with_gpu_and_engines(open_bundle, monkeypatch):
    chosen = []
    monkeypatch.setattr("ofer_models.runtime.tensorrt.backend.TensorRtBackend.here", lambda path: chosen.append(path))
    present = {"engines": True, "tensorrt": True, "gpu": True}
    monkeypatch.setattr(engine_cache, "entries", lambda path, suffixes: [1] if present["engines"] else [])
    monkeypatch.setattr("ofer_models.runtime.tensorrt.api.installed", lambda: present["tensorrt"] and "tensorrt_rtx")
    monkeypatch.setattr("ofer_models.runtime.tensorrt.cuda_driver.gpu_present", lambda: present["gpu"])
    choice.open_backend("auto", open_bundle)
    assert chosen == [open_bundle.path]
    for missing in present:
        present[missing] = False
        assert choice.open_backend("auto", open_bundle).name == "onnxruntime"
        present[missing] = True
    assert len(chosen) == 1


def test_without_a_gpu_tensorrt_says_so(open_bundle):
    from ofer_models.runtime.tensorrt.cuda_driver import gpu_present

    if gpu_present():
        pytest.skip("there is a GPU")
    with pytest.raises(BundleError, match="TensorRT is not installed|no NVIDIA GPU here|cannot be imported"):
        StageSet(open_bundle, backend="tensorrt")
