"""Random paint for a head: skin, brows, lashes, lips, eyes, mouth, hair. Colours are RGB in 0..1 of linear-ish albedo.

Landmark networks look at edges and colours that bare geometry lacks, so the paint carries those: on an unpainted head
MediaPipe does not see brows and lids.
"""

from __future__ import annotations

import cv2
import numpy as np

from ofer_models.workshop.pictures.surface import EYE_SPAN, PAINT_SIZE, PAINT_SPAN, Surface
from ofer_models.workshop.pictures.texture import random_skin_tone, smooth_noise

_IRISES = np.array([[0.22, 0.13, 0.07], [0.35, 0.23, 0.12], [0.30, 0.42, 0.52], [0.35, 0.42, 0.28], [0.12, 0.07, 0.04]])
_HAIRS = np.array(
    [
        [0.06, 0.05, 0.04],
        [0.20, 0.13, 0.08],
        [0.42, 0.30, 0.17],
        [0.75, 0.60, 0.38],
        [0.45, 0.18, 0.08],
        [0.65, 0.65, 0.65],
    ]
)
_PIXELS_PER_METRE = PAINT_SIZE / PAINT_SPAN
_GRID = np.stack(np.meshgrid(np.arange(PAINT_SIZE), np.arange(PAINT_SIZE)), -1).astype(np.float32)


def paint_head(surface: Surface, landmarks: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Paints (4, P, P, 3) float32 for the materials SKIN, EYE, MOUTH, HAIR.

    landmarks (68, 3) of the mean head, metres, place the brows; None places them above the eye openings.
    """
    tone = random_skin_tone(rng)
    hair = np.clip(_HAIRS[rng.integers(len(_HAIRS))] * rng.uniform(0.7, 1.3), 0.02, 1)
    brow_colour = np.minimum(hair, tone * 0.6) * rng.uniform(0.6, 1.1)
    skin = _skin(surface, tone, rng)
    _brows(skin, surface, landmarks, brow_colour, rng)
    _lashes(skin, surface, brow_colour * 0.5, rng)
    _lips(skin, surface, tone, rng)
    if rng.uniform() < 0.25:
        _beard(skin, surface, hair, rng)
    mouth = np.broadcast_to(np.array([0.35, 0.10, 0.10]) * rng.uniform(0.5, 1.4), skin.shape)
    scalp = skin if rng.uniform() < 0.15 else _hair(hair, rng)
    return np.stack([skin, _eye(rng), mouth, scalp]).astype(np.float32)


def _skin(surface: Surface, tone: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shade = 1 + 0.05 * smooth_noise(PAINT_SIZE, 6, rng) + 0.03 * smooth_noise(PAINT_SIZE, 90, rng)
    skin = tone.astype(np.float32) * shade[..., None]
    redness = np.zeros((PAINT_SIZE, PAINT_SIZE), np.float32)
    for x, y, radius in ((0.035, -0.035, 0.02), (-0.035, -0.035, 0.02), (0, -0.03, 0.012)):
        at = surface.to_paint(surface.centre + np.array([x, y + 0.03]))
        redness += np.exp(-((_GRID - at.astype(np.float32)) ** 2).sum(-1) / (2 * (radius * _PIXELS_PER_METRE) ** 2))
    strength = rng.uniform(0, 0.18)
    return skin * (1 - strength * redness[..., None] * np.array([0.2, 1, 0.9], np.float32))


def _brows(
    skin: np.ndarray, surface: Surface, landmarks: np.ndarray | None, colour: np.ndarray, rng: np.random.Generator
) -> None:
    thickness, rise, length = rng.uniform(0.0022, 0.005), rng.normal(0, 0.0015), rng.uniform(0.85, 1.1)
    density = rng.uniform(0.55, 1.0)
    mask = np.zeros((PAINT_SIZE, PAINT_SIZE), np.uint8)
    for side in (1, -1):
        if landmarks is None:
            columns = np.where(surface.eye_opening.any(0))[0]
            own = columns[(columns > PAINT_SIZE / 2) == (side > 0)]
            top = np.where(surface.eye_opening[:, own].any(1))[0].min()
            x = (
                np.linspace(own.min() - 8, own.max() + 10, 5)
                if side > 0
                else np.linspace(own.min() - 10, own.max() + 8, 5)
            )
            arch = np.array([0.0, 3, 4.5, 4, 0])[::-side]
            line = np.stack([x, top - 0.0135 * _PIXELS_PER_METRE - arch], 1)
        else:
            line = surface.to_paint(landmarks[22:27] if side > 0 else landmarks[17:22])
        line = line.mean(0) + (line - line.mean(0)) * [length, 1.0] - [0, rise * _PIXELS_PER_METRE]
        fine = np.stack([np.interp(np.linspace(0, 4, 24), range(5), line[:, axis]) for axis in (0, 1)], 1)
        inner_first = side > 0
        taper = np.linspace(1.0, 0.45, 24) if inner_first else np.linspace(0.45, 1.0, 24)
        half = thickness * _PIXELS_PER_METRE * taper[:, None] * np.array([[0, 1]])
        outline = np.concatenate([fine - half, (fine + half)[::-1]])
        cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    strokes = 0.75 + 0.35 * smooth_noise(PAINT_SIZE, 160, rng)
    alpha = cv2.GaussianBlur(mask, (0, 0), 1.2).astype(np.float32)[..., None] / 255 * density * strokes[..., None]
    _blend(skin, colour, np.clip(alpha, 0, 1))


def _lashes(skin: np.ndarray, surface: Surface, colour: np.ndarray, rng: np.random.Generator) -> None:
    opening = surface.eye_opening.astype(np.uint8)
    thick = 2 * rng.integers(1, 3) + 1
    ring = cv2.dilate(opening, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thick, thick)))
    upper = np.roll(ring, -1, axis=0) | ring
    alpha = cv2.GaussianBlur(upper.astype(np.float32), (0, 0), 0.8)[..., None] * rng.uniform(0.4, 0.95)
    _blend(skin, colour, np.clip(alpha, 0, 1))
    if rng.uniform() < 0.3:  # eye shadow, or tired eyes
        wide = cv2.GaussianBlur(cv2.dilate(opening, np.ones((13, 13))).astype(np.float32), (0, 0), 5)[..., None]
        _blend(skin, rng.uniform(0.1, 0.7, 3), wide * rng.uniform(0.1, 0.4))


def _lips(skin: np.ndarray, surface: Surface, tone: np.ndarray, rng: np.random.Generator) -> None:
    if rng.uniform() < 0.2:  # lipstick
        colour = np.array([rng.uniform(0.4, 0.85), rng.uniform(0.05, 0.35), rng.uniform(0.1, 0.4)])
    else:
        colour = tone * np.array([rng.uniform(0.85, 1.0), rng.uniform(0.55, 0.8), rng.uniform(0.55, 0.8)])
    alpha = cv2.GaussianBlur(surface.lips, (0, 0), 1.0)[..., None]
    _blend(skin, colour, np.clip(alpha * rng.uniform(0.6, 1.0), 0, 1))


def _beard(skin: np.ndarray, surface: Surface, colour: np.ndarray, rng: np.random.Generator) -> None:
    lips = np.argwhere(surface.lips > 0.5)
    middle, rows = lips.mean(0), (_GRID[..., 1], _GRID[..., 0])
    below = np.clip((rows[0] - middle[0]) / 12 + rng.uniform(0.2, 1.5), 0, 1)
    wide = (
        np.clip(1.3 - np.abs(rows[1] - middle[1]) / (0.055 * _PIXELS_PER_METRE), 0, 1) if rng.uniform() < 0.5 else 1.0
    )
    alpha = below * wide * rng.uniform(0.15, 0.85) * (0.8 + 0.4 * smooth_noise(PAINT_SIZE, 150, rng))
    alpha = cv2.GaussianBlur((alpha * (surface.lips < 0.3)).astype(np.float32), (0, 0), 2)
    _blend(skin, colour, np.clip(alpha, 0, 1)[..., None])


def _eye(rng: np.random.Generator) -> np.ndarray:
    radius = np.linalg.norm(_GRID - PAINT_SIZE / 2, axis=-1) * (EYE_SPAN / PAINT_SIZE)
    iris, pupil = rng.uniform(0.0054, 0.0064), rng.uniform(0.0015, 0.0032)
    white = np.array([0.88, 0.86, 0.84]) * rng.uniform(0.75, 1.05)
    eye = np.broadcast_to(white, (PAINT_SIZE, PAINT_SIZE, 3)).astype(np.float32).copy()
    colour = np.clip(_IRISES[rng.integers(len(_IRISES))] * rng.uniform(0.7, 1.3, 3), 0, 1)
    soft = 0.0004
    ring = np.exp(-(((radius - iris) / 0.0006) ** 2))
    _blend(eye, colour, np.clip((iris - radius) / soft + 0.5, 0, 1)[..., None])
    _blend(eye, colour * 0.3, 0.6 * ring[..., None])
    _blend(eye, np.full(3, 0.02), np.clip((pupil - radius) / soft + 0.5, 0, 1)[..., None])
    return eye


def _hair(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    strands = cv2.resize(rng.uniform(0.5, 1.4, (12, PAINT_SIZE)).astype(np.float32), (PAINT_SIZE, PAINT_SIZE))
    return colour.astype(np.float32) * strands[..., None]


def _blend(target: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    """target <- target (1 - alpha) + colour alpha, in place; alpha (P, P, 1)."""
    target += alpha * (np.asarray(colour, np.float32) - target)
