"""Things in front of faces, as RGBA layers: hands, masks, glasses, objects, hair, blocks, hats.

A hand covers a quarter to two thirds of the face each way, as in regressors trained for occluded faces; everything is
placed by the face's own 68 landmarks.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from ofer_models.workshop.pictures.texture import random_skin_tone, smooth_noise

Layer = tuple[np.ndarray, np.ndarray]  # alpha (H, W) 0..1 and colour (H, W, 3) float32


def add_occluders(
    image: np.ndarray, points: np.ndarray, rng: np.random.Generator, share: float = 0.6, hats: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Draw none (1 - share), one or two occluders over image (H, W, 3) float32 around landmarks points (68, 2) px.

    hats: also hats, which the first sets of pictures did not have.

    Returns the picture and the covered part (H, W) float32 in 0..1.
    """
    covered = np.zeros(image.shape[:2], np.float32)
    if rng.uniform() >= share:
        return image, covered
    for _ in range(1 + (rng.uniform() < 0.25)):
        kinds, odds = (_KINDS, _ODDS) if not hats else ((*_KINDS, _hat), _ODDS_WITH_HATS)
        kind = kinds[rng.choice(len(kinds), p=odds)]
        image, alpha = _laid_over(image, kind(image, points, rng))
        covered = np.maximum(covered, alpha)
    return image.astype(np.float32), covered


def add_occluder(
    image: np.ndarray, points: np.ndarray, rng: np.random.Generator, group: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one occluder of a group of GROUPS; arguments and result as for `add_occluders`."""
    kinds = GROUPS[group]
    image, alpha = _laid_over(image, kinds[rng.integers(len(kinds))](image, points, rng))
    return image.astype(np.float32), alpha


def _laid_over(image: np.ndarray, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    alpha, colour = layer
    return image + alpha[..., None] * (colour - image), alpha


def _extent(points: np.ndarray) -> float:
    """Face size in px: the geometric mean of the landmarks' width and height."""
    width, height = np.ptp(points, axis=0)
    return float(np.sqrt(max(width, 4.0) * max(height, 4.0)))


def _canvas(image: np.ndarray) -> np.ndarray:
    return np.zeros(image.shape[:2], np.uint8)


def _fill(canvas: np.ndarray, polygon: np.ndarray) -> None:
    cv2.fillPoly(canvas, [np.round(polygon * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)


def _cloth(image: np.ndarray, colour: np.ndarray, rng: np.random.Generator, roughness: float = 0.12) -> np.ndarray:
    shade = 1 + roughness * smooth_noise(image.shape[0], int(rng.integers(3, 40)), rng)
    slope = np.linspace(rng.uniform(0.75, 1.1), rng.uniform(0.75, 1.1), image.shape[1])
    return (np.asarray(colour) * (shade * slope)[..., None]).astype(np.float32)


def _hand(image: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> Layer:
    """A palm with four fingers and a thumb, turned by up to 90 degrees, centred near a random landmark."""
    size = _extent(points) * rng.uniform(0.35, 0.8)
    centre = points[rng.integers(len(points))] + rng.normal(0, 0.09, 2) * size
    angle = rng.uniform(-np.pi / 2, np.pi / 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    canvas = _canvas(image)

    def capsule(start: tuple[float, float], end: tuple[float, float], width: float) -> None:
        a, b = (centre + turn @ (np.array(at) * size) for at in (start, end))
        cv2.line(
            canvas,
            *(tuple(np.round(p * 16).astype(int).tolist()) for p in (a, b)),
            255,
            max(2, int(width * size)),
            cv2.LINE_AA,
            4,
        )

    capsule((-0.12, 0.25), (0.12, 0.25), 0.48)
    spread = rng.uniform(0.5, 1.6)
    for finger in range(4):
        x = -0.24 + 0.16 * finger
        length = (0.42, 0.5, 0.47, 0.36)[finger] * rng.uniform(0.4, 1.1)
        capsule((x, 0.1), (x + spread * 0.12 * (finger - 1.5), 0.05 - length), rng.uniform(0.12, 0.16))
    capsule((0.2, 0.3), (0.45, 0.05 * rng.normal()), 0.15)
    capsule((0.0, 0.4), (0.0, 1.6), 0.4)  # the arm
    edge = cv2.GaussianBlur(canvas, (0, 0), max(0.5, size * 0.03)).astype(np.float32) / 255
    colour = _cloth(image, random_skin_tone(rng) * rng.uniform(0.5, 1.1), rng, 0.08) * (0.55 + 0.45 * edge[..., None])
    return canvas.astype(np.float32) / 255, colour


def _mask(image: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> Layer:
    """A face mask: from the nose bridge to below the chin, with ear loops."""
    top = points[27] + rng.uniform(0.0, 0.8) * (points[30] - points[27])
    jaw = points[2:15]
    below = jaw + (jaw - points[30]) * rng.uniform(0.02, 0.12)
    lift = np.array([0, 0.02 * _extent(points)])
    outline = np.concatenate([below, [0.5 * (below[-1] + top) - lift, top, 0.5 * (below[0] + top) - lift]])
    canvas = _canvas(image)
    _fill(canvas, outline)
    for loop, ear in ((below[0], points[0]), (below[-1], points[16])):
        cv2.line(
            canvas,
            tuple(loop.astype(int).tolist()),
            tuple(ear.astype(int).tolist()),
            255,
            1 + int(rng.integers(2)),
            cv2.LINE_AA,
        )
    colour = rng.uniform(0.02, 0.2, 3) if rng.uniform() < 0.3 else np.array([0.65, 0.8, 0.9]) + rng.normal(0, 0.15, 3)
    cloth = _cloth(image, np.clip(colour, 0.02, 1), rng)
    for fold in range(rng.integers(0, 4)):
        start, end = (1 - (fold + 1) / 5) * top + (fold + 1) / 5 * points[8], rng.normal(0, 0.02, 2)
        half = (points[12] - points[4]) * 0.4
        cv2.line(
            cloth,
            *(tuple(np.round(p).astype(int).tolist()) for p in (start - half, start + half + end)),
            (colour * 0.75).tolist(),
            1,
            cv2.LINE_AA,
        )
    return canvas.astype(np.float32) / 255, cloth


def _glasses(image: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> Layer:
    """Sunglasses, mostly opaque, or a frame with clear lenses."""
    eyes = [points[36:42].mean(0), points[42:48].mean(0)]
    apart = np.linalg.norm(eyes[1] - eyes[0]) + 1e-3
    angle = np.degrees(np.arctan2(*(eyes[1] - eyes[0])[::-1]))
    lens, frame = _canvas(image), _canvas(image)
    wide, high, thick = (
        rng.uniform(0.34, 0.46) * apart,
        rng.uniform(0.22, 0.38) * apart,
        max(1, int(rng.uniform(0.02, 0.09) * apart)),
    )
    for eye in eyes:
        place = (tuple(np.round(eye).tolist()), (2 * wide, 2 * high), angle)
        cv2.ellipse(lens, place, 255, -1, cv2.LINE_AA)
        cv2.ellipse(frame, place, 255, thick, cv2.LINE_AA)
    for start, end in (
        (eyes[0] + (eyes[1] - eyes[0]) * 0.35, eyes[0] + (eyes[1] - eyes[0]) * 0.65),
        (eyes[0], points[0]),
        (eyes[1], points[16]),
    ):
        cv2.line(frame, tuple(start.astype(int).tolist()), tuple(end.astype(int).tolist()), 255, thick, cv2.LINE_AA)
    frame[(lens > 0) & (frame == 0)] = 0
    opacity = rng.uniform(0.8, 1.0) if rng.uniform() < 0.65 else rng.uniform(0.0, 0.25)
    alpha = np.maximum(frame.astype(np.float32) / 255, opacity * lens.astype(np.float32) / 255)
    return alpha, _cloth(image, rng.uniform(0.01, 0.25, 3), rng, 0.3)


def _object(image: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> Layer:
    """A cup, a phone, a microphone: an ellipse or a rounded box of any colour near the face."""
    size = _extent(points)
    centre = points[rng.integers(len(points))] + rng.normal(0, 0.15, 2) * size
    canvas = _canvas(image)
    place = (tuple(centre.tolist()), tuple((size * rng.uniform(0.15, 0.6, 2)).tolist()), float(rng.uniform(0, 180)))
    if rng.uniform() < 0.5:
        cv2.ellipse(canvas, place, 255, -1, cv2.LINE_AA)
    else:
        _fill(canvas, cv2.boxPoints(place))
    return canvas.astype(np.float32) / 255, _cloth(image, rng.uniform(0, 1, 3), rng, 0.4)


def _hair(image: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> Layer:
    """Strands that fall from above over one eye or the whole forehead."""
    size = _extent(points)
    canvas = _canvas(image)
    crown = points[17:27].mean(0) - [0, 0.55 * size]
    lean, reach = rng.normal(0, 0.5), rng.uniform(0.3, 1.1)
    for _ in range(int(rng.integers(15, 90))):
        start = crown + np.array([rng.uniform(-0.5, 0.5) * size, 0])
        end = start + size * np.array([lean * 0.6 + rng.normal(0, 0.1), reach + rng.normal(0, 0.08)])
        middle = (start + end) / 2 + [0.1 * size * lean, 0]
        strand = np.array([start, middle, end])
        cv2.polylines(
            canvas, [np.round(strand * 16).astype(np.int32)], False, 255, int(rng.integers(1, 4)), cv2.LINE_AA, 4
        )
    return canvas.astype(np.float32) / 255, _cloth(image, rng.uniform(0.03, 0.5) * np.array([1, 0.75, 0.5]), rng, 0.3)


def _hat(image: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> Layer:
    """A crown above the brows, low or high on the forehead, mostly with a brim or a peak."""
    size, across = _extent(points), points[16] - points[0]
    width = float(np.linalg.norm(across)) + 1e-3
    along = across / width
    up = np.array([along[1], -along[0]])  # image y points down
    edge = points[17:27].mean(0) + up * size * rng.uniform(-0.02, 0.3)
    angle = np.linspace(0, np.pi, 24)[:, None]
    half, height = width * rng.uniform(0.52, 0.72), size * rng.uniform(0.45, 0.9)
    canvas = _canvas(image)
    _fill(canvas, edge + np.cos(angle) * half * along + np.sin(angle) * height * up)
    if rng.uniform() < 0.75:
        place = edge + along * size * rng.normal(0, 0.05)
        reach = (2 * width * rng.uniform(0.55, 1.0), 2 * size * rng.uniform(0.03, 0.14))
        brim = (tuple(place.tolist()), reach, float(np.degrees(np.arctan2(along[1], along[0]))))
        cv2.ellipse(canvas, brim, 255, -1, cv2.LINE_AA)
    return canvas.astype(np.float32) / 255, _cloth(image, rng.uniform(0.03, 0.9, 3), rng, 0.2)


def _block(image: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> Layer:
    """A rectangle of one colour or of arbitrary pixels."""
    size = _extent(points)
    centre = points[rng.integers(len(points))]
    low = np.clip((centre - size * rng.uniform(0.1, 0.4, 2)).astype(int), 0, None)
    high = (centre + size * rng.uniform(0.1, 0.4, 2)).astype(int)
    alpha = np.zeros(image.shape[:2], np.float32)
    alpha[low[1] : max(high[1], 0), low[0] : max(high[0], 0)] = 1
    colour = (
        rng.uniform(0, 1, image.shape) if rng.uniform() < 0.3 else np.broadcast_to(rng.uniform(0, 1, 3), image.shape)
    )
    return alpha, colour.astype(np.float32)


_KINDS: tuple[Callable[[np.ndarray, np.ndarray, np.random.Generator], Layer], ...] = (
    _hand,
    _mask,
    _glasses,
    _object,
    _hair,
    _block,
)
_ODDS = (0.3, 0.2, 0.15, 0.15, 0.1, 0.1)
_ODDS_WITH_HATS = (*(0.88 * odds for odds in _ODDS), 0.12)
# As the published tests of several hypotheses group them: hands, objects on or before the face, random shapes.
GROUPS = {"hand": (_hand,), "object": (_mask, _glasses, _object), "random": (_hair, _block)}
