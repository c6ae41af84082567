"""The numbers of a reconstruction: arrays for an .npz, every coefficient by its name for a .json."""

from __future__ import annotations

from typing import Any

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.conventions import HEAD_AXES, JAW_CONVENTION, JAW_NAMES, UNITS, shape_names
from ofer_models.reconstruction.result import Reconstruction

CAMERA_AXES = "x right, y down, z forward"
_DIGITS = 7  # what float32 holds


def arrays(result: Reconstruction) -> dict[str, np.ndarray]:
    """Everything as plain arrays: betas (S,), expressions (H, E), jaws (H, 3) rad, scores (H,), selected, the pose,
    the camera, landmarks (478, 3) px, spread_mm (V,), and the coefficients' names.
    """
    face, camera = result.face, result.intrinsics
    return {
        "betas": face.shape, "shape_names": np.array(shape_names(len(face.shape))),
        "identity_score": np.float32(face.identity_score),
        "expressions": face.expressions, "expression_names": np.array(result.head.expression_names),
        "jaws": face.jaws, "jaw_names": np.array(JAW_NAMES),
        "scores": face.scores, "selected": np.int64(face.selected),
        "rotation": face.rotation, "translation": face.translation, "metric": np.bool_(face.metric),
        "camera_matrix": camera.K, "image_size": np.array([camera.width, camera.height]),
        "roi": np.array(face.roi), "confidence": np.float32(face.confidence), "landmarks": face.landmarks,
        "occlusion": np.float32(face.occlusion), "landmark_error": np.float32(face.landmark_error),
        "spread_mm": result.spread_mm.astype(np.float32),
    }  # fmt: skip


def document(result: Reconstruction, bundle: Bundle, picture: str, seed: int, candidates: int) -> dict[str, Any]:
    """The same, but for landmarks and spread at every vertex, as plain types with names, units and provenance."""
    face, head = result.face, result.head

    def named(names: list[str] | tuple[str, ...], values: np.ndarray) -> dict[str, float]:
        return dict(zip(names, _plain(values), strict=True))

    return {
        "picture": picture,
        "bundle": {"name": bundle.name, "version": bundle.version, "head_sha256": head.sha256},
        "seed": seed,
        "units": UNITS,
        "head_axes": HEAD_AXES,
        "camera_axes": CAMERA_AXES,
        "jaw": JAW_CONVENTION,
        "face": {
            "name": result.name, "roi": list(face.roi), "confidence": _plain(face.confidence),
            "occlusion": _plain(face.occlusion), "landmark_error": _plain(face.landmark_error),
        },
        "pose": {
            "rotation": _plain(face.rotation), "translation": _plain(face.translation), "metric": face.metric,
            "camera_matrix": _plain(result.intrinsics.K),
            "image_size": [result.intrinsics.width, result.intrinsics.height],
        },
        "identity": {
            "score": _plain(face.identity_score), "candidates": candidates,
            "shape": named(shape_names(len(face.shape)), face.shape),
        },
        "selected": face.selected,
        "hypotheses": [
            {"score": score, "expression": named(head.expression_names, expression), "jaw": named(JAW_NAMES, jaw)}
            for score, expression, jaw in zip(_plain(face.scores), face.expressions, face.jaws, strict=True)
        ],
        "spread_mm": {"face_mean": _plain(result.face_spread_mm), "largest": _plain(result.spread_mm.max())},
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Floats (and nested lists of them) without digits that float32 does not have; None for NaN, which JSON lacks."""
    if np.ndim(value):
        return [_plain(item) for item in value]
    return None if np.isnan(value) else float(f"{float(value):.{_DIGITS}g}")
