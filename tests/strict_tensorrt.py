"""TensorRT's module, engines and contexts on a `StrictDriver`, with the rules that are told there."""

from __future__ import annotations

import ctypes
import enum
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
from strict_device import ALIGNED, Work

from ofer_models.bundle.graphs import all_graphs
from ofer_models.runtime import engine_cache
from ofer_models.runtime.engine_cache import Runtime
from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.runtime.tensorrt.backend import TensorRtBackend
from ofer_models.runtime.tensorrt.cuda_driver import CudaDevice
from ofer_models.workshop.compile.build import Order, key_of, profiles_of


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
        for graph in all_graphs(spec).values():
            key = key_of(order, graph, stage, here.flavour, here.version, here.gpus)
            path = engine_cache.write(folder, key, b"plan of " + graph.path.name.encode(), {}, 1.0)
            profiles[path], paths[path] = profiles_of(key.profile), graph.path

    def deserialise(path):
        return trt.engine(paths[path], profiles[path])

    return TensorRtBackend(folder, here, trt, trt.messages, CudaDevice(driver), deserialise)
