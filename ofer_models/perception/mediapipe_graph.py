"""Access to MediaPipe's graphs: quiet start, its bundled models, one line for a missing installation.

Everything here runs on models inside the MediaPipe wheel; nothing is downloaded.
"""

from __future__ import annotations

import os
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

# Read by the native libraries when they are loaded, so set before MediaPipe is imported.
os.environ.setdefault("GLOG_minloglevel", "3")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

try:
    # Importing the solutions registers the option messages of the calculators inside their graphs.
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


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what native code writes to file descriptor 2; it is shown only if the block raises.

    TensorFlow Lite greets on stderr with every graph, past any log level, so this wraps the building of a graph and its
    first inference. The descriptor belongs to the whole process: keep the block short.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def check_rgb(rgb: np.ndarray) -> np.ndarray:
    """Return `rgb` if it is an (H, W, 3) uint8 picture with at least one pixel, else raise ValueError."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"expected an RGB image (H, W, 3) of uint8 with H, W >= 1, got {rgb.shape} {rgb.dtype}")
    return rgb
