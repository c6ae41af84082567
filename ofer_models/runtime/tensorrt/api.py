"""Whichever TensorRT is installed: `tensorrt` (Jetson, PC) or `tensorrt_rtx` (same API, builds without a GPU)."""

from __future__ import annotations

import importlib
import importlib.util
import re
from types import ModuleType
from typing import Any

from ofer_models.bundle.tensors import StageError

# Memory that the caller manages came with these; TensorRT-RTX 1.2 is the first whose engines can be captured.
LEAST = {"tensorrt": (10, 3), "tensorrt_rtx": (1, 2)}
FLAVOURS = tuple(LEAST)
RTX = "tensorrt_rtx"


def installed() -> str:
    """Name of the TensorRT that would be used, '' where there is none; imports nothing."""
    return next((name for name in FLAVOURS if importlib.util.find_spec(name) is not None), "")


def load() -> ModuleType:
    """The module. Raises StageError with what to install where there is none, it is too old or cannot be imported."""
    problems = []
    for name in FLAVOURS:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            module = importlib.import_module(name)
            if problem := unusable(module):
                problems.append(problem)
            else:
                return module
        except Exception as error:  # missing driver or libraries fail in many ways
            problems.append(f"{name} cannot be imported ({(str(error).splitlines() or [type(error).__name__])[0]})")
    raise StageError(
        f"{'; '.join(problems) or 'TensorRT is not installed'}: `pip install tensorrt_rtx` on a PC, JetPack 6.1 or "
        "later brings `tensorrt` on a Jetson; or use backend onnxruntime"
    )


def unusable(module: Any) -> str:
    """Why an imported TensorRT cannot be used; '' if it can."""
    name = module.__name__
    if not hasattr(module, "Builder"):
        return f"{name} is installed without its libraries"  # the registry's `tensorrt` is such a shell
    found = tuple(int(part) for part in re.findall(r"\d+", module.__version__)[:2])
    if found < LEAST[name]:
        least = ".".join(map(str, LEAST[name]))
        return f"{name} {module.__version__} is too old, {least} is the least that can run engines here"
    return ""


def targets(trt: Any) -> list[str]:
    """GPUs that this TensorRT knows by name and can build for without having one, such as sm86; none for native
    TensorRT, which builds for the GPU at hand, whatever it is."""
    if trt.__name__ != RTX:
        return []
    names = (name.lower() for name in dir(trt.ComputeCapability) if name.startswith("SM"))
    return sorted(names, key=lambda name: int(name[2:]))


def refuse_gpu(trt: Any, gpu: str) -> None:
    """StageError where this TensorRT cannot make or run an engine for a GPU such as sm90, with what can."""
    known = targets(trt)
    if not known or gpu in known:
        return
    instead = "JetPack's `tensorrt`" if gpu in ("sm72", "sm87", "sm101", "sm110") else "NVIDIA's `tensorrt`"
    raise StageError(
        f"{trt.__name__} {trt.__version__} does not build for {gpu}, only for {', '.join(known)}: "
        f"this GPU takes {instead}, or backend torch"
    )


def message_keeper(trt: Any) -> Any:
    """A logger that keeps the last error as `last`: it says more than a missing engine or a failed run."""

    class Messages(trt.ILogger):
        last = ""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = message

    return Messages()
