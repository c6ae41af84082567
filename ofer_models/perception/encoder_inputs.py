"""The named inputs of a bundle's encoders, made of a frame and its faces' landmarks."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from ofer_models.perception.crops import (
    aligned_crop,
    box_of,
    five_points,
    landmark_features,
    loose_crop,
    quarter_of,
)
from ofer_models.perception.landmark_crop import landmark_crop

# Mean and standard deviation of CLIP's image preprocessing, RGB in 0..1.
_CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
_CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])


def crop_blob(crops: np.ndarray) -> np.ndarray:
    """(F, 3, h, w) float32 in -1..1 from crops (F, h, w, 3) uint8, channel order kept."""
    return np.ascontiguousarray(((crops.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2))


def clip_blob(crops: np.ndarray) -> np.ndarray:
    """(F, 3, 224, 224) float32, CLIP-normalised, from loose RGB crops (F, 224, 224, 3) uint8."""
    scale, offset = 1 / (255 * _CLIP_STD), _CLIP_MEAN / _CLIP_STD
    return np.ascontiguousarray((crops * scale.astype(np.float32) - offset.astype(np.float32)).transpose(0, 3, 1, 2))


def _upright_crop(rgb: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The loose crop of a face (478, >=2) px, turned by quarters where the face is not upright in the picture."""
    left, right = five_points(points)[:2]
    roll = math.atan2(right[1] - left[1], right[0] - left[0])
    return np.rot90(loose_crop(rgb, box_of(points)), quarter_of(roll))


def encoder_inputs(rgb: np.ndarray, points: np.ndarray, names: Collection[str]) -> dict[str, np.ndarray]:
    """The named encoder inputs for all faces of a frame.

    rgb (H, W, 3) uint8, points (F, 478, 3) px, F >= 1.  names: any of `crop112` (F, 3, 112, 112) RGB in -1..1,
    `crop112_bgr` the same in BGR (the released checkpoints were used so), `crop128` (F, 3, 128, 128) of the landmark
    network, RGB in -1..1, `crop224` (F, 3, 224, 224) CLIP-normalised, `landmarks` (F, 478, 6).  All float32.  Raises
    ValueError for another name.
    """
    inputs: dict[str, np.ndarray] = {}
    for name in names:
        if name in ("crop112", "crop112_bgr"):
            crops = np.stack([aligned_crop(rgb, face)[0] for face in points])
            inputs[name] = crop_blob(crops if name == "crop112" else crops[..., ::-1])
        elif name == "crop128":
            inputs[name] = crop_blob(np.stack([landmark_crop(rgb, face)[0] for face in points]))
        elif name == "crop224":
            inputs[name] = clip_blob(np.stack([_upright_crop(rgb, face) for face in points]))
        elif name == "landmarks":
            inputs[name] = landmark_features(points)
        else:
            raise ValueError(f"unknown encoder input '{name}': use crop112, crop112_bgr, crop128, crop224 or landmarks")
    return inputs
