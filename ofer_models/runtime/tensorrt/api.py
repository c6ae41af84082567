"""Whichever TensorRT is installed: `tensorrt` (Jetson, PC) or `tensorrt_rtx` (same API, builds without a GPU)."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from ofer_models.bundle.tensors import StageError

FLAVOURS = ("tensorrt", "tensorrt_rtx")


def installed() -> str:
    """Name of the TensorRT that would be used, '' where there is none; imports nothing."""
    return next((name for name in FLAVOURS if importlib.util.find_spec(name) is not None), "")


def load() -> ModuleType:
    """The module. Raises StageError with what to install where there is none, or it cannot be imported."""
    problem = "TensorRT is not installed"
    for name in FLAVOURS:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            module = importlib.import_module(name)
            if hasattr(module, "Builder"):
                return module
            problem = f"{name} is installed without its libraries"  # the registry's `tensorrt` is such a shell
        except Exception as error:  # missing driver or libraries fail in many ways
            problem = f"{name} cannot be imported ({str(error).splitlines()[0]})"
    raise StageError(
        f"{problem}: `pip install tensorrt_rtx` on a PC, JetPack brings `tensorrt` on a Jetson; "
        "or use backend onnxruntime"
    )
