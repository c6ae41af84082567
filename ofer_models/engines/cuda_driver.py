"""The NVIDIA driver through ctypes: what GPU there is, and memory, streams and graphs for TensorRT's engines.

The driver's own library is on every machine with a GPU, so nothing has to be installed for this. The only module that
touches a device; everything above it can be tried with a stand-in.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from ofer_models.engines.tensors import StageError

_LIBRARIES = ("libcuda.so.1", "libcuda.so")
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


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
