"""The NVIDIA driver through `cuda.bindings`: what GPU there is, memory, streams and captured graphs.

The only module that touches a device. `CudaDevice(driver)` takes the bindings' module or a stand-in of it.
"""

from __future__ import annotations

import ctypes
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofer_models.bundle.tensors import StageError
from ofer_models.runtime.capture_gate import CaptureGate

ALIGNED = 256  # bytes, of every address that is given out
_PAUSE = 0.001  # s between two looks of who waits without holding others up
_NO_GPU = "no NVIDIA GPU here: use --gpu sm86 (or another) to build for one, or backend onnxruntime"


@dataclass(frozen=True)
class Gpu:
    """The first GPU: its name and compute capability, such as sm86."""

    name: str
    capability: str


class NoGpu(StageError):
    """There is no NVIDIA GPU, or no driver for it."""


class CudaError(StageError):
    """A call of the driver failed; the message has its name and the driver's."""


def gpu_present() -> bool:
    """Whether a GPU, a working driver and the bindings are there."""
    try:
        current_gpu()
    except StageError:
        return False
    return True


def current_gpu(driver: Any = None) -> Gpu:
    """The first GPU. Raises StageError where there is none, or `cuda-bindings` is missing."""
    driver = driver or load_driver()
    device = called(driver, "cuDeviceGet", 0)
    name = bytes(called(driver, "cuDeviceGetName", 128, device)).split(b"\0")[0].decode()
    kinds = driver.CUdevice_attribute
    major, minor = (
        called(driver, "cuDeviceGetAttribute", attribute, device)
        for attribute in (
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        )
    )  # fmt: skip
    return Gpu(name, f"sm{major}{minor}")


def load_driver() -> Any:
    """The bindings, initialised. Raises NoGpu, and StageError where there is one and no `cuda-bindings`."""
    try:
        from cuda.bindings import driver
    except ImportError:
        if not _driver_library():
            raise NoGpu(_NO_GPU) from None
        raise StageError("a GPU needs cuda-bindings: `pip install -r requirements/gpu.txt`") from None
    try:
        called(driver, "cuInit", 0)
    except (CudaError, RuntimeError) as error:  # RuntimeError: the bindings find no driver library
        raise NoGpu(f"{_NO_GPU} ({error})" if isinstance(error, CudaError) else _NO_GPU) from None
    return driver


def called(driver: Any, name: str, *arguments: Any) -> Any:
    """What a function of the driver returns after its status. Raises CudaError."""
    status, *results = getattr(driver, name)(*arguments)
    if int(status):
        raise CudaError(f"the NVIDIA driver's {name} fails with {_error_name(driver, status)}: see `nvidia-smi`")
    return results[0] if len(results) == 1 else tuple(results)


class CudaDevice:
    """Memory and streams on the first GPU. Addresses are plain integers, aligned to 256.

    allocated: bytes of device memory that are given out. gate: to be used around every call but `activate`.
    """

    def __init__(self, driver: Any = None) -> None:
        """Raises StageError where there is no GPU."""
        self.driver = driver or load_driver()
        self.gate = CaptureGate()
        self._device = self.call("cuDeviceGet", 0)
        self._context = self.call("cuDevicePrimaryCtxRetain", self._device)  # the one TensorRT's CUDA runtime uses
        self._sizes: dict[int, int] = {}
        self.activate()

    def call(self, name: str, *arguments: Any) -> Any:
        """A function of the driver. Raises CudaError."""
        return called(self.driver, name, *arguments)

    @property
    def allocated(self) -> int:
        return sum(self._sizes.copy().values())

    def activate(self) -> None:
        """Make the GPU's context that of the calling thread."""
        self.call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Device memory of `size` bytes."""
        address = int(self.call("cuMemAlloc", max(size, ALIGNED)))
        self._sizes[address] = max(size, ALIGNED)
        return address

    def free(self, address: int) -> None:
        """Give device memory back; nothing queued may use it any more."""
        del self._sizes[address]
        self.call("cuMemFree", address)

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        """A float32 array of zeros in page-locked host memory, from and to which copies do not wait."""
        count = max(math.prod(shape), 1)
        address = int(self.call("cuMemAllocHost", 4 * count))
        flat = np.frombuffer((ctypes.c_float * count).from_address(address), np.float32)
        flat[...] = 0
        return flat[: math.prod(shape)].reshape(shape)

    def free_pinned(self, array: np.ndarray) -> None:
        """Give such an array's memory back; it must not be used afterwards."""
        self.call("cuMemFreeHost", array.ctypes.data)

    def stream(self, urgent: bool) -> CudaStream:
        """A stream of its own. urgent: its work goes before that of others."""
        return CudaStream(self, urgent)

    def close(self) -> None:
        """Let go of the GPU; all memory and streams must have been given back."""
        self.call("cuDevicePrimaryCtxRelease", self._device)


class CudaStream:
    """Work in order on the GPU, and graphs captured from it. Not for several threads at once."""

    def __init__(self, device: CudaDevice, urgent: bool) -> None:
        self._device, self._urgent = device, urgent
        driver = device.driver
        least, greatest = device.call("cuCtxGetStreamPriorityRange")
        flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING  # not tied to the default stream
        self._stream = device.call("cuStreamCreateWithPriority", int(flags), greatest if urgent else least)
        self.handle = int(self._stream)
        kinds = driver.CUevent_flags
        # Without blocking, who waits spins on one of a Jetson's few cores.
        flags = int(kinds.CU_EVENT_BLOCKING_SYNC) | int(kinds.CU_EVENT_DISABLE_TIMING)
        self._done = device.call("cuEventCreate", flags)

    def upload(self, target: int, source: np.ndarray) -> None:
        """Queue a copy from pinned memory to the device."""
        self._device.call("cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, self._stream)

    def download(self, target: np.ndarray, source: int) -> None:
        """Queue a copy from the device to pinned memory."""
        self._device.call("cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, self._stream)

    def zero(self, target: int, size: int) -> None:
        """Queue zeros into `size` bytes of the device."""
        self._device.call("cuMemsetD8Async", target, 0, size, self._stream)

    def launch(self, graph: object) -> None:
        """Queue a captured graph."""
        self._device.call("cuGraphLaunch", graph, self._stream)

    def mark(self) -> None:
        """What is queued until here is what `wait` waits for."""
        self._device.call("cuEventRecord", self._done, self._stream)

    def wait(self) -> None:
        """Until everything before `mark` is done. Takes the gate itself.

        An urgent stream's work is short, and its end is awaited at once. Others may take a hundred times as long, in
        which no capture could begin if they held the gate: they only look in now and then.
        """
        gate, driver = self._device.gate, self._device.driver
        if self._urgent:
            with gate.using():
                self._device.call("cuEventSynchronize", self._done)
            return
        while True:
            with gate.using():
                (status, *_) = driver.cuEventQuery(self._done)
            if int(status) != int(driver.CUresult.CUDA_ERROR_NOT_READY):
                break
            time.sleep(_PAUSE)
        if int(status):
            raise CudaError(f"the NVIDIA driver's cuEventQuery fails with {_error_name(driver, status)}")

    def capture(self, work: Callable[[], None]) -> object:
        """What `work` queues, as a graph to `launch`; nothing of it is done now.

        Raises what `work` raises: that says more than the spoiled capture, which is thrown away.
        """
        device = self._device
        device.call(
            "cuStreamBeginCapture", self._stream,
            device.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
        )  # fmt: skip
        try:
            work()
        except BaseException:
            _, *graphs = device.driver.cuStreamEndCapture(self._stream)
            if graphs and graphs[0] is not None and int(graphs[0]):
                device.driver.cuGraphDestroy(graphs[0])
            raise
        graph = device.call("cuStreamEndCapture", self._stream)
        try:
            return device.call("cuGraphInstantiate", graph, 0)
        finally:
            device.call("cuGraphDestroy", graph)

    def destroy(self, graph: object) -> None:
        """Give a captured graph back."""
        self._device.call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Give the stream back; nothing may be queued on it."""
        self._device.call("cuEventDestroy", self._done)
        self._device.call("cuStreamDestroy", self._stream)


def _error_name(driver: Any, status: Any) -> str:
    _, name = driver.cuGetErrorName(status)
    return f"{bytes(name).decode() if name else 'an unknown error'} ({int(status)})"


def _driver_library() -> bool:
    if platform.system() != "Linux":
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
