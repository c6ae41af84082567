"""CFR-GAN's synthesised occlusions and the list of what else befalls its training pictures.

Pictures are (S, S, 3) uint8 RGB, landmarks (68, 2) px. Shares and ranges: Ju et al. (WACV 2022) and its public code.
"""

from __future__ import annotations

import cv2
import numpy as np

from ofer_models.workshop.pictures.occluders import add_occluders

_TWO_HANDS = 0.2
_SIDES, _SECOND = (0.25, 0.67), 0.25  # of the picture's side: a first hand's width and height, and a second's
_JITTER, _AROUND = 0.09, 20 / 224  # of the side: about a landmark, and half the patch whose mean colour a hand has
_CLEAN, _COLOURS, _SMALL, _TURNED, _BORDER = 0.5, 0.5, 0.25, 0.25, 0.25  # shares of the pictures
_STRENGTH, _SHRINK, _TURN = 0.3, 4, 45.0
_HAND = 96  # px of a drawn hand's side


def add_hands(picture: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One hand (80 %) or two of the colour that the face has there, over a random landmark."""
    covered = picture.copy()
    size = len(picture)
    for number in range(1 + (rng.uniform() < _TWO_HANDS)):
        sides = np.full(2, _SECOND) if number else rng.uniform(*_SIDES, 2)
        middle = np.clip(landmarks[rng.integers(len(landmarks))], 0, size - 1)
        near = round(_AROUND * size)
        x, y = np.round(middle).astype(int)
        colour = covered[max(y - near, 0) : y + near, max(x - near, 0) : x + near].reshape(-1, 3).mean(0)
        at = middle + rng.uniform(-_JITTER, _JITTER, 2) * size
        covered[_hand(size, at, sides * size, float(rng.uniform(-90, 90)), rng)] = colour
    return covered


def covered(picture: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What hides a face in the second stage: hands as above, or masks, glasses, objects and hair as they look."""
    if rng.uniform() < 0.5:
        return add_hands(picture, landmarks, rng)
    return np.clip(255 * add_occluders(picture / np.float32(255), landmarks, rng, 1.0)[0], 0, 255).astype(np.uint8)


def first_stage(
    picture: np.ndarray, landmarks: np.ndarray, occluded: np.ndarray | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The occluded picture that the regressor sees, the clean one and its landmarks, augmented.

    occluded: one that somebody has made of this picture; hands are drawn otherwise. Half of all are seen clean.
    """
    if rng.uniform() < _CLEAN:
        seen = picture.copy()
    else:
        seen = add_hands(picture, landmarks, rng) if occluded is None else occluded.copy()
    if rng.uniform() < _COLOURS:
        jitter = _colour_jitter(rng)
        picture, seen = jitter(picture), jitter(seen)
    if rng.uniform() < _SMALL:
        seen = _shrunk(seen)
    if rng.uniform() < _TURNED:
        size = len(picture)
        matrix = cv2.getRotationMatrix2D(((size - 1) / 2,) * 2, float(rng.uniform(-_TURN, _TURN)), 1.0)
        picture, seen = (cv2.warpAffine(part, matrix, (size, size)) for part in (picture, seen))
        landmarks = landmarks @ matrix[:, :2].T + matrix[:, 2]
    if rng.uniform() < _BORDER:
        seen = _without_border(seen, rng)
    return seen, picture, landmarks


def second_stage(
    picture: np.ndarray, landmarks: np.ndarray, occluded: np.ndarray | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What the student sees, clean in half of the pictures, and what the teacher sees."""
    if rng.uniform() < _CLEAN:
        seen = picture.copy()
    else:
        seen = covered(picture, landmarks, rng) if occluded is None else occluded.copy()
    jitter = _colour_jitter(rng)
    picture, seen = jitter(picture), jitter(seen)
    if rng.uniform() < 0.5:
        picture, seen = (np.ascontiguousarray(part[:, ::-1]) for part in (picture, seen))
    return (_shrunk(seen) if rng.uniform() < _SMALL else seen), picture


def _hand(size: int, at: np.ndarray, sides: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Where a hand of sides (2,) px lies (size, size) bool: a palm, four fingers and a thumb, turned."""
    shape = np.zeros((_HAND, _HAND), np.uint8)

    def finger(start: tuple[float, float], end: tuple[float, float], wide: float) -> None:
        ends = (tuple(round(value * _HAND) for value in point) for point in (start, end))
        cv2.line(shape, *ends, 255, round(wide * _HAND))

    finger((0.38, 0.72), (0.62, 0.72), 0.42)
    for number, length in enumerate((0.36, 0.46, 0.44, 0.34)):
        start = 0.24 + 0.17 * number
        finger((start, 0.6), (start + rng.normal(0, 0.03), 0.6 - length * rng.uniform(0.7, 1.1)), 0.13)
    finger((0.75, 0.75), (0.93, 0.5 + rng.normal(0, 0.05)), 0.14)
    turn = cv2.getRotationMatrix2D((_HAND / 2, _HAND / 2), degrees, 1.0)
    scale = np.diag([*(sides / _HAND), 1.0])
    shift = np.eye(3)
    shift[:2, 2] = at - sides / 2
    matrix = (shift @ scale @ np.vstack([turn, [0, 0, 1]]))[:2]
    return cv2.warpAffine(shape, matrix, (size, size)) > 127


def _colour_jitter(rng: np.random.Generator):
    """Another brightness, contrast and saturation, the same for all pictures that it is called on."""
    brightness, contrast, saturation = rng.uniform(1 - _STRENGTH, 1 + _STRENGTH, 3)

    def jitter(picture: np.ndarray) -> np.ndarray:
        values = picture.astype(np.float32) * brightness
        grey = values @ np.float32([0.299, 0.587, 0.114])
        values = (values - grey.mean()) * contrast + grey.mean()
        grey = values @ np.float32([0.299, 0.587, 0.114])
        values = grey[..., None] + (values - grey[..., None]) * saturation
        return np.clip(values, 0, 255).astype(np.uint8)

    return jitter


def _shrunk(picture: np.ndarray) -> np.ndarray:
    size = len(picture)
    small = cv2.resize(picture, (size // _SHRINK,) * 2, interpolation=cv2.INTER_LINEAR)
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)


def _without_border(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Black above and left of a corner, and below and right of a box that begins there."""
    size = len(picture)
    y, x = rng.integers(0, size // 4 + 1, 2)
    height, width = rng.integers(size // 2, 3 * size // 4 + 1, 2)
    cut = picture.copy()
    cut[:y], cut[:, :x] = 0, 0
    cut[y + height :, x + width :] = 0
    return cut
