"""Light, backgrounds and cameras of the pictures of people."""

from __future__ import annotations

import cv2
import numpy as np

from ofer_models.workshop.pictures.people.raster import LINEAR
from ofer_models.workshop.pictures.render import Lighting
from ofer_models.workshop.pictures.texture import smooth_noise


def random_lighting(rng: np.random.Generator) -> tuple[Lighting, float]:
    """Lights, the first of which casts shadows, in the camera's frame, and how soft its shadows are in map pixels."""
    count = int(rng.integers(1, 4))
    directions = rng.normal(0, 1, (count, 3)) * [1.1, 0.7, 0.6] + [0, -0.55, -0.8]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    warmth = rng.normal(0, 0.12, (count + 2, 1)) * np.array([1.0, 0.1, -1.1])
    warmth = np.exp(warmth + rng.normal(0, 0.03, (count + 2, 3)))
    strengths = rng.dirichlet(np.full(count, 1.2)) * np.exp(rng.uniform(np.log(0.25), np.log(1.6)))
    strengths = np.sort(strengths)[::-1]
    ambient = np.exp(rng.uniform(np.log(0.06), np.log(0.9), (2, 1))) * warmth[count:]
    ambient[0] *= rng.uniform(0.3, 1.0)
    lighting = Lighting(
        directions.astype(np.float32), (strengths[:, None] * warmth[:count]).astype(np.float32),
        ambient.astype(np.float32),
    )  # fmt: skip
    return lighting, float(rng.uniform(0.6, 5.0))


def random_background(size: int, fabrics: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) float32 linear light: a blurred room or wall, a gradient, boxes, lights, leaves or cloth.

    fabrics (n, P, P, 4) uint8: textures to hang somewhere.
    """
    level = np.exp(rng.uniform(np.log(0.02), np.log(0.9)))
    picture = np.broadcast_to(level * np.exp(rng.normal(0, 0.25, 3)), (size, size, 3)).astype(np.float32).copy()
    slope = np.linspace(rng.uniform(0.4, 1.6), rng.uniform(0.4, 1.6), size, dtype=np.float32)
    picture *= slope[:, None, None] if rng.uniform() < 0.5 else slope[None, :, None]
    if rng.uniform() < 0.3:
        picture = _fabric(size, fabrics, rng) * level * 2
    for _ in range(int(rng.integers(0, 3))):
        picture *= np.exp(rng.uniform(0, 0.4) * smooth_noise(size, int(rng.integers(2, 24)), rng))[..., None]
    for _ in range(int(rng.poisson(5))):
        colour = (np.exp(rng.normal(np.log(level), 0.9)) * np.exp(rng.normal(0, 0.4, 3))).clip(0, 1.5).tolist()
        at = rng.uniform(-0.2, 1.1, 2) * size
        if rng.uniform() < 0.75:  # doors, windows, shelves, people far away
            wide = np.exp(rng.uniform(np.log(3), np.log(size), 2))
            angle = float(rng.normal(0, 4) if rng.uniform() < 0.8 else rng.uniform(0, 180))
            box = cv2.boxPoints((tuple(at.tolist()), tuple(wide.tolist()), angle))
            cv2.fillPoly(picture, [np.round(box * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)
        else:
            radius = int(np.exp(rng.uniform(np.log(2), np.log(size / 3))))
            cv2.circle(picture, tuple(np.round(at).astype(int).tolist()), radius, colour, -1, cv2.LINE_AA)
    blur = float(np.exp(rng.uniform(np.log(0.3), np.log(9))))
    return np.clip(cv2.GaussianBlur(picture, (0, 0), blur), 0, 2).astype(np.float32)


def add_shoulders(background: np.ndarray, points: np.ndarray, fabrics: np.ndarray, rng: np.random.Generator) -> None:
    """Clothing below the neck; points (V, 2) px of the head's vertices."""
    size = len(background)
    low, high = points.min(0), points.max(0)
    width, neck = high[0] - low[0], np.array([points[points[:, 1] > high[1] - 4, 0].mean(), high[1]])
    half, drop = width * rng.uniform(0.8, 1.5), rng.uniform(0.1, 0.45)
    rise = rng.uniform(-0.32, -0.04) * width
    outline = [[-0.42 * width, rise], [0.42 * width, rise], [half, drop * width], [1.1 * half, 4 * width]]
    polygon = neck + np.array([*outline, [-1.1 * half, 4 * width], [-half, drop * width]])
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(polygon * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    if rng.uniform() < 0.6:
        cloth = _fabric(size, fabrics, rng) * np.exp(rng.normal(0, 0.4))
    else:
        cloth = np.broadcast_to(np.exp(rng.uniform(np.log(0.01), np.log(0.9))) * np.exp(rng.normal(0, 0.35, 3)),
                                (size, size, 3))  # fmt: skip
    folds = np.exp(0.35 * smooth_noise(size, int(rng.integers(3, 14)), rng))[..., None] * rng.uniform(0.3, 1.0)
    alpha = mask[..., None].astype(np.float32) / 255
    background += alpha * ((cloth * folds).astype(np.float32) - background)


def _fabric(size: int, fabrics: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    texture = fabrics[rng.integers(len(fabrics))]
    side = int(rng.integers(60, 300))
    y, x = rng.integers(0, len(texture) - side, 2)
    return cv2.resize(LINEAR[texture[y : y + side, x : x + side, :3]], (size, size), interpolation=cv2.INTER_LINEAR)


def photograph(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A camera's picture (H, W, 3) uint8 of linear light (H, W, 3): exposure, white balance, tone curve, lens, noise,
    low resolution and JPEG.
    """
    height, width = light.shape[:2]
    middle = light[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4]
    # Exposed for the face, give or take one and a half stops.
    gain = rng.uniform(0.25, 0.45) / (middle.mean() + 0.02) * 2 ** rng.normal(0, 0.55)
    image = light * np.float32(gain) * np.exp(rng.normal(0, 0.09, 3)).astype(np.float32)
    if rng.uniform() < 0.3:
        yy, xx = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        image *= np.exp(-rng.uniform(0, 0.5) * (xx**2 + yy**2))[..., None]
    if rng.uniform() < 0.1:  # haze or stray light
        image = image + rng.uniform(0, 0.12) * np.exp(rng.normal(0, 0.2, 3)).astype(np.float32)
    if rng.uniform() < 0.35:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    elif rng.uniform() < 0.12:
        image = cv2.filter2D(image, -1, _motion(rng))
    noise = float(np.exp(rng.uniform(np.log(0.002), np.log(0.05))))
    cv2.setRNGSeed(int(rng.integers(2**31 - 1)))  # OpenCV's own noise is many times faster than numpy's
    grain = cv2.randn(np.empty(image.shape, np.float32), (0.0,) * 3, (1.0,) * 3)
    image = np.maximum(image, 0)
    image = image + noise * np.sqrt(image + 0.02) * grain
    image = np.maximum(image, 0)
    if rng.uniform() < 0.7:  # a shoulder instead of hard clipping
        white = rng.uniform(1.0, 4.0)
        image = image * (1 + image / white**2) / (1 + 0.6 * image)
    image = np.clip(image, 0, 1) ** rng.uniform(0.4, 0.55)
    grey = image.mean(-1, keepdims=True)
    image = grey + (image - grey) * (0.0 if rng.uniform() < 0.06 else rng.uniform(0.5, 1.25))
    image = (image - 0.5) * rng.uniform(0.8, 1.25) + 0.5
    if rng.uniform() < 0.25:
        small = int(height * rng.uniform(0.3, 0.85))
        image = cv2.resize(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (width, height))
    picture = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    if rng.uniform() < 0.6:
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))])[1]
        picture = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return picture


def _motion(rng: np.random.Generator) -> np.ndarray:
    kernel = np.zeros((9, 9), np.float32)
    angle, reach = rng.uniform(0, np.pi), rng.uniform(1, 4)
    along = np.array([np.cos(angle), np.sin(angle)]) * reach
    ends = [tuple(np.round((4 + sign * along) * 16).astype(int).tolist()) for sign in (-1, 1)]
    cv2.line(kernel, *ends, 1.0, 1, cv2.LINE_AA, 4)
    return kernel / max(kernel.sum(), 1e-6)
