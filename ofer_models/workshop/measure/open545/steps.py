"""What the default number of sampling steps loses against 1000-step DDPM with the same network."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.runtime.backend import open_backend
from ofer_models.runtime.stages import CoefficientSampler, StageSet
from ofer_models.tracking.drifting_noise import hypothesis_noise
from ofer_models.workshop.measure.metrics import hypotheses as metrics
from ofer_models.workshop.measure.open545.expression import FaceDecoder
from ofer_models.workshop.measure.open545.held_out import encoder_arrays
from ofer_models.workshop.pictures.dataset import PictureSet


@dataclass(frozen=True)
class StepLoss:
    """Error of a hypothesis and spread in mm, at the default steps and at 1000-step DDPM, and what is lost as shares of
    the latter; negative where the few steps do better or draw wider.
    """

    error: float
    spread: float
    ddpm_error: float
    ddpm_spread: float
    error_loss: float
    spread_loss: float


def step_loss(bundle: Bundle, stages: StageSet, pictures: PictureSet, *, steps: int = 1000, seed: int = 0) -> StepLoss:
    """ExpGen's loss over pictures, at the bundle's temperature and number of hypotheses."""
    spec = replace(bundle.stages["expgen"], solver="ddpm", spacing="uniform", steps=steps, distilled=None)
    slow = CoefficientSampler(spec, open_backend("onnxruntime", bundle, 1))
    context = stages.expression_context(**encoder_arrays(pictures, slice(None)))["context"]
    decode = FaceDecoder(bundle)
    figures = []
    for sampler in (stages.expgen, slow):
        rng = np.random.default_rng(seed)
        noise = hypothesis_noise(rng, (len(context), bundle.hypotheses, sampler.n_coefficients))
        drawn = decode.drawn(sampler(context, noise, rng))
        rows = []
        for row, coefficients in enumerate(drawn):
            identity = bundle.head.identity(pictures.betas[row])
            meshes = decode(identity, coefficients)
            truth = decode(identity, pictures.coefficients[row : row + 1])[0]
            apart = np.linalg.norm(meshes - truth, axis=-1).mean()
            rows.append((apart, np.sqrt((metrics.spread(meshes) ** 2).mean())))
        figures.append(np.mean(rows, axis=0))
    (error, spread), (slow_error, slow_spread) = (map(float, pair) for pair in figures)
    return StepLoss(error, spread, slow_error, slow_spread, error / slow_error - 1, 1 - spread / slow_spread)
