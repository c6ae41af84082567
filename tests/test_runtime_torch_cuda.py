"""The torch backend on a GPU, with a stand-in for captured graphs: everything but the device is the real thing.

The stand-in keeps what a capture does: results are written into the same memory every time, from the same inputs. That
all operators find their tensors on one device is tried with torch's own stand-in for tensors, which have a device and
no content.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from recipe import recipe_state, relative_error
from torch._subclasses.fake_tensor import FakeTensorMode

from ofer_models.bundle.graphs import graph_specs
from ofer_models.bundle.tensors import GraphSpec, StageError
from ofer_models.runtime.onnxruntime_backend import OnnxRuntimeBackend
from ofer_models.runtime.solvers import solver_table
from ofer_models.runtime.stages import StageSet
from ofer_models.runtime.torch import backend as torch_backend
from ofer_models.runtime.torch import cuda_graphs as torch_cuda
from ofer_models.runtime.torch.backend import TorchBackend, TorchStage
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.export import export_sampler

WIDTH, CONTEXT = 7, 12


class StrictGpu:
    """A device that is the host: memory is NaN until written, work is done at a launch.

    While one of its streams captures, any other use by any thread breaks a rule, as does work outside a stream.
    """

    device = torch.device("cpu")

    def __init__(self, fails=""):
        self.captures, self.launches, self.fails, self.released = 0, 0, fails, 0
        self.capturing, self.broken, self.streams = False, [], []
        self.alive = weakref.WeakSet()

    @property
    def memory(self):
        return sum(4 * block.numel() for block in self.alive)

    def graphs(self, urgent):
        self.streams.append(StrictGraphs(self, urgent))
        return self.streams[-1]

    def release(self):
        self.released += 1

    def use(self, what):
        if self.capturing:
            self.broken.append(f"{what} during a capture")
            raise AssertionError(self.broken[-1])


class StrictGraphs:
    device = StrictGpu.device

    def __init__(self, gpu, urgent):
        self.gpu, self.urgent, self.inside, self.held = gpu, urgent, False, threading.Event()

    def pinned(self, shape):
        self.gpu.use("an allocation")
        block = torch.zeros(tuple(shape))
        self.gpu.alive.add(block)
        return block

    @contextlib.contextmanager
    def queue(self):
        self.gpu.use("a launch")
        self.inside = True
        yield
        self.inside = False

    def capture(self, work):
        self.gpu.use("a capture")
        if self.gpu.fails:
            raise RuntimeError(f"{self.gpu.fails}\nand more")
        self.gpu.captures += 1
        self.gpu.capturing = True
        results = tuple(result.clone() for result in work())
        time.sleep(0.002)  # a chance for others to break in
        self.gpu.capturing = False
        for result in results:
            result.fill_(torch.nan)  # a capture computes nothing

        def launch():
            assert self.inside, "launched on another stream"
            self.gpu.use("a launch")
            self.gpu.launches += 1
            for target, value in zip(results, work(), strict=True):
                target.copy_(value)

        return launch, results

    def mark(self):
        self.gpu.use("an event")

    def wait(self):
        assert not self.inside
        self.gpu.use("a wait")

    def done(self):
        self.gpu.use("a query")
        return not self.held.is_set()


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch):
    """Fusing takes a minute; `test_a_flattened_stage_can_be_fused` does it once."""
    monkeypatch.setattr(torch_cuda, "_told", set())
    monkeypatch.setattr(torch_cuda, "compiled", lambda function, examples, name: function)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.manual_seed(0)
    net = Denoiser(WIDTH, (WIDTH, 8, 8), CONTEXT, maps=2, heads=2, head_dim=4, time=16).eval()
    net.load_official(recipe_state(net.official_slots(), seed=3))
    with torch.no_grad():
        net.leave.weight *= 0.3
    return {part: GraphSpec(path) for part, path in export_sampler(net, tmp_path_factory.mktemp("s"), "expgen").items()}


def inputs(faces, samples, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (faces, CONTEXT), (faces, samples, WIDTH)
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


@pytest.mark.parametrize(("solver", "steps"), [("dpmpp_2m", 5), ("ddim", 6), ("ddpm", 5)])
def test_a_captured_loop_gives_what_the_session_loop_gives(files, solver, steps):
    graphs, table = StrictGpu(), solver_table(solver, steps)
    expected = OnnxRuntimeBackend().sampler(files["cond"], files["step"])
    sampler = TorchBackend(gpu=graphs).sampler(files["cond"], files["step"])
    for faces, samples, seed in ((1, 4, 0), (3, 2, 1), (1, 4, 2), (1, 4, 2)):
        context, noise = inputs(faces, samples, seed)
        found = sampler.sample(context, noise, table, np.random.default_rng(9))
        again = expected.sample(context, noise, table, np.random.default_rng(9))
        assert relative_error(found, again) < 1e-5
    if solver != "ddpm":
        assert (graphs.captures, graphs.launches) == (2, 4)  # a graph for each signature, a launch for each call
        with pytest.raises(StageError, match="'context' is"):
            sampler.sample(np.zeros((1, CONTEXT + 1), np.float32), inputs(1, 4)[1], table)


def test_a_stage_is_captured_once_for_each_signature(files):
    graphs = StrictGpu()
    stage, expected = TorchBackend(gpu=graphs).load(files["cond"]), OnnxRuntimeBackend().load(files["cond"])
    for faces, steps in ((1, 2), (3, 7), (1, 2)):
        arrays = {"context": inputs(faces, 1, faces)[0], "timesteps": np.linspace(999, 0, steps, dtype=np.float32)}
        found = stage(**arrays)
        assert relative_error(found["modulation"], expected(**arrays)["modulation"]) < 1e-5
    assert (graphs.captures, graphs.launches) == (2, 3)
    kept = found["modulation"].copy()
    stage(context=inputs(1, 1, 8)[0], timesteps=arrays["timesteps"])
    np.testing.assert_array_equal(found["modulation"], kept)  # results are the caller's own
    with pytest.raises(StageError, match="missing timesteps"):
        stage(context=arrays["context"])


def test_every_stage_of_a_bundle_captured(open_bundle, monkeypatch):
    graphs = StrictGpu()
    monkeypatch.setattr(torch_backend.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch_backend, "CudaGpu", lambda: graphs)
    ours, reference = (StageSet(open_bundle, steps=3, backend=name) for name in ("torch", "onnxruntime"))
    rng = np.random.default_rng(0)
    for stage in ("identity_context", "idrank", "expression_context"):
        dims = getattr(reference, stage).inputs
        arrays = {n: rng.standard_normal([{"F": 2, "N": 3}.get(d, d) for d in s]).astype(np.float32)
                  for n, s in dims.items()}  # fmt: skip
        for name, array in getattr(reference, stage)(**arrays).items():
            assert relative_error(getattr(ours, stage)(**arrays)[name], array) < 1e-4
    for stage in ("idgen", "expgen"):
        context = rng.standard_normal((2, 256)).astype(np.float32)
        noise = rng.standard_normal((2, 3, getattr(ours, stage).n_coefficients)).astype(np.float32)
        assert relative_error(getattr(ours, stage)(context, noise), getattr(reference, stage)(context, noise)) < 1e-3
    assert graphs.captures == 5


def test_what_cannot_be_captured_runs_as_it_is_and_says_so_once(files, caplog):
    graphs, table = StrictGpu(fails="operation not permitted when stream is capturing"), solver_table("ddim", 4)
    backend = TorchBackend(gpu=graphs)
    sampler, stage = backend.sampler(files["cond"], files["step"]), backend.load(files["cond"])
    context, noise = inputs(1, 3)
    with caplog.at_level(logging.WARNING):
        found = [sampler.sample(context, noise, table) for _ in range(2)]
        stage(context=context, timesteps=np.zeros(2, np.float32))
    expected = OnnxRuntimeBackend().sampler(files["cond"], files["step"]).sample(context, noise, table)
    assert relative_error(found[1], expected) < 1e-5
    stage(context=context, timesteps=np.zeros(3, np.float32))
    said = [record.message for record in caplog.records if record.name == torch_cuda.__name__]
    assert len(said) == len(set(said)) and "expgen_step.onnx is not captured on this GPU" in said[0]
    assert all("\n" not in line and "not permitted" in line for line in said)


def test_neither_thread_speaks_while_the_other_captures(files):
    """Frames and identities, every size new: captures on both sides all the time."""
    gpu = StrictGpu()
    backend, expected = TorchBackend(gpu=gpu), OnnxRuntimeBackend().sampler(files["cond"], files["step"])
    problems = []

    def draw(sampler, seed):
        try:
            for i in range(25):
                table = solver_table("dpmpp_2m", 3 + (i + seed) % 7)
                context, noise = inputs(1 + i % 3, 1 + i % 5, seed + i)
                found = sampler.sample(context, noise, table)
                assert relative_error(found, expected.sample(context, noise, table)) < 1e-5
        except BaseException as error:
            problems.append(error)

    samplers = [backend.sampler(files["cond"], files["step"], urgent) for urgent in (True, False)]
    threads = [threading.Thread(target=draw, args=(sampler, 7 * i)) for i, sampler in enumerate(samplers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert problems == [] and gpu.broken == [] and [stream.urgent for stream in gpu.streams] == [True, False]
    backend.close()
    gc.collect()
    assert gpu.memory == 0 and gpu.released == 1


def test_a_draw_that_takes_long_holds_no_frame_up(files):
    gpu, table = StrictGpu(), solver_table("ddim", 4)
    backend = TorchBackend(gpu=gpu)
    frames, identities = (backend.sampler(files["cond"], files["step"], urgent) for urgent in (True, False))
    identities.sample(*inputs(1, 4), table)
    gpu.streams[1].held.set()
    thread = threading.Thread(target=identities.sample, args=(*inputs(1, 4), table))
    thread.start()
    for samples in (3, 3, 5):
        assert frames.sample(*inputs(2, samples), table).shape == (2, samples, WIDTH)
    assert thread.is_alive()
    gpu.streams[1].held.clear()
    thread.join(300)
    assert not thread.is_alive() and gpu.broken == []


def test_what_was_captured_long_ago_goes_first(files, monkeypatch):
    monkeypatch.setattr(torch_cuda, "MOST_CALLS", 3)
    gpu = StrictGpu()
    sampler = TorchBackend(gpu=gpu).sampler(files["cond"], files["step"])
    held = []
    for samples in range(1, 9):
        sampler.sample(*inputs(1, samples), solver_table("ddim", 4))
        gc.collect()
        held.append(len(gpu.alive))
    assert held[-1] == held[2] and gpu.captures == 8


def test_what_cannot_be_fused_runs_as_it_is_and_says_so(monkeypatch, caplog):
    monkeypatch.undo()

    def refuse(*_, **__):
        raise RuntimeError("Cannot find a working triton installation.")

    monkeypatch.setattr(torch, "compile", refuse)

    def double(x):
        return (2 * x,)

    assert torch_cuda.compiled(double, [torch.zeros(2)], "toy.onnx") is double
    assert "toy.onnx is not fused on this GPU" in caplog.text and "triton" in caplog.text


def test_flattening_leaves_only_arithmetic_on_tensors(open_bundle):
    """No reading of shapes is left, and none of the weights' conversions."""
    stage = TorchStage(graph_specs(open_bundle.stages["expgen"])["step"])
    names = list(stage.inputs)
    examples = [torch.randn([{"F": 2, "N": 5}.get(d, d) for d in dims]) for dims in stage.inputs.values()]

    def function(*tensors):
        return tuple(stage.run(dict(zip(names, tensors, strict=True))).values())

    flat = torch_cuda.flattened(function, examples)
    kinds = {str(node.target) for node in flat.graph.nodes if node.op == "call_function"}
    assert not {kind for kind in kinds if "scalar" in kind or "lift" in kind or "_to_copy" in kind}
    again = [torch.randn_like(example) for example in examples]
    for found, expected in zip(flat(*again), function(*again), strict=True):
        torch.testing.assert_close(found, expected)


def on_one_gpu(stage, sizes):
    """Run a stage with tensors that have a device and no content, weights and inputs on a GPU."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        stage._graph.constants = {
            name: torch.empty(value.shape, dtype=value.dtype, device="cuda") if value.is_floating_point() else value
            for name, value in stage._graph.constants.items()
        }
        given = {n: torch.empty([sizes.get(d, d) for d in dims], device="cuda") for n, dims in stage.inputs.items()}
    return stage.run(given)  # outside: sizes and axes have content


@pytest.mark.parametrize("half", [False, True])
def test_no_operator_mixes_host_and_gpu(open_bundle, half):
    sizes = {"F": 3, "N": 5, "K": 4}
    for stage in open_bundle.stages.values():
        for graph in graph_specs(stage).values():
            for name, result in on_one_gpu(TorchStage(graph, half=half), sizes).items():
                assert result.device.type == "cuda" and result.dtype == torch.float32, (graph.path.name, name)
                assert result.shape[1 if name == "modulation" else 0] == 3


def test_nor_do_those_of_the_official_encoders(tmp_path):
    from official_inputs import SMALL

    from ofer_models.workshop.networks.arcface import ArcFace
    from ofer_models.workshop.networks.farl import Farl
    from ofer_models.workshop.networks.official_stages import JointContext
    from ofer_models.workshop.networks.trace import export_module

    sizes = SMALL.networks
    crops = {"crop112_bgr": ("F", 3, sizes.arcface["size"], sizes.arcface["size"]),
             "crop224": ("F", 3, sizes.farl["size"], sizes.farl["size"])}  # fmt: skip
    export_module(JointContext(ArcFace(**sizes.arcface), Farl(**sizes.farl)), tmp_path / "c.onnx", crops, ["context"])
    result = on_one_gpu(TorchStage(GraphSpec(tmp_path / "c.onnx")), {"F": 3})["context"]
    assert result.device.type == "cuda" and result.shape == (3, 22)


@pytest.mark.long
def test_a_flattened_stage_can_be_fused(files, monkeypatch):
    """With torch's real compiler, for the CPU; needs a C++ compiler."""
    monkeypatch.undo()
    stage = TorchStage(files["step"])
    function = stage.compiled({"F": 2, "N": 3})
    assert hasattr(function, "_torchdynamo_orig_callable") or "OptimizedModule" in type(function).__name__
    examples = [torch.randn([{"F": 2, "N": 3}.get(d, d) for d in dims]) for dims in stage.inputs.values()]
    expected = stage.run(dict(zip(stage.inputs, examples, strict=True)))
    with torch.inference_mode():
        for found, reference in zip(function(*examples), expected.values(), strict=True):
            assert relative_error(found, reference) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("half", [False, True])
def test_on_a_real_gpu(open_bundle, half, monkeypatch):
    """Fused and captured for real, against ONNX Runtime."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    monkeypatch.undo()
    backend, reference = TorchBackend(half=half), OnnxRuntimeBackend()
    graphs = graph_specs(open_bundle.stages["expgen"])
    ours, expected = (b.sampler(graphs["cond"], graphs["step"]) for b in (backend, reference))
    rng, table = np.random.default_rng(0), solver_table("dpmpp_2m", 8)
    for faces in (1, 2):
        context = rng.standard_normal((faces, 256)).astype(np.float32)
        noise = rng.standard_normal((faces, 15, 53)).astype(np.float32)
        found = [ours.sample(context, noise, table) for _ in range(2)]
        np.testing.assert_array_equal(*found)
        assert relative_error(found[0], expected.sample(context, noise, table)) < (2e-2 if half else 1e-3)
    assert backend.memory > 0
    backend.close()
