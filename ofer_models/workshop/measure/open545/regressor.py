"""The rival of all hypotheses: one regressed answer, learned from the same pictures through the same contexts.

A small network from a bundle's context to coefficients, with errors counted as vertices move, so that its answer is the
mean of what the context leaves open: for one guess, nothing has a smaller squared error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofer_models.bundle.manifest import HEAD, Bundle
from ofer_models.files.arrays import read_npz
from ofer_models.runtime.stages import StageSet
from ofer_models.workshop.measure.open545.held_out import encoder_arrays
from ofer_models.workshop.pictures import dataset
from ofer_models.workshop.pictures.dataset import PictureSet

SHIPPED = Path(__file__).with_name("regressor_open.npz")
_WIDTH, _STEPS, _BATCH, _RATE = 256, 800, 256, 5e-4
_SHARDS, _TEST = 14, 500  # shards learned from, pictures that stop it in time
_CONTEXTS = 100


@dataclass(frozen=True)
class Regressor:
    """Betas and expression coefficients (E + 3) from contexts: two layers each, in the head model's units."""

    arrays: dict[str, np.ndarray]

    def betas(self, context: np.ndarray) -> np.ndarray:
        """(n, S) from identity contexts (n, C)."""
        return self._apply("identity", context)

    def coefficients(self, context: np.ndarray) -> np.ndarray:
        """(n, E + 3) from expression contexts (n, C)."""
        return self._apply("expression", context)

    def fits(self, bundle: Bundle) -> bool:
        """Whether it was learned through this bundle's encoders."""
        return self.arrays["encoders"].tolist() == _encoders(bundle)

    def _apply(self, name: str, context: np.ndarray) -> np.ndarray:
        weights = [np.asarray(self.arrays[f"{name}_{part}"], np.float32) for part in ("w1", "b1", "w2", "b2")]
        hidden = np.maximum(context @ weights[0].T + weights[1], 0)
        return hidden @ weights[2].T + weights[3]


def get(
    bundle: Bundle, work: Path, *, workers: int = 2, progress: Callable, log: Callable[[str], None] = print
) -> Regressor:
    """The shipped regressor, or one in `work`, if learned through this bundle's encoders; else a new one.

    A new one takes a few minutes: training pictures are drawn into work/pictures/train where there are none.
    """
    own = work / f"regressor_{hashlib.sha256(''.join(_encoders(bundle)).encode()).hexdigest()[:8]}.npz"
    for path in (SHIPPED, own):
        if path.is_file():
            regressor = Regressor(read_npz(path))
            if regressor.fits(bundle):
                return regressor
    folder = work / "pictures" / "train"
    if not any(folder.glob("[0-9]*.npz")):
        dataset.generate(bundle.path / HEAD, folder, _SHARDS * dataset.SHARD, seed=1, workers=workers,
                         progress=progress)  # fmt: skip
    # The last ones: a context promises less of pictures that its encoder was not trained on, as in ExpGen's training.
    regressor = fit(bundle, dataset.load(folder, shards=slice(-_SHARDS, None)), log)
    np.savez_compressed(own, **regressor.arrays)
    return regressor


def fit(bundle: Bundle, pictures: PictureSet, log: Callable[[str], None] = print) -> Regressor:
    """Learn both regressors from pictures through the bundle's encoders. Needs torch."""
    from ofer_models.workshop.train.tasks import Normaliser, frontal_importance

    stages, importance = StageSet(bundle, threads=1), frontal_importance(bundle.head)
    arrays: dict[str, np.ndarray] = {"encoders": np.array(_encoders(bundle))}
    for name, stage, targets, counts in (
        ("identity", stages.identity_context, pictures.betas, importance[: bundle.n_shape]),
        ("expression", stages.expression_context, pictures.coefficients, importance[bundle.n_shape :]),
    ):
        rows = [slice(start, start + _CONTEXTS) for start in range(0, len(pictures), _CONTEXTS)]
        context = np.concatenate([stage(**encoder_arrays(pictures, some))["context"] for some in rows])
        normaliser = Normaliser.fit(targets)
        weight = counts * normaliser.deviation**2
        layers = _learn(context, normaliser.encode(targets), weight / weight.mean(), f"{name} regressor", log)
        layers["w2"] *= normaliser.deviation[:, None]
        layers["b2"] = layers["b2"] * normaliser.deviation + normaliser.mean
        arrays |= {f"{name}_{part}": values.astype(np.float16 if part == "w1" else np.float32)
                   for part, values in layers.items()}  # fmt: skip
    return Regressor(arrays)


def _learn(
    context: np.ndarray, targets: np.ndarray, weight: np.ndarray, name: str, log: Callable[[str], None]
) -> dict[str, np.ndarray]:
    """Weights of Linear, ReLU, Linear by weighted squared error on normalised targets."""
    import torch
    from torch import Tensor, nn

    from ofer_models.workshop.train.loop import Schedule, train

    torch.manual_seed(0)
    given, truth, counts = (torch.from_numpy(np.asarray(a, np.float32)) for a in (context, targets, weight))
    network = nn.Sequential(nn.Linear(given.shape[1], _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, truth.shape[1]))

    def error(net: nn.Module, rows: Tensor | slice) -> Tensor:
        return (counts * (net(given[rows]) - truth[rows]) ** 2).mean()

    schedule = Schedule(_STEPS, _BATCH, _RATE, 1e-2)
    best, _ = train(
        network, lambda net, index, _: error(net, index + _TEST), len(given) - _TEST, schedule,
        validate=lambda average: error(average, slice(_TEST)).item(), name=name, log=log,
    )  # fmt: skip
    first, _, last = best
    return {"w1": first.weight.detach().numpy(), "b1": first.bias.detach().numpy(),
            "w2": last.weight.detach().numpy(), "b2": last.bias.detach().numpy()}  # fmt: skip


def _encoders(bundle: Bundle) -> list[str]:
    graphs = (bundle.stages[f"{name}_context"].files["graph"].name for name in ("identity", "expression"))
    return [bundle.files[name].sha256 for name in graphs]
