"""The built-in scene: one photographed face, panned, zoomed and rolled, with an occluder sweeping across it.

A real face that needs no download: `skimage.data.astronaut()` (NASA, public domain). Everything is a function of the
frame number, so the same scene is the same pixels, and how much of the face is visible is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

WIDTH, HEIGHT = 640, 480
RATE = 30.0  # Hz
DURATION = 15.0  # s
FRAMES = int(RATE * DURATION)

# The face in the photograph: an ellipse around MediaPipe's 478 points, px.
_FACE_CENTRE = np.array([225.0, 123.0])
_FACE_AXES = np.array([48.0, 54.0])
# Once this share of the face is uncovered and inside the picture, a tracker should have it.
VISIBLE_SHARE = 0.5

_SWEEP_START, _SWEEP_END = 5.0, 12.5  # s; before and after, the face is free
_OCCLUDER_AXES = np.array([0.42, 0.75])  # of the face's height: about a hand over a third of the face
_OCCLUDER_COLOR = (176, 128, 104)


_MARGIN = 200  # px of blurred surroundings added on every side, so that panning never shows a hard edge
_FEATHER = 20  # px over which the photograph fades into them


@dataclass(frozen=True)
class SceneFrame:
    """rgb (480, 640, 3) uint8; face_visible: share 0..1 of the face that is inside the picture and not covered."""

    rgb: np.ndarray
    face_visible: float

    @property
    def expects_face(self) -> bool:
        return bool(self.face_visible >= VISIBLE_SHARE)


class Scene:
    """Renders frame `index` of the scene. Raises ImportError, with the remedy, where scikit-image is missing."""

    def __init__(self) -> None:
        try:
            from skimage.data import astronaut
        except ImportError:
            raise ImportError("the built-in scene needs scikit-image: pip install scikit-image") from None
        self._photo = _with_margin(astronaut())
        rng = np.random.default_rng(0)
        noise = cv2.resize(
            rng.uniform(-18, 18, (24, 24, 1)).astype(np.float32), (256, 256), interpolation=cv2.INTER_CUBIC
        )
        self._skin = np.clip(np.float32(_OCCLUDER_COLOR) + noise[..., None], 0, 255)

    def __call__(self, index: int) -> SceneFrame:
        time = (index % FRAMES) / RATE
        zoom = 1.75 + 0.45 * np.sin(2 * np.pi * time / 7.5)
        roll = np.radians(16.0) * np.sin(2 * np.pi * time / 5.0)
        centre = np.array([320 + 110 * np.sin(2 * np.pi * time / 6.0), 235 + 45 * np.sin(2 * np.pi * time / 4.3)])
        cosine, sine = zoom * np.cos(roll), zoom * np.sin(roll)
        turn = np.array([[cosine, -sine], [sine, cosine]])
        matrix = np.column_stack([turn, centre - turn @ (_FACE_CENTRE + _MARGIN)])
        rgb = cv2.warpAffine(
            self._photo, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        face = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.ellipse(face, (tuple(centre), tuple(2 * zoom * _FACE_AXES), float(np.degrees(roll))), 255, -1)
        cover = self._occluder(time, centre, zoom, rgb)
        free = np.count_nonzero(face[~cover]) if cover is not None else np.count_nonzero(face)
        return SceneFrame(rgb, free / (np.pi * np.prod(zoom * _FACE_AXES)))

    def _occluder(self, time: float, centre: np.ndarray, zoom: float, rgb: np.ndarray) -> np.ndarray | None:
        """Paint a palm with fingers into `rgb`; the mask (480, 640) it covers, or None while it is away."""
        if not _SWEEP_START <= time <= _SWEEP_END:
            return None
        progress = (time - _SWEEP_START) / (_SWEEP_END - _SWEEP_START)
        size = 2 * zoom * _FACE_AXES[1]
        # In from the left low on the face, out to the right.
        offset = np.array([-1.6 + 3.2 * progress, 0.55 - 0.25 * np.sin(np.pi * progress)]) * size
        palm = centre + offset
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.ellipse(mask, (tuple(palm), tuple(_OCCLUDER_AXES * size), 0.0), 255, -1)
        for finger in (-0.15, -0.05, 0.05, 0.15):
            start, end = palm + size * np.array([finger, -0.2]), palm + size * np.array([1.4 * finger, -0.62])
            cv2.line(mask, tuple(start.astype(int)), tuple(end.astype(int)), 255, max(int(0.085 * size), 1))
        cover = mask > 0
        # The texture sticks to the occluder.
        rows, columns = np.nonzero(cover)
        u = ((columns - palm[0]) % 256).astype(int)
        v = ((rows - palm[1]) % 256).astype(int)
        rgb[cover] = self._skin[v, u].astype(np.uint8)
        return cover


def _with_margin(photo: np.ndarray) -> np.ndarray:
    """The photograph with blurred surroundings. Mirrored ones would show a second face."""
    wide = cv2.copyMakeBorder(photo, *(4 * (_MARGIN,)), cv2.BORDER_REPLICATE)
    blurred = cv2.GaussianBlur(wide, (0, 0), 25)
    sharp = np.zeros((*wide.shape[:2], 1), np.float32)
    sharp[_MARGIN + _FEATHER : -_MARGIN - _FEATHER, _MARGIN + _FEATHER : -_MARGIN - _FEATHER] = 1
    sharp = cv2.GaussianBlur(sharp, (0, 0), _FEATHER / 2)[..., None]
    return (sharp * wide + (1 - sharp) * blurred).astype(np.uint8)
