"""The measured quality of a view."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from ofer_models.tracking.view_quality import FULL_SIZE_PX, sharpness, view_quality

FRONTAL = np.array([0.0, 0.0, -1.0])
FACE = astronaut()[60:190, 160:290]


def points(eye_corners_apart: float) -> np.ndarray:
    landmarks = np.zeros((478, 3))
    landmarks[263, 0] = eye_corners_apart
    return landmarks


def crop(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (112, 112)).transpose(2, 0, 1) / np.float32(127.5) - 1


def test_quality_is_one_for_a_large_bare_frontal_sharp_face_and_falls_with_each():
    assert view_quality(points(FULL_SIZE_PX), FRONTAL, 0.0) == pytest.approx(1)
    assert view_quality(points(10 * FULL_SIZE_PX), FRONTAL, 0.0) == pytest.approx(1)
    assert view_quality(points(FULL_SIZE_PX / 2), FRONTAL, 0.0) == pytest.approx(0.5)
    assert view_quality(points(FULL_SIZE_PX), FRONTAL, 0.25) == pytest.approx(0.75)
    assert view_quality(points(FULL_SIZE_PX), FRONTAL, 0.0, 0.3) == pytest.approx(0.3)
    turned = [view_quality(points(100), np.array([np.sin(a), 0, -np.cos(a)]), 0.0) for a in np.radians([0, 30, 60, 89])]
    assert (np.diff(turned) < 0).all() and turned[-1] < 0.01
    assert view_quality(points(100), -FRONTAL, 0.0) == 0  # a pose that looks away is no view at all


def test_sharpness_falls_with_blur_and_size_but_not_with_light():
    sharp = sharpness(crop(FACE))
    blurred = [sharpness(crop(cv2.GaussianBlur(FACE, (0, 0), sigma))) for sigma in (2.0, 4.0, 6.0)]
    assert sharp > 0.9 and (np.diff([sharp, *blurred]) < 0).all() and blurred[-1] < 0.35
    small = sharpness(crop(cv2.resize(FACE, (20, 20), interpolation=cv2.INTER_AREA)))
    assert small < 0.8 * sharp
    assert sharpness(0.3 * crop(FACE) - 0.5) == pytest.approx(sharp, abs=1e-5)
    noisy = np.clip(FACE + np.random.default_rng(0).normal(0, 8, FACE.shape), 0, 255).astype(np.uint8)
    assert sharpness(crop(noisy)) == pytest.approx(sharp, rel=0.2)
    assert sharpness(np.zeros((3, 112, 112), np.float32)) == 0.0
