"""What a pipeline is made with, beside its bundle: one set of settings for Python and for the parameters of a node."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal

from ofer_models.runtime.interface import Backend

METHODS = ("ofer", "regressor")
_COUNTS = ("hypotheses", "candidates", "steps", "threads", "max_faces")
_AMOUNTS = ("drift", "latency_bound", "remember")
_MOST = {"drift": math.inf}  # new noise in every frame; all else is finite


@dataclass(frozen=True)
class PipelineSettings:
    """hypotheses H a face, candidates N a head and sampling steps, None for the bundle's. Equal seeds and frames give
    equal faces. threads: of each stage. backend: auto, tensorrt, onnxruntime or torch (`runtime.backend`),
    or one that is open already.

    background: identities are drawn on a thread beside the frames, which they then never hold up; a face shows the mean
    head until its first one, and what a frame gives depends on time. drift: rate in 1/s at which the hypotheses' noise
    wanders, 0 frozen. latency_bound: ms, kept by a `LoadPlan`; 0: none. remember: seconds for which a lost face's
    identity is kept. ids: of new faces, one after the other; by default f1, f2, ...

    camera_rotation: degrees by which pictures have to be turned clockwise to be upright, 0, 90, 180 or 270; faces of
    other rolls are found all the same, a little later. small_faces: look for them in parts of a picture as well, at the
    cost of one run of the detector for each.

    method: ofer draws hypotheses; regressor tells one answer a face, with a bundle that has one (docs/regressors.md).
    """

    hypotheses: int | None = None
    candidates: int | None = None
    steps: int | None = None
    seed: int = 0
    threads: int = 1
    max_faces: int = 4
    backend: str | Backend = "auto"
    background: bool = False
    drift: float = 0.0
    latency_bound: float = 0.0
    remember: float = 30.0
    camera_rotation: int = 0
    small_faces: bool = False
    method: Literal["ofer", "regressor"] = "ofer"
    ids: Iterator[str] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError, naming the setting, for a number that no pipeline can work with."""
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        for names, kind, least in ((_COUNTS, Integral, 1), (("seed",), Integral, 0), (_AMOUNTS, Real, 0)):
            for name in names:
                value, most = getattr(self, name), _MOST.get(name, sys.float_info.max)
                if value is not None and not (isinstance(value, kind) and least <= value <= most):
                    what = "whole number" if kind is Integral else "number"
                    raise ValueError(f"{name} must be a {what} of at least {least}, got {value!r}")
