"""What the ROS tests share: a synthetic head, a pipeline without networks, and helpers to drive real nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from ofer_models.head import HeadModel

N_SHAPE, N_EXPRESSION = 8, 6


def synthetic_head(rows: int = 24, columns: int = 32, seed: int = 0) -> HeadModel:
    """An ellipsoid of about 10 x 12 x 10 cm in FLAME layout; its 'face' is the half with z > 0."""
    rng = np.random.default_rng(seed)
    polar = np.linspace(0.05, np.pi - 0.05, rows)
    around = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    sphere = np.stack(
        [
            np.sin(polar)[:, None] * np.sin(around),
            np.repeat(np.cos(polar)[:, None], columns, 1),
            np.sin(polar)[:, None] * np.cos(around),
        ],
        axis=-1,
    ).reshape(-1, 3)
    template = sphere * [0.075, 0.11, 0.09]
    index = np.arange(rows * columns).reshape(rows, columns)
    right = np.roll(index, -1, axis=1)
    faces = np.concatenate(
        [
            np.stack([index[:-1], index[1:], right[:-1]], -1).reshape(-1, 3),
            np.stack([right[:-1], index[1:], right[1:]], -1).reshape(-1, 3),
        ]
    )
    count = len(template)
    jaw_weight = np.clip(-sphere[:, 1] * sphere[:, 2] * 2, 0, 1)
    weights = np.zeros((count, 5))
    weights[:, 1], weights[:, 2] = 1 - jaw_weight, jaw_weight
    face = np.flatnonzero(sphere[:, 2] > 0)
    on_face = np.flatnonzero(np.isin(faces, face).all(1))
    arrays = {
        "v_template": template,
        "shapedirs": 0.002 * rng.normal(size=(count, 3, N_SHAPE + N_EXPRESSION)),
        "posedirs": 0.0005 * rng.normal(size=(36, 3 * count)),
        "J_regressor": np.full((5, count), 1 / count),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "lbs_weights": weights,
        "faces": faces,
        "expression_names": np.array([f"unit{i}" for i in range(N_EXPRESSION)]),
        "mask_face": face,
        "landmarks68_triangle": rng.choice(on_face, 68),
        "landmarks68_bary": np.full((68, 3), 1 / 3),
    }
    return HeadModel(arrays, "0" * 64)


@dataclass(frozen=True)
class FakeFace:
    """The fields of `ofer_models.pipeline.Face`."""

    id: str
    roi: tuple[int, int, int, int]
    confidence: float
    landmarks: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    metric: bool
    shape: np.ndarray
    identity_revision: int
    identity_score: float
    expressions: np.ndarray
    jaws: np.ndarray
    scores: np.ndarray
    selected: int
    occlusion: float
    landmark_error: float


def fake_face(track: str = "f1", hypotheses: int = 15, seed: int = 0, metric: bool = True) -> FakeFace:
    """A face 0.6 m in front of the camera, upright and turned a little, with random coefficients."""
    rng = np.random.default_rng(seed)
    turn = 0.3 * rng.normal()
    yaw = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    return FakeFace(
        id=track,
        roi=(200, 100, 220, 260),
        confidence=0.9,
        landmarks=rng.uniform(200, 300, (478, 3)),
        rotation=np.diag([1.0, -1.0, -1.0]) @ yaw,
        translation=np.array([0.1 * rng.normal(), 0.02, 0.6]),
        metric=metric,
        shape=rng.normal(size=N_SHAPE).astype(np.float32),
        identity_revision=1,
        identity_score=0.5,
        expressions=rng.normal(size=(hypotheses, N_EXPRESSION)).astype(np.float32),
        jaws=(0.1 * rng.normal(size=(hypotheses, 3))).astype(np.float32),
        scores=np.full(hypotheses, 1 / hypotheses, np.float32),
        selected=2 % hypotheses,
        occlusion=0.2,
        landmark_error=0.02,
    )


class FakePipeline:
    """Stands in for FacePipeline: the faces in `tracks` on every frame, or whatever `behaviour(rgb)` does."""

    def __init__(self, head: HeadModel | None = None, behaviour: Callable[[np.ndarray], list] | None = None) -> None:
        self.head = head or synthetic_head()
        self.bundle = SimpleNamespace(name="fake", version="0")
        self.timings = {"detect": 1.0, "expression": 2.0}
        self.tracks = ["f1"]
        self.behaviour = behaviour
        self.frames: list[tuple[tuple[int, ...], float, object]] = []
        self.resets = 0

    def __call__(self, rgb: np.ndarray, stamp: float, intrinsics=None) -> list[FakeFace]:
        assert rgb.dtype == np.uint8 and rgb.shape[2] == 3
        self.frames.append((rgb.shape, stamp, intrinsics))
        if self.behaviour is not None:
            return self.behaviour(rgb)
        return [fake_face(track, seed=i, metric=intrinsics.metric) for i, track in enumerate(self.tracks)]

    def reset(self) -> None:
        self.resets += 1
