"""A GPU that is not there, strict about the rules of the one that is.

`StrictDriver` stands in for `cuda.bindings.driver` and `StrictTensorRt` for TensorRT's module and its objects; networks
are computed by ONNX Runtime. Memory is on the host, NaN until written, work is done when somebody waits for it. Broken
rules raise `RuleBroken` and stay in `driver.broken`, also where somebody swallows them:

    no launch, wait, allocation or release by any thread while a stream captures, but for what the capture is of;
    the GPU's context is current in the thread that calls;
    addresses lie in memory that is there, at multiples of 256 where TensorRT uses them;
    graphs are gone before the contexts they run, contexts before their engine, all three before memory they use;
    contexts get shapes of one profile, memory as large as they need, every address, and one run before a capture;
    TensorRT-RTX compiles eagerly, is asked whether it can be captured, and was told who allocates.
"""

from __future__ import annotations

import bisect
import ctypes
import enum
import itertools
import math
import threading
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from ofer_models.bundle.graphs import graph_specs
from ofer_models.runtime import engine_cache
from ofer_models.runtime.engine_cache import Runtime
from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.runtime.tensorrt.backend import TensorRtBackend
from ofer_models.runtime.tensorrt.cuda_driver import CudaDevice
from ofer_models.workshop.compile.build import Order, key_of, profiles_of

ALIGNED = 256


class RuleBroken(AssertionError):
    """A rule of the device or of TensorRT was broken."""


class Status(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_READY = 600
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


@dataclass
class Work:
    """Something queued. uses: addresses of the memory that it needs; life: of the context that it runs."""

    run: object
    uses: tuple[int, ...] = ()
    life: object = None


@dataclass
class Stream:
    priority: int
    queue: list[Work] = field(default_factory=list)
    recording: list[Work] | None = None
    thread: int = 0
    lock: object = field(default_factory=threading.Lock)
    held: object = field(default_factory=threading.Event)  # set: its work does not come to an end
    go_on: object = field(default_factory=threading.Event)


class StrictDriver:
    """The functions of `cuda.bindings.driver` that the project calls, on no device.

    used: bytes of device memory given out; peak: the most; calls: how often each function was called.
    """

    CUresult = Status
    CUstream_flags = enum.IntEnum("CUstream_flags", {"CU_STREAM_NON_BLOCKING": 1})
    CUevent_flags = enum.IntEnum("CUevent_flags", {"CU_EVENT_BLOCKING_SYNC": 1, "CU_EVENT_DISABLE_TIMING": 2})
    CUstreamCaptureMode = enum.IntEnum("CUstreamCaptureMode", {"CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1})
    CUdevice_attribute = enum.IntEnum(
        "CUdevice_attribute",
        {"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": 75, "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": 76},
    )

    def __init__(self, capability=(8, 6), name="Strict GPU", room=1 << 40):
        self.capability, self.name, self.room = capability, name, room
        self.broken, self.calls = [], Counter()
        self.memory, self.pinned, self.streams, self.events, self.graphs, self.runs = {}, {}, {}, {}, {}, {}
        self.contexts = 0
        self.fail_next = {}  # function -> status to fail with, once
        self._ids = itertools.count(1)
        self._lock = threading.RLock()
        self._starts = []  # of all blocks, in order
        self._current = threading.local()

    # What tests look at

    @property
    def used(self):
        return sum(array.nbytes for array, _ in self.memory.values())

    @property
    def empty(self):
        """Whether everything was given back."""
        return not (self.memory or self.pinned or self.streams or self.events or self.graphs or self.contexts)

    def break_rule(self, text):
        self.broken.append(text)
        raise RuleBroken(text)

    def capturing(self):
        return next((stream for stream in self.streams.values() if stream.recording is not None), None)

    def enter(self, name, stream=None, needs_context=True):
        """Every function passes here: whether it may be called now, by this thread."""
        with self._lock:
            self.calls[name] += 1
            if needs_context and not getattr(self._current, "context", False):
                self.break_rule(f"{name} by a thread in which the GPU's context is not current")
            busy = self.capturing()
            if busy is not None and not (stream is busy and busy.thread == threading.get_ident()):
                self.break_rule(f"{name} by thread {threading.get_ident()} while another stream or thread captures")

    def queue(self, name, stream, work):
        self.enter(name, stream)
        with self._lock:
            for address in work.uses:
                self.check_address(name, address)
            if stream.recording is not None:
                stream.recording.append(work)
            else:
                stream.queue.append(work)

    def check_address(self, name, address, size=1):
        with self._lock:
            place = bisect.bisect_right(self._starts, address) - 1
            start = self._starts[place] if place >= 0 else 0
            block = self.memory.get(start) or self.pinned.get(start)
        if block is None or address + size > start + block[0].nbytes:
            self.break_rule(f"{name} uses memory at {address:#x} that is not there")

    def finish(self, stream):
        """Do what is queued."""
        with stream.lock:
            work, stream.queue = stream.queue, []
            for one in work:
                one.run()

    # Functions of the driver

    def _ok(self, *values):
        return (Status.CUDA_SUCCESS, *values)

    def _failing(self, name):
        status = self.fail_next.pop(name, None)
        return None if status is None else (status, None)

    def cuInit(self, flags):
        return self._ok()

    def cuGetErrorName(self, status):
        return self._ok(Status(status).name.encode())

    def cuDeviceGet(self, ordinal):
        return self._ok(0)

    def cuDeviceGetName(self, length, device):
        return self._ok(self.name.encode() + b"\0")

    def cuDeviceGetAttribute(self, attribute, device):
        return self._ok(self.capability[int(attribute) - 75])

    def cuDevicePrimaryCtxRetain(self, device):
        self.contexts += 1
        return self._ok(77)

    def cuDevicePrimaryCtxRelease(self, device):
        self.enter("cuDevicePrimaryCtxRelease")
        self.contexts -= 1
        return self._ok()

    def cuCtxSetCurrent(self, context):
        self._current.context = True
        return self._ok()

    def cuCtxGetStreamPriorityRange(self):
        self.enter("cuCtxGetStreamPriorityRange")
        return self._ok(0, -5)

    def cuStreamCreateWithPriority(self, flags, priority):
        self.enter("cuStreamCreateWithPriority")
        handle = next(self._ids)
        self.streams[handle] = Stream(priority)
        return self._ok(handle)

    def cuStreamDestroy(self, handle):
        self.enter("cuStreamDestroy")
        if self.streams.pop(handle).queue:
            self.break_rule("a stream is destroyed with work on it")
        return self._ok()

    def cuMemAlloc(self, size):
        self.enter("cuMemAlloc")
        if failure := self._failing("cuMemAlloc"):
            return failure
        if self.used + size > self.room:
            return Status.CUDA_ERROR_OUT_OF_MEMORY, None
        return self._ok(self._allocate(self.memory, size))

    def cuMemAllocHost(self, size):
        self.enter("cuMemAllocHost")
        return self._ok(self._allocate(self.pinned, size))

    def _allocate(self, where, size):
        with self._lock:
            array = np.full(-(-size // 4) + ALIGNED // 4, np.nan, np.float32)
            address = array.ctypes.data + -array.ctypes.data % ALIGNED
            usable = np.frombuffer((ctypes.c_char * size).from_address(address), np.uint8)
            where[address] = usable, array
            bisect.insort(self._starts, address)
            return address

    def cuMemFree(self, address):
        self._free("cuMemFree", self.memory, address)
        return self._ok()

    def cuMemFreeHost(self, address):
        self._free("cuMemFreeHost", self.pinned, address)
        return self._ok()

    def _free(self, name, where, address):
        self.enter(name)
        with self._lock:
            if address not in where:
                self.break_rule(f"{name} of memory that is not there")
            start, size = address, where[address][0].nbytes
            waiting = [work for stream in self.streams.values() for work in stream.queue]
            for what, works in (("a graph", itertools.chain(*self.graphs.values())), ("queued work", waiting)):
                if any(start <= used < start + size for work in works for used in work.uses):
                    self.break_rule(f"{name} of memory that {what} uses")
            del where[address]
            self._starts.remove(address)

    def cuMemcpyHtoDAsync(self, target, source, size, stream):
        self._copy("cuMemcpyHtoDAsync", target, source, size, stream, self.memory, self.pinned)
        return self._ok()

    def cuMemcpyDtoHAsync(self, target, source, size, stream):
        self._copy("cuMemcpyDtoHAsync", target, source, size, stream, self.pinned, self.memory)
        return self._ok()

    def _copy(self, name, target, source, size, stream, to, of):
        with self._lock:
            for address, where, what in ((target, to, "target"), (source, of, "source")):
                if not any(s <= address and address + size <= s + a.nbytes for s, (a, _) in where.items()):
                    self.break_rule(f"{name}: the {what} is not in memory of that kind")
        work = Work(lambda: ctypes.memmove(target, source, size), (target, source))
        self.queue(name, self.streams[stream], work)

    def cuMemsetD8Async(self, target, value, size, stream):
        self.check_address("cuMemsetD8Async", target, size)
        self.queue("cuMemsetD8Async", self.streams[stream], Work(lambda: ctypes.memset(target, value, size), (target,)))
        return self._ok()

    def cuEventCreate(self, flags):
        self.enter("cuEventCreate")
        if not flags & self.CUevent_flags.CU_EVENT_BLOCKING_SYNC:
            self.break_rule("who waits for this event spins on a core")
        handle = next(self._ids)
        self.events[handle] = None
        return self._ok(handle)

    def cuEventDestroy(self, event):
        self.enter("cuEventDestroy")
        del self.events[event]
        return self._ok()

    def cuEventRecord(self, event, stream):
        self.enter("cuEventRecord", self.streams[stream])
        self.events[event] = self.streams[stream]
        return self._ok()

    def cuEventSynchronize(self, event):
        self.enter("cuEventSynchronize")
        stream = self.events[event]
        if stream.held.is_set():
            stream.go_on.wait()
        self.finish(stream)
        return self._ok()

    def cuEventQuery(self, event):
        self.enter("cuEventQuery")
        stream = self.events[event]
        if stream.held.is_set():
            return (Status.CUDA_ERROR_NOT_READY,)
        self.finish(stream)
        return self._ok()

    def cuStreamBeginCapture(self, handle, mode):
        self.enter("cuStreamBeginCapture")
        with self._lock:
            stream = self.streams[handle]
            if stream.queue:
                self.break_rule("a capture begins on a stream with work on it")
            stream.recording, stream.thread = [], threading.get_ident()
        return self._ok()

    def cuStreamEndCapture(self, handle):
        stream = self.streams[handle]
        self.enter("cuStreamEndCapture", stream)
        with self._lock:
            recorded, stream.recording = stream.recording, None
            if any(work is None for work in recorded):
                return Status.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
            graph = next(self._ids)
            self.runs[graph] = recorded
            return self._ok(graph)

    def cuGraphInstantiate(self, graph, flags):
        self.enter("cuGraphInstantiate")
        if failure := self._failing("cuGraphInstantiate"):
            return failure
        executable = next(self._ids)
        self.graphs[executable] = self.runs[graph]
        return self._ok(executable)

    def cuGraphDestroy(self, graph):
        self.enter("cuGraphDestroy")
        del self.runs[graph]
        return self._ok()

    def cuGraphExecDestroy(self, executable):
        self.enter("cuGraphExecDestroy")
        del self.graphs[executable]
        return self._ok()

    def cuGraphLaunch(self, executable, handle):
        if executable not in self.graphs:
            self.break_rule("a graph is launched that is not there")
        stream = self.streams[handle]
        for work in self.graphs[executable]:
            self.queue("cuGraphLaunch", stream, work)
        return self._ok()


class _Life:
    alive = True


class _Enums:
    ExecutionContextAllocationStrategy = enum.Enum("ExecutionContextAllocationStrategy", "STATIC USER_MANAGED")
    DynamicShapesKernelSpecializationStrategy = enum.Enum("Specialization", "LAZY EAGER NONE")
    CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")


Mode = enum.Enum("Mode", "INPUT OUTPUT")
Kind = enum.Enum("Kind", "FLOAT HALF")
TARGETS = SimpleNamespace(SM75=1, SM80=2, SM86=3, SM89=4, SM120=5)


class StrictTensorRt(_Enums):
    """The module, with engines that compute an ONNX file. kernels: what its runtime caches hold once used."""

    def __init__(self, driver, flavour="tensorrt_rtx", version="1.7.1"):
        self.__name__, self.__version__, self.driver = flavour, version, driver
        self.messages = SimpleNamespace(last="")
        self.Builder = object
        if flavour == "tensorrt_rtx":
            self.ComputeCapability = TARGETS
        self.compiled = Counter()  # engine -> kernels compiled when they were wanted

    def engine(self, path, profiles, **changes):
        """profiles: of free dimension -> (least, usual, largest) each."""
        return StrictEngine(self, path, profiles, **changes)


class StrictEngine:
    def __init__(self, trt, path, profiles, kinds=None, capturable=True, says=""):
        """kinds: tensors that are not float32; says: what goes wrong in every run that is captured."""
        self.trt, self.driver, self.path, self.profiles = trt, trt.driver, path, profiles
        self.stage, self.kinds, self.capturable, self.says = OnnxStage(path), kinds or {}, capturable, says
        self.names = [*self.stage.inputs, *self.stage.outputs]
        self.num_io_tensors, self.num_optimization_profiles = len(self.names), len(profiles)
        self.lives = []
        self.driver.enter("deserialize_cuda_engine")

    def __del__(self):
        if any(life.alive for life in self.lives):
            self.driver.broken.append(f"the engine of {self.path.name} is gone before its contexts")

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return Mode.INPUT if name in self.stage.inputs else Mode.OUTPUT

    def get_tensor_dtype(self, name):
        return self.kinds.get(name, Kind.FLOAT)

    def get_tensor_shape(self, name):
        dims = (self.stage.inputs | self.stage.outputs)[name]
        return [-1 if isinstance(dim, str) else dim for dim in dims]

    def get_tensor_profile_shape(self, name, profile):
        dims = self.stage.inputs[name]
        return [[self.profiles[profile][d][k] if isinstance(d, str) else d for d in dims] for k in range(3)]

    def create_runtime_config(self):
        assert self.trt.__name__ == "tensorrt_rtx", "native TensorRT has none"
        return StrictConfig(self.trt)

    def create_execution_context(self, strategy):
        self.driver.enter("create_execution_context")
        config = strategy if isinstance(strategy, StrictConfig) else None
        if self.trt.__name__ == "tensorrt_rtx" and config is None:
            self.driver.break_rule("a context of TensorRT-RTX without configuration compiles lazily")
        allocation = config.allocation if config else strategy
        if allocation is not self.trt.ExecutionContextAllocationStrategy.USER_MANAGED:
            self.driver.break_rule("a context takes memory for the largest size of all profiles")
        return StrictContext(self, config)


class StrictConfig:
    def __init__(self, trt):
        self.trt = trt
        self.allocation = trt.ExecutionContextAllocationStrategy.STATIC
        self.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.LAZY
        self.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
        self.cache = None

    def set_execution_context_allocation_strategy(self, strategy):
        self.allocation = strategy

    def create_runtime_cache(self):
        return StrictCache()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class StrictCache:
    def __init__(self):
        self.kernels = set()

    def deserialize(self, content):
        if not content.startswith(b"kernels "):
            return False
        self.kernels = set(content.decode().split("\n")[1:])
        return True

    def serialize(self):
        return memoryview("\n".join(["kernels ", *sorted(self.kernels)]).encode())


class StrictContext:
    def __init__(self, engine, config):
        self.engine, self.config, self.driver = engine, config, engine.driver
        self.life = _Life()
        engine.lives.append(self.life)
        self.profile, self.shapes, self.addresses = 0, {}, {}
        self.scratch, self.asked, self.ran = (0, 0), False, set()

    def __del__(self):
        self.life.alive = False
        if any(work.life is self.life for works in self.driver.graphs.values() for work in works):
            self.driver.broken.append(f"a context of {self.engine.path.name} is gone before the graph that runs it")

    def set_optimization_profile_async(self, profile, stream):
        self.driver.enter("set_optimization_profile_async")
        self.profile, self.shapes = profile, {}
        return 0 <= profile < len(self.engine.profiles)

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
            self.engine.trt.messages.last = f"{name} {shape} is outside profile {self.profile}"
            return False
        self.shapes[name] = tuple(shape)
        return True

    def update_device_memory_size_for_shapes(self):
        assert self.shapes.keys() == self.engine.stage.inputs.keys(), "all shapes first"
        return 512 * sum(math.prod(shape) for shape in self.shapes.values())

    def set_device_memory(self, address, size):
        if address % ALIGNED or size < self.update_device_memory_size_for_shapes():
            self.driver.break_rule("a context's memory is too small or not aligned")
        self.driver.check_address("set_device_memory", address, size)
        self.scratch = address, size

    def set_tensor_address(self, name, address):
        if address % ALIGNED:
            self.driver.break_rule(f"the address of {name!r} is not aligned")
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream):
        self.driver.enter("is_stream_capturable")
        self.asked = True
        return self.engine.capturable

    def execute_async_v3(self, handle):
        stream, trt, engine = self.driver.streams[handle], self.engine.trt, self.engine
        capturing = stream.recording is not None
        if self.addresses.keys() != set(engine.names) or not self.scratch[1]:
            self.driver.break_rule(f"{engine.path.name} runs without all addresses, or without memory")
        size = tuple(sorted(self.shapes.items()))
        if capturing and size not in self.ran:
            self.driver.break_rule(f"the first run of {engine.path.name} at a size, which compiles, is captured")
        if capturing and self.config is not None:
            if self.config.dynamic_shapes_kernel_specialization_strategy.name != "EAGER":
                self.driver.break_rule("fallback kernels are captured for ever")
            if not self.asked:
                self.driver.break_rule("TensorRT-RTX was not asked whether it can be captured")
        if capturing and (engine.says or not engine.capturable):
            trt.messages.last = engine.says or "not capturable"
            stream.recording.append(None)
            return False
        self.ran.add(size)
        if self.config is not None and str(size) not in self.config.cache.kernels:
            trt.compiled[engine.path.name] += 1
            self.config.cache.kernels.add(str(size))
        addresses, shapes, stage = dict(self.addresses), dict(self.shapes), engine.stage
        driver, path = self.driver, engine.path

        def run():
            given = {name: view(addresses[name], shape).copy() for name, shape in shapes.items()}
            for name, array in stage(**given).items():
                driver.check_address(f"{name} of {path.name}", addresses[name], array.nbytes)
                view(addresses[name], array.shape)[...] = array

        for name, shape in shapes.items():
            self.driver.check_address(f"{engine.path.name}: {name}", addresses[name], 4 * math.prod(shape))
        work = Work(run, (*addresses.values(), self.scratch[0]), self.life)
        self.driver.queue("execute_async_v3", stream, work)
        return True


def view(address, shape):
    """Memory as a float32 array."""
    count = math.prod(shape)
    return np.frombuffer((ctypes.c_float * count).from_address(address), np.float32).reshape(shape)


def strict_backend(bundle, folder, driver, trt, faces=(1, 8)):
    """The TensorRT backend on a bundle whose engines lie in `folder`, as `ofer build` would leave them."""
    order, here = Order(bundle, faces=faces), Runtime("tensorrt_rtx", trt.__version__, ("sm86",))
    profiles, paths = {}, {}
    for stage, spec in bundle.stages.items():
        for graph in graph_specs(spec).values():
            key = key_of(order, graph, stage, here.flavour, here.version, here.gpus)
            path = engine_cache.write(folder, key, b"plan of " + graph.path.name.encode(), {}, 1.0)
            profiles[path], paths[path] = profiles_of(key.profile), graph.path

    def deserialise(path):
        return trt.engine(paths[path], profiles[path])

    return TensorRtBackend(folder, here, trt, trt.messages, CudaDevice(driver), deserialise)
