"""Access to MediaPipe's graphs: quiet start, its bundled models, one line for a missing installation.

Everything here runs on models inside the MediaPipe wheel; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

# Read by the native libraries when they are loaded, so set before MediaPipe is imported.
os.environ.setdefault("GLOG_minloglevel", "3")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")



def _bare_package(name: str) -> None:
    """Make the package's modules importable without what its `__init__` imports beside them: of MediaPipe that is
    matplotlib, sound and every task, most of the time and memory that a robot would spend on imports. Whoever asks the
    package itself for something gets it all the same; then the `__init__` runs.
    """
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ImportError(f"No module named '{name}'")
    package = importlib.util.module_from_spec(spec)

    def run_init(attribute: str) -> Any:
        del package.__getattr__
        spec.loader.exec_module(package)
        return getattr(package, attribute)

    package.__getattr__ = run_init
    sys.modules[name] = package


try:
    for package in ("mediapipe", "mediapipe.python.solutions"):
        _bare_package(package)
    # Importing the solutions registers the option messages of the calculators inside their graphs; these two they take
    # for granted, and without them options are dropped in silence.
    import mediapipe.calculators.tensor.tensors_to_floats_calculator_pb2
    import mediapipe.framework.tool.switch_container_pb2
    import mediapipe.python.solutions.face_detection
    import mediapipe.python.solutions.face_mesh  # noqa: F401
    from google.protobuf import text_format
    from mediapipe.framework import calculator_pb2
    from mediapipe.framework.formats.rect_pb2 import NormalizedRect
    from mediapipe.python.solution_base import SolutionBase
except ImportError as error:
    raise ImportError(
        f"MediaPipe with bundled models is needed ({error}): pip install 'mediapipe>=0.10.9,<=0.10.21'"
    ) from error

__all__ = ["NormalizedRect", "SolutionBase", "check_rgb", "quiet_stderr", "start_graph"]


def start_graph(graph: str, owner: object, **options: Any) -> SolutionBase:
    """Start a graph given in protobuf text format; options as `SolutionBase` takes them.

    The graph ends with `owner`: one that is merely let go of keeps its 20 MB for ever.
    """
    started = SolutionBase(graph_config=text_format.Parse(graph, calculator_pb2.CalculatorGraphConfig()), **options)
    weakref.finalize(owner, started.close).atexit = False
    return started


# What TensorFlow Lite and MediaPipe greet with, past any log level.
_GREETINGS = re.compile(
    rb"INFO: Created TensorFlow Lite |WARNING: All log messages before absl::InitializeLog|"
    rb"[IW]\d{4} [^]]*\.cc:\d+\]"
)


class _HeldStderr:
    """File descriptor 2 while at least one thread wants it quiet. The first to come holds it, the last lets it go."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0

    def hold(self) -> None:
        with self._lock:
            if self._holders == 0:
                sys.stderr.flush()
                self._file, self._real = tempfile.TemporaryFile(), os.dup(2)
                os.dup2(self._file.fileno(), 2)
            self._holders += 1

    def let_go(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
            sys.stderr.flush()
            os.dup2(self._real, 2)
            os.close(self._real)
            self._file.seek(0)
            told = b"".join(line for line in self._file if not _GREETINGS.match(line))
            self._file.close()
        while told:
            told = told[os.write(2, told) :]


_stderr = _HeldStderr()


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep the native libraries' greetings, which come with every graph and its first inference, from stderr.

    The descriptor belongs to the whole process, and several threads may be in such a block at once: everything else
    that is written meanwhile follows when the last of them leaves it.
    """
    _stderr.hold()
    try:
        yield
    finally:
        _stderr.let_go()


def check_rgb(rgb: np.ndarray) -> np.ndarray:
    """Return `rgb` if it is an (H, W, 3) uint8 picture with at least one pixel, else raise ValueError."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"expected an RGB image (H, W, 3) of uint8 with H, W >= 1, got {rgb.shape} {rgb.dtype}")
    return rgb
