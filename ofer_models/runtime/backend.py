"""The choice of a runtime: `auto`, `tensorrt`, `onnxruntime` or `torch`, all behind one small interface.

Nothing of a runtime is imported before it is chosen.
"""

from __future__ import annotations

import logging
from typing import Literal, get_args

from ofer_models.bundle.manifest import Bundle
from ofer_models.bundle.tensors import StageError
from ofer_models.runtime.interface import Backend

_log = logging.getLogger(__name__)
BackendName = Literal["auto", "tensorrt", "onnxruntime", "torch"]
BACKENDS: tuple[str, ...] = get_args(BackendName)


def open_backend(name: str, bundle: Bundle, threads: int = 1) -> Backend:
    """The runtime of this name for a bundle.

    auto: tensorrt where a GPU, TensorRT and engines of this bundle are present, else onnxruntime; never torch.
    Quantized graphs that do not belong here, or not to the bundle, are then left aside with a warning.
    Raises StageError for an unknown name and for a runtime that cannot be used here, with what to do.
    """
    chosen_here = name == "auto"
    if chosen_here:
        name = "tensorrt" if _compiled_for_here(bundle) else "onnxruntime"
    if name == "onnxruntime":
        from ofer_models.runtime.onnxruntime_backend import OnnxRuntimeBackend

        return OnnxRuntimeBackend(threads, int8_from=bundle.path, int8_optional=chosen_here)
    if name == "tensorrt":
        from ofer_models.runtime.tensorrt.backend import TensorRtBackend

        return TensorRtBackend.here(bundle.path)
    if name == "torch":
        from ofer_models.runtime.torch.backend import TorchBackend

        return TorchBackend(threads)
    raise StageError(f"unknown backend {name!r}, use one of {', '.join(BACKENDS)}")


def _compiled_for_here(bundle: Bundle) -> bool:
    """Whether this bundle has engines and this machine a GPU and a TensorRT for it; stale ones count, and are refused
    later."""
    from ofer_models.runtime import engine_cache
    from ofer_models.runtime.tensorrt import api as tensorrt_api

    if not engine_cache.entries(bundle.path, [engine_cache.SUFFIX]) or not tensorrt_api.installed():
        return False
    from ofer_models.runtime.tensorrt.backend import here
    from ofer_models.runtime.tensorrt.cuda_driver import NoGpu

    try:
        here()
    except NoGpu:
        return False
    except StageError as error:
        _log.warning("the engines of %s are not used: %s", bundle.path, error)
        return False
    return True
