"""The peer that users would pick: MediaPipe's face landmarker with its blendshapes, from its own task file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ofer_models.perception.mediapipe_graph import quiet_stderr
from ofer_models.workshop.pictures.measures import slope

# Measure -> blendshapes whose mean should go with it, by ARKit's names.
_SHAPES = {
    "mouth opening": ("jawOpen",), "corner lift": ("mouthSmileLeft", "mouthSmileRight"),
    "eye aperture": ("eyeBlinkLeft", "eyeBlinkRight"),
    "brow height": ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
}  # fmt: skip
_FALLING = ("eye aperture",)  # less of it, more of the shape


class MediaPipeBlendshapes:
    """Blendshapes by name of the largest face of a picture; needs MediaPipe's `face_landmarker.task`."""

    def __init__(self, task: Path) -> None:
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(task)), output_face_blendshapes=True, num_faces=1
        )
        with quiet_stderr():
            self._landmarker = vision.FaceLandmarker.create_from_options(options)

    def __call__(self, rgb: np.ndarray) -> dict[str, float] | None:
        import mediapipe

        found = self._landmarker.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(rgb)))
        if not found.face_blendshapes:
            return None
        return {shape.category_name: shape.score for shape in found.face_blendshapes[0]}


def blendshape_correlations(
    rows: list[dict[str, float] | None], reference: dict[str, np.ndarray]
) -> dict[str, float]:
    """Correlation with each measure's reference (n,) of the mean of its blendshapes, over rows that have any."""
    there = np.array([row is not None for row in rows])
    figures = {}
    for name, shapes in _SHAPES.items():
        values = np.array([np.mean([row[shape] for shape in shapes]) for row in rows if row is not None])
        known = there & np.isfinite(reference[name])
        kept = known[there]
        sign = -1 if name in _FALLING else 1
        figures[name.replace(" ", "_")] = sign * slope(values[kept], reference[name][known])[1]
    return figures
