"""Frames of several cameras through their pipelines together: one batch a stage over all faces."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakSet

import numpy as np

from ofer_models.bundle.manifest import REGRESSOR, STAGES, Bundle
from ofer_models.perception.frontend import FaceNetworks
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.pipeline import FacePipeline
from ofer_models.pipeline_look import Look
from ofer_models.pipeline_settings import PipelineSettings
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.face import Face
from ofer_models.tracking.pose_filter import CameraPose

Item, Answer = TypeVar("Item"), TypeVar("Answer")


@dataclass(frozen=True)
class CameraFrame:
    """What a camera's pipeline is to be called with."""

    pipeline: FacePipeline
    rgb: np.ndarray
    stamp: float
    intrinsics: Intrinsics | None = None
    camera_pose: CameraPose | None = None


class SharedStages:
    """One set of a bundle's stages for many pipelines, opened when it is first asked for, and of MediaPipe's networks.
    Each takes the sampling steps of its own settings. Cameras whose settings ask for other stages get a set of their
    own."""

    def __init__(self) -> None:
        self._sets: dict[tuple, tuple[Bundle, StageSet, threading.Lock]] = {}
        self._networks: FaceNetworks | None = None
        self._pipelines: WeakSet[FacePipeline] = WeakSet()

    def pipeline(self, bundle: Bundle, settings: PipelineSettings) -> FacePipeline:
        """A pipeline on the shared stages. Raises as `FacePipeline`."""
        key = (str(bundle.path), settings.threads, settings.backend, settings.method)
        if key not in self._sets:
            names = (REGRESSOR,) if settings.method == "regressor" else STAGES
            stages = StageSet(bundle, settings.threads, settings.steps, settings.backend, names)
            self._sets[key] = bundle, stages, threading.Lock()
        known, stages, drawing = self._sets[key]
        stages = stages.sharing(settings.steps)
        for name in ("idgen", "idrank"):  # which every pipeline's own thread calls
            if hasattr(stages, name):
                setattr(stages, name, _OneAtATime(getattr(stages, name), drawing))
        self._networks = self._networks or FaceNetworks()
        pipeline = FacePipeline(known, settings, stages=stages, networks=self._networks)
        self._pipelines.add(pipeline)
        return pipeline

    def close(self) -> None:
        """Close the pipelines and let go of the stages; returns when frames and draws at work have ended."""
        for pipeline in list(self._pipelines):
            pipeline.close()
        sets, self._sets, self._networks = self._sets, {}, None
        for _, stages, _ in sets.values():
            stages.close()


class _OneAtATime:
    """A stage that several threads call, each with such a one of its own; lock: of them all."""

    def __init__(self, stage: Any, lock: threading.Lock) -> None:
        self._stage, self._lock = stage, lock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        with self._lock:
            return self._stage(*arguments, **named)


def process_together(frames: Sequence[CameraFrame], pool: Executor | None = None) -> list[list[Face] | Exception]:
    """For each of the frames, all of different pipelines, its faces, or what its pipeline raised.

    Perception is done camera by camera, on the threads of `pool` where there is one; hypotheses are drawn and posed in
    one batch over all pipelines that share their stages, steps, hypotheses and tier. What one frame raises changes
    nothing for the others.
    """
    answers: list[list[Face] | Exception] = [[] for _ in frames]
    looked = _each(lambda one: one.pipeline.look(one.rgb, one.stamp, one.intrinsics, one.camera_pose), frames, pool)
    with ExitStack() as locks:
        groups: dict[tuple, list[tuple[int, Look]]] = {}
        for number, (frame, look) in enumerate(zip(frames, looked, strict=True)):
            if isinstance(look, Exception):
                answers[number] = look
                continue
            locks.enter_context(frame.pipeline.lock)
            frame.pipeline.recall(look)
            groups.setdefault(look.batch_key, []).append((number, look))
        for group in groups.values():
            for number, answer in _batch(group):
                answers[number] = answer
    return answers


def _batch(group: list[tuple[int, Look]]) -> Iterable[tuple[int, list[Face] | Exception]]:
    looks = [look for _, look in group]
    try:
        looks[0].pipeline.draw(looks)
        for look in looks:
            look.pipeline.identify(look)
        return list(zip([number for number, _ in group], looks[0].pipeline.pose(looks), strict=True))
    except Exception as error:
        if len(group) == 1:
            return [(group[0][0], error)]
        return [answer for one in group for answer in _batch([one])]  # whose it is


def _each(
    work: Callable[[Item], Answer], items: Sequence[Item], pool: Executor | None
) -> list[Answer | Exception]:
    def guarded(item: Item) -> Answer | Exception:
        try:
            return work(item)
        except Exception as error:
            return error

    return list((pool.map if pool and len(items) > 1 else map)(guarded, items))
