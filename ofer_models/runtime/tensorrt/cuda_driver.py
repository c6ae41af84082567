"""The NVIDIA driver through ctypes: what GPU there is, and memory, streams and graphs for TensorRT's engines.

The driver's own library is on every machine with a GPU, so nothing has to be installed for this. The only module that
touches a device; everything above it can be tried with a stand-in.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ofer_models.bundle.tensors import StageError

_LIBRARIES = ("libcuda.so.1", "libcuda.so")
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_DEVICE_MEMORY, _CAPTURE_THREAD_LOCAL = 2, 1


@dataclass(frozen=True)
class Gpu:
    """The first GPU: its name and compute capability, such as sm86."""

    name: str
    capability: str


def gpu_present() -> bool:
    """Whether a GPU and a working driver are there."""
    try:
        current_gpu()
    except StageError:
        return False
    return True


def current_gpu() -> Gpu:
    """The first GPU. Raises StageError where there is none."""
    driver = _Driver()
    device = ctypes.c_int()
    driver.call("cuDeviceGet", ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(128)
    driver.call("cuDeviceGetName", name, 128, device)
    numbers = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        driver.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        numbers.append(value.value)
    return Gpu(name.value.decode(), f"sm{numbers[0]}{numbers[1]}")


class _Driver:
    """The loaded and initialised library."""

    def __init__(self) -> None:
        for library in _LIBRARIES:
            try:
                self._library = ctypes.CDLL(library)
                break
            except OSError:
                continue
        else:
            raise StageError("no NVIDIA GPU here: use --gpu sm86 (or another) to build for one, or backend onnxruntime")
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of the driver; StageError with its name and code when it fails."""
        code = getattr(self._library, name)(*arguments)
        if code:
            raise StageError(f"the NVIDIA driver's {name} fails with code {code}: see `nvidia-smi`")


class CudaDevice:
    """Memory, one stream and captured graphs on the first GPU. Pointers are plain integers.

    Everything is queued on `stream` and done at `synchronize`. What is allocated lives as long as the process: engines
    allocate once for a size and reuse.
    """

    def __init__(self) -> None:
        """Raises StageError where there is no GPU."""
        self._driver = _Driver()
        device = ctypes.c_int()
        self._driver.call("cuDeviceGet", ctypes.byref(device), 0)
        self._context = ctypes.c_void_p()  # the primary one, which TensorRT's own CUDA runtime uses as well
        self._driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.activate()
        stream = ctypes.c_void_p()
        self._driver.call("cuStreamCreate", ctypes.byref(stream), 1)  # non-blocking: not tied to the default stream
        self.stream = int(stream.value or 0)

    def activate(self) -> None:
        """Make the GPU's context that of the calling thread."""
        self._driver.call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Device memory of `size` bytes, aligned to 256."""
        pointer = ctypes.c_uint64()
        self._driver.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        return int(pointer.value)

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        """A float32 array in page-locked host memory, from and to which copies do not wait."""
        size = max(4 * math.prod(shape), 4)
        pointer = ctypes.c_void_p()
        self._driver.call("cuMemAllocHost_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        buffer = (ctypes.c_float * (size // 4)).from_address(int(pointer.value or 0))
        return np.frombuffer(buffer, np.float32, count=math.prod(shape)).reshape(shape)

    def upload(self, target: int, source: np.ndarray) -> None:
        """Queue a copy from pinned memory to the device."""
        size = ctypes.c_size_t(source.nbytes)
        self._driver.call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(target), ctypes.c_void_p(source.ctypes.data), size,
                          ctypes.c_void_p(self.stream))  # fmt: skip

    def download(self, target: np.ndarray, source: int) -> None:
        """Queue a copy from the device to pinned memory."""
        size = ctypes.c_size_t(target.nbytes)
        self._driver.call("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(target.ctypes.data), ctypes.c_uint64(source), size,
                          ctypes.c_void_p(self.stream))  # fmt: skip

    def gather_rows(self, target: int, source: int, rows: int, width: int, pitch: int) -> None:
        """Queue a copy of `rows` pieces of `width` bytes, `pitch` bytes apart, to lie side by side."""
        copy = _Copy2D()
        copy.source_kind = copy.target_kind = _DEVICE_MEMORY
        copy.source, copy.source_pitch = source, pitch
        copy.target, copy.target_pitch = target, width
        copy.width, copy.height = width, rows
        self._driver.call("cuMemcpy2DAsync_v2", ctypes.byref(copy), ctypes.c_void_p(self.stream))

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        self._driver.call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def capture(self, work: Callable[[], None]) -> object:
        """What `work` queues, as a graph to `launch`; nothing of it is done now."""
        stream, graph, executable = ctypes.c_void_p(self.stream), ctypes.c_void_p(), ctypes.c_void_p()
        self._driver.call("cuStreamBeginCapture_v2", stream, _CAPTURE_THREAD_LOCAL)
        try:
            work()
        finally:
            self._driver.call("cuStreamEndCapture", stream, ctypes.byref(graph))
        self._driver.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        self._driver.call("cuGraphDestroy", graph)
        return executable

    def launch(self, graph: object) -> None:
        """Queue a captured graph."""
        self._driver.call("cuGraphLaunch", graph, ctypes.c_void_p(self.stream))


class _Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D."""

    _fields_: ClassVar = [
        ("source_x", ctypes.c_size_t), ("source_y", ctypes.c_size_t), ("source_kind", ctypes.c_uint),
        ("source_host", ctypes.c_void_p), ("source", ctypes.c_uint64), ("source_array", ctypes.c_void_p),
        ("source_pitch", ctypes.c_size_t), ("target_x", ctypes.c_size_t), ("target_y", ctypes.c_size_t),
        ("target_kind", ctypes.c_uint), ("target_host", ctypes.c_void_p), ("target", ctypes.c_uint64),
        ("target_array", ctypes.c_void_p), ("target_pitch", ctypes.c_size_t), ("width", ctypes.c_size_t),
        ("height", ctypes.c_size_t),
    ]  # fmt: skip
