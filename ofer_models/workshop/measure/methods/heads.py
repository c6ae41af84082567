"""Heads and expressions on Open-545 by each method: NoW's error of the neutral head, and how far the face lies off.

The networks by themselves with hypotheses moved to landmarks, as in `open545`; the expression is judged on the true
head, in mm, at those vertices that the occluder hides and at those that stay in view, on both halves alike.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.perception.intrinsics import Intrinsics
from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.drifting_noise import hypothesis_noise
from ofer_models.workshop.measure.methods.landmark_fit import LandmarkFit
from ofer_models.workshop.measure.metrics.now import pool, scan_distances
from ofer_models.workshop.measure.open545.expression import FaceDecoder
from ofer_models.workshop.measure.open545.held_out import encoder_arrays, unpack
from ofer_models.workshop.measure.open545.identity import FrontalErrors
from ofer_models.workshop.measure.open545.moved import Mover, Observer
from ofer_models.workshop.measure.open545.pictures import Open545
from ofer_models.workshop.progress import Progress, silent
from ofer_models.workshop.train.regressor.faces import Teacher

_EVERY = 3  # frontal vertices of the true head that stand for a scan
_SIDE = 256  # px of a picture


def measure_heads(bundle: Bundle, data: Open545, *, seed: int = 0, progress: Progress = silent) -> dict[str, Any]:
    """half -> method -> now (median, mm), hidden and seen (mean distance of the face, mm)."""
    halves = {
        "clean": (data.clean, data.clean_points, data.clean_crop128),
        "occluded": (data.occluded, data.occluded_points, data.occluded_crop128),
    }
    hidden, seen = (unpack(bundle.head, getattr(data.occluded, name)) for name in ("covered", "visible"))
    figures: dict[str, Any] = {}
    for half, (pictures, points, crops) in halves.items():
        asked = _Asked(bundle, points, crops, data.camera, seed)
        now: dict[str, list] = {}
        errors: dict[str, dict[str, list[float]]] = {}
        rows = range(len(pictures))
        for row in progress(rows, f"heads, {half}", len(pictures)):
            betas, faces = asked(row, encoder_arrays(pictures, slice(row, row + 1)), crops[row], pictures.betas[row],
                                 pictures.coefficients[row])  # fmt: skip
            for name, head in betas.items():
                now.setdefault(name, []).append(asked.now(head, pictures.betas[row]))
            for name, off in faces.items():
                for part, of in (("hidden", hidden), ("seen", seen)):
                    at = of[row][asked.vertices]
                    if at.any():
                        errors.setdefault(name, {}).setdefault(part, []).append(float(off[at].mean()))
        figures[half] = {
            name: ({"now": asdict(pool(now[name]))["median"]} if name in now else {})
            | {part: float(np.mean(values)) for part, values in errors.get(name, {}).items()}
            for name in {**now, **errors}
        }
    return figures


class _Asked:
    """Every method about one half's pictures, one after the other."""

    def __init__(
        self, bundle: Bundle, points: np.ndarray, crops: np.ndarray, cameras: np.ndarray, seed: int
    ) -> None:
        self._bundle, self._head, self._stages = bundle, bundle.head, StageSet(bundle)
        self._regressor, self._fit = Teacher(bundle), LandmarkFit(bundle)
        self._rng = np.random.default_rng(seed)
        self._move = Mover(bundle, Observer(bundle, self._stages, points, crops, cameras), seed + 3)
        self._points, self._cameras = points, cameras
        self._decode, self._frontal = FaceDecoder(bundle), FrontalErrors(bundle.head)
        self.vertices = self._decode.indices

    def __call__(
        self, row: int, inputs: dict[str, np.ndarray], crop: np.ndarray, true_betas: np.ndarray, true_face: np.ndarray
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Betas (S,) by method, and distances (V',) mm of the face's vertices from the true ones."""
        head, stages, bundle, rng = self._head, self._stages, self._bundle, self._rng
        context = stages.identity_context(**inputs)["context"]
        noise = rng.standard_normal((1, bundle.candidates, head.n_shape), dtype=np.float32)
        candidates = stages.idgen(context, noise, rng).astype(np.float32)
        chosen = int(stages.idrank(betas=candidates, context=context)["score"][0].argmax())
        told = self._regressor.spec.split(self._regressor(crop[None])[0])
        camera = Intrinsics(self._cameras[row], _SIDE, _SIDE)
        fitted = self._fit(self._points[row], camera)
        nobody = np.zeros(head.n_shape, np.float32)
        betas = {
            "ofer, ranked": candidates[0, chosen], "ofer, mean": candidates[0].mean(0),
            "ofer, closest": candidates[0, self._frontal(candidates[0], true_betas).mean(1).argmin()],
            "regressor": told["shape"], "landmark fit": nobody if fitted is None else fitted.betas, "mean head": nobody,
        }  # fmt: skip
        identity = head.identity(true_betas)
        encoded = stages.expression_context(**inputs)
        drawn = hypothesis_noise(rng, (1, bundle.hypotheses, stages.expgen.n_coefficients))
        visible = encoded["visible"][0] if "visible" in encoded else None
        raw = self._decode.drawn(stages.expgen(encoded["context"], drawn, rng))[0]
        many = self._decode(identity, self._move(row, visible, identity, raw))
        truth = self._decode(identity, true_face[None])[0]
        again = self._fit(self._points[row], camera, identity)
        rest = np.zeros(len(true_face), np.float32)
        single = self._decode.drawn(np.stack([
            np.concatenate([told["expression"], told["jaw"]]), rest if again is None else again.coefficients, rest
        ]))  # fmt: skip
        regressed, fit, neutral = self._decode(identity, single)
        apart = np.linalg.norm(many - truth, axis=-1)
        faces = {
            "ofer, ranked": many[0], "ofer, mean": many.mean(0), "ofer, closest": many[apart.mean(1).argmin()],
            "regressor": regressed, "landmark fit": fit, "neutral face": neutral,
        }  # fmt: skip
        return betas, {name: np.linalg.norm(mesh - truth, axis=-1) for name, mesh in faces.items()}

    def now(self, betas: np.ndarray, true_betas: np.ndarray) -> np.ndarray:
        """NoW's distances (P,) mm, sizes left free."""
        head = self._head
        scan, mesh = (1000 * head.decode(values) for values in (true_betas, betas))
        return scan_distances(
            scan[head.masks["frontal"][::_EVERY]], head.landmarks(scan, "now7"), mesh, head.faces,
            head.landmarks(mesh, "now7"),
        )  # fmt: skip
