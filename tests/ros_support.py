"""What the ROS tests share: a synthetic head, a pipeline without networks, and helpers to drive real nodes."""

from __future__ import annotations

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
