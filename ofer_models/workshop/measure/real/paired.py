"""The same photograph bare and with an occluder drawn over it: a test that needs no 3D truth.

Where both pictures show the face, the hypotheses should agree with what the bare one was read as; where the occluder
lies, they should spread and hold that answer among them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ofer_models.head.landmark_sets import LANDMARKS68, N_MEDIAPIPE
from ofer_models.tracking.spread import REGIONS
from ofer_models.workshop.measure.metrics.hypotheses import inside_region, spread
from ofer_models.workshop.measure.real.readings import Photograph, Reader, Reading
from ofer_models.workshop.pictures.occluders import GROUPS, add_occluder

_CANVAS = 256  # px: the square in which an occluder is drawn
_AROUND = 1.9  # of the face's longer side: the square's side
_SHARE, _FLOOR = 0.9, 0.05  # of the hypotheses inside their region; mm added to every deviation
_MOST = 0.8  # part of a region's points that must be covered for it to count as hidden
_SAME = 0.35  # parts of the face's size that its centre may move between the two pictures


@dataclass(frozen=True)
class Pair:
    """bare and covered: readings of one face. hidden (468,) bool: MediaPipe's points that the occluder lies on."""

    bare: Reading
    covered: Reading
    hidden: np.ndarray


def draw_occluder(
    rgb: np.ndarray, points: np.ndarray, group: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) uint8 with one occluder of GROUPS before the face with points (478, >=2) px, and the part of
    it that is covered, (H, W) in 0..1."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    scale = _CANVAS / (_AROUND * float((high - low).max()))
    to_canvas = np.column_stack([scale * np.eye(2), _CANVAS / 2 - scale * (low + high) / 2])
    face = cv2.warpAffine(rgb, to_canvas, (_CANVAS, _CANVAS), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    places = points[LANDMARKS68, :2] @ to_canvas[:, :2].T + to_canvas[:, 2]
    clean = face.astype(np.float32) / 255
    drawn, alpha = add_occluder(clean, places, rng, group)
    colour = np.where(alpha[..., None] > 0.02, (drawn - (1 - alpha[..., None]) * clean) / (alpha[..., None] + 1e-6), 0)
    size, inverse = (rgb.shape[1], rgb.shape[0]), cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    cover = cv2.warpAffine(alpha, to_canvas, size, flags=inverse)
    paint = cv2.warpAffine((colour * alpha[..., None]).astype(np.float32), to_canvas, size, flags=inverse)
    mixed = rgb.astype(np.float32) * (1 - cover[..., None]) + 255 * np.clip(paint, 0, 1)
    return np.clip(mixed, 0, 255).astype(np.uint8), cover


def read_pairs(reader: Reader, photograph: Photograph, bare: Reading, seed: tuple[int, ...]) -> list[Pair]:
    """One pair for each group of occluders under which the same face is found again."""
    rgb, points = photograph.read(), bare.face.landmarks
    size = float(np.ptp(points[:, :2], axis=0).max())
    pairs = []
    for number, group in enumerate(GROUPS):
        covered, alpha = draw_occluder(rgb, points, group, np.random.default_rng((*seed, number)))
        x, y = np.round(points[:N_MEDIAPIPE, :2]).astype(int).T
        height, width = alpha.shape
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        hidden = inside & (alpha[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] > 0.5)
        faces, camera = reader.faces(covered)
        middle = points[:, :2].mean(0)
        same = [face for face in faces if np.linalg.norm(face.landmarks[:, :2].mean(0) - middle) < _SAME * size]
        if same and hidden.any():
            pairs.append(Pair(bare, reader.reading(bare.picture, same[0], camera), hidden))
    return pairs


def pair_figures(pairs: list[Pair]) -> dict[str, float]:
    """agreement_seen_mm, agreement_hidden_mm: distance of the hypotheses' means, bare and covered, at points that the
    occluder leaves open / lies on (medians). closest_hidden_mm: that of the hypothesis nearest to the bare answer.
    spread_hidden_mm and spread_seen_mm at such points, spread_ratio their quotient (medians); spread_bare_ratio: at the
    hidden points, covered / bare. coverage_hidden: share of hidden points whose bare answer lies in the region that
    holds 90 % of the hypotheses. mouth_spread_mm and mouth_spread_bare_mm: over the pairs whose mouth is hidden, and
    mouth_spread_ratio. pairs, mouth_pairs: how many.
    """
    mouth = np.isin(np.arange(N_MEDIAPIPE), REGIONS["mouth"])
    columns: dict[str, list[np.ndarray]] = {}

    def note(name: str, values: np.ndarray) -> None:
        columns.setdefault(name, []).append(np.atleast_1d(values))

    for pair in pairs:
        apart = np.linalg.norm(pair.covered.mean_shape - pair.bare.mean_shape, axis=-1)
        wide, wide_bare = spread(pair.covered.shapes), spread(pair.bare.shapes)
        hidden, seen = pair.hidden, ~pair.hidden
        each = np.linalg.norm(pair.covered.shapes - pair.bare.mean_shape, axis=-1)[:, hidden]
        note("agreement_seen_mm", apart[seen])
        note("agreement_hidden_mm", apart[hidden])
        note("closest_hidden_mm", each[(each**2).mean(1).argmin()])
        note("spread_hidden_mm", wide[hidden])
        note("spread_seen_mm", wide[seen])
        note("spread_bare_mm", wide_bare[hidden])
        note("coverage_hidden", inside_region(
            pair.covered.shapes[:, hidden], pair.bare.mean_shape[hidden], _SHARE, _FLOOR
        ))  # fmt: skip
        if hidden[mouth].mean() >= _MOST:
            note("mouth_spread_mm", np.sqrt((wide[mouth] ** 2).mean()))
            note("mouth_spread_bare_mm", np.sqrt((wide_bare[mouth] ** 2).mean()))
            note("mouth_coverage", inside_region(
                pair.covered.shapes[:, mouth], pair.bare.mean_shape[mouth], _SHARE, _FLOOR
            ))  # fmt: skip
    pooled = {name: np.concatenate(parts) for name, parts in columns.items()}
    means = ("coverage_hidden", "mouth_coverage", "mouth_spread_mm", "mouth_spread_bare_mm")
    figures = {name: float(values.mean() if name in means else np.median(values)) for name, values in pooled.items()}
    for ratio, above, below in (
        ("spread_ratio", "spread_hidden_mm", "spread_seen_mm"),
        ("spread_bare_ratio", "spread_hidden_mm", "spread_bare_mm"),
        ("mouth_spread_ratio", "mouth_spread_mm", "mouth_spread_bare_mm"),
    ):
        if above in figures and below in figures:
            figures[ratio] = figures[above] / max(figures[below], 1e-9)
    return figures | {"pairs": len(pairs), "mouth_pairs": len(columns.get("mouth_spread_mm", []))}
