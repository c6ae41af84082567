"""Pictures of people as the network meets them: cropped a little wrong, mirrored, by many cameras, partly hidden."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from ofer_models.perception.landmark_crop import INPUT, to_unit
from ofer_models.workshop.pictures.people.dataset import PeopleSet

# How far crops by imperfect points lie off: px, share of the size, radians.
_SHIFT, _SIZE, _TURN = 3.0, 0.06, 0.08
_WILD = 0.15  # share of crops that lie three times as far off
_GREY, _SOFT, _SMALL, _SHARP, _NOISY, _LIT = 0.15, 0.12, 0.15, 0.2, 0.25, 0.5  # shares of crops that a camera makes so
_BLOCK = 0.2  # share of crops with a block of noise or of one colour over them


def crop_input(crops: Tensor) -> Tensor:
    """uint8 (n, 128, 128, 3) to float (n, 3, 128, 128) in -1..1, channels last in memory."""
    return ((crops.permute(0, 3, 1, 2).float() - 127.5) / 127.5).contiguous(memory_format=torch.channels_last)


def plain(pictures: PeopleSet, indices: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Crops (n, 128, 128, 3) uint8, points (n, 478, 2) in the network's unit and visible (n, 478), as drawn."""
    margin = (pictures.images[0].shape[1] - INPUT) // 2
    inner = slice(margin, margin + INPUT)
    crops = np.stack([pictures.image(int(index))[inner, inner] for index in indices])
    points = to_unit(pictures.points[indices] - margin).astype(np.float32)
    return torch.from_numpy(crops), torch.from_numpy(points), torch.from_numpy(pictures.visible[indices])


def augmented(
    pictures: PeopleSet, indices: np.ndarray, mirror_order: np.ndarray, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, each picture another one every time; mirror_order (478,): the points' partners in a mirror."""
    return augmented_crops(pictures, indices, mirror_order, rng)[:3]


def augmented_crops(
    pictures: PeopleSet, indices: np.ndarray, mirror_order: np.ndarray, rng: np.random.Generator, blocks: float = _BLOCK
) -> tuple[Tensor, Tensor, Tensor, np.ndarray, np.ndarray]:
    """The same, and how the crops were cut: the maps (n, 2, 3) from picture to crop, before those were mirrored that
    the last array (n,) names. blocks: the share of crops with something laid over them.
    """
    n = len(indices)
    matrices, mirrored = np.empty((n, 2, 3)), np.zeros(n, bool)
    crops = np.empty((n, INPUT, INPUT, 3), np.uint8)
    points, visible = np.empty((n, len(mirror_order), 2), np.float32), np.empty((n, len(mirror_order)), bool)
    for row, index in enumerate(indices):
        matrix = matrices[row] = _random_crop(pictures.images[0].shape[1], rng)
        crop = cv2.warpAffine(pictures.image(int(index)), matrix, (INPUT, INPUT), borderMode=cv2.BORDER_REPLICATE)
        own = pictures.points[index] @ matrix[:, :2].T + matrix[:, 2]
        seen = pictures.visible[index].copy()
        mirrored[row] = rng.uniform() < 0.5
        if mirrored[row]:
            crop = crop[:, ::-1]
            own = (own * [-1, 1] + [INPUT - 1, 0])[mirror_order]
            seen = seen[mirror_order]
        crop = _other_camera(np.ascontiguousarray(crop), rng)
        if rng.uniform() < blocks:
            _lay_block(crop, own, seen, rng)
        crops[row], points[row], visible[row] = crop, to_unit(own), seen
    visible &= (np.abs(points) < 1).all(-1)
    return torch.from_numpy(crops), torch.from_numpy(points), torch.from_numpy(visible), matrices, mirrored


def _random_crop(size: int, rng: np.random.Generator) -> np.ndarray:
    """A map (2, 3) from a picture to a crop near its middle."""
    reach = 3.0 if rng.uniform() < _WILD else 1.0
    angle, scale = reach * rng.normal(0, _TURN), np.exp(reach * rng.normal(0, _SIZE))
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (INPUT - 1) / 2 + reach * rng.normal(0, _SHIFT, 2)
    return np.concatenate([linear, (middle - linear @ np.full(2, (size - 1) / 2))[:, None]], axis=1)


def _other_camera(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, gamma and colour by a table a channel, light from one side; now and then grey, blurred,
    sharpened or noisy: other pictures than the renderer's, so that photographs are one kind more among many."""
    steps = np.linspace(0, 1, 256)
    gamma, gain, offset = np.exp(rng.normal(0, 0.3)), np.exp(rng.normal(0, 0.2)), rng.normal(0, 0.08)
    table = np.stack([np.exp(rng.normal(0, 0.1)) * gain * steps**gamma + offset for _ in range(3)], axis=-1)
    crop = cv2.LUT(crop, (np.clip(table, 0, 1) * 255).astype(np.uint8)[None])
    if rng.uniform() < _LIT:
        crop = cv2.multiply(crop, _light(rng), scale=1 / 128)
    if rng.uniform() < _GREY:
        crop = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.uniform() < _SOFT:
        crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.4, 1.6))
    elif rng.uniform() < _SMALL:
        small = int(INPUT * rng.uniform(0.25, 0.7))
        crop = cv2.resize(cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA), (INPUT, INPUT))
    elif rng.uniform() < _SHARP:
        amount = rng.uniform(0.3, 1.5)
        crop = cv2.addWeighted(crop, 1 + amount, cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.7, 2)), -amount, 0)
    if rng.uniform() < _NOISY:
        noise = np.empty(crop.shape, np.int16)
        cv2.setRNGSeed(int(rng.integers(2**31)))
        cv2.randn(noise, 0, rng.uniform(2, 14))
        crop = cv2.add(crop, noise, dtype=cv2.CV_8U)
    return crop


def _light(rng: np.random.Generator) -> np.ndarray:
    """Light (128, 128, 3) uint8 that changes slowly over a crop, 128 where it changes nothing."""
    corners = 128 * np.exp(rng.normal(0, 0.25, (3, 3, 1)) + rng.normal(0, 0.05, (3, 3, 3)))
    return cv2.resize(np.clip(corners, 30, 255).astype(np.uint8), (INPUT, INPUT), interpolation=cv2.INTER_CUBIC)


def _lay_block(crop: np.ndarray, points: np.ndarray, visible: np.ndarray, rng: np.random.Generator) -> None:
    """Cover a rectangle; the points under it are no longer seen. In place."""
    low = rng.uniform(-0.1, 0.8, 2) * INPUT
    high = low + rng.uniform(0.12, 0.55, 2) * INPUT
    (x0, y0), (x1, y1) = np.clip(low, 0, INPUT).astype(int), np.clip(high, 0, INPUT).astype(int)
    area = crop[y0:y1, x0:x1]
    crop[y0:y1, x0:x1] = rng.integers(0, 256, area.shape if rng.uniform() < 0.3 else 3, dtype=np.uint8)
    visible &= ~((points >= [x0, y0]) & (points < [x1, y1])).all(-1)
