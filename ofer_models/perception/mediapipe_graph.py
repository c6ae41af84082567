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
from contextlib import contextmanager, suppress
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

__all__ = ["NormalizedRect", "SharedGraph", "check_rgb", "quiet_stderr"]


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


class SharedGraph:
    """A graph that any thread may run: started as often as threads run it at the same time, at 10 to 25 MB each."""

    def __init__(self, graph: str, first: Any, **options: Any) -> None:
        """graph: protobuf text; first: an input that each started graph runs on once; options: of `SolutionBase`."""
        self._graph, self._first, self._options = graph, first, options
        self._idle = [self._start()]

    def process(self, inputs: Any) -> Any:
        """As `SolutionBase.process`. Nothing may be carried from one call to the next: who called before is open."""
        try:
            graph, close = self._idle.pop()
        except IndexError:
            graph, close = self._start()
        try:
            answer = graph.process(inputs)
        except BaseException:
            with suppress(Exception):
                close()  # one that failed fails for ever, also for those whose picture is good
            raise
        self._idle.append((graph, close))
        return answer

    def _start(self) -> tuple[SolutionBase, weakref.finalize]:
        with quiet_stderr():
            config = text_format.Parse(self._graph, calculator_pb2.CalculatorGraphConfig())
            started = SolutionBase(graph_config=config, **self._options)
            # One that is merely let go of keeps its memory for ever.
            close = weakref.finalize(self, started.close)
            close.atexit = False
            started.process(self._first)
        return started, close


def check_rgb(rgb: np.ndarray) -> np.ndarray:
    """Return `rgb` if it is an (H, W, 3) uint8 picture with at least one pixel, else raise ValueError."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"expected an RGB image (H, W, 3) of uint8 with H, W >= 1, got {rgb.shape} {rgb.dtype}")
    return rgb
