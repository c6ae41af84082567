"""What cameras add to a picture. numpy and OpenCV alone."""

from __future__ import annotations

import cv2
import numpy as np

SIZE = 256  # pixels of a training picture's side


def camera_effects(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposure, blur, noise, low resolution and JPEG as cameras add them: (H, W, 3) uint8."""
    image = np.clip(image, 0, 1) ** rng.uniform(0.55, 1.1) * rng.uniform(0.8, 1.15)
    if rng.uniform() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6))
    if rng.uniform() < 0.15:
        small = int(SIZE * rng.uniform(0.35, 0.8))
        image = cv2.resize(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (SIZE, SIZE))
    cv2.setRNGSeed(int(rng.integers(2**31 - 1)))  # OpenCV's own noise is many times faster than numpy's
    grain = cv2.randn(np.empty(image.shape, np.float32), (0.0,) * 3, (1.0,) * 3) if rng.uniform() < 0.6 else 0.0
    picture = (np.clip(image + rng.uniform(0, 0.04) * grain, 0, 1) * 255).astype(np.uint8)
    if rng.uniform() < 0.5:
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])[1]
        picture = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return picture
