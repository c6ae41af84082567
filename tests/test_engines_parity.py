"""Graphs against the torch network at every batch: 1 to 8 faces, 1 to 100 samples, random contexts.

A choice of them by default, all in official size with `-m long`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recipe import recipe_state, relative_error

from ofer_models.engines.onnxruntime_backend import OnnxStage
from ofer_models.networks.denoiser import Denoiser
from ofer_models.networks.export import export_sampler

torch.set_num_threads(1)
TOLERANCE = 1e-4


def compare(sizes, tmp_path, batches):
    net = Denoiser(*sizes).eval()
    net.load_official(recipe_state(net.official_slots(), seed=8))
    files = export_sampler(net, tmp_path, "stage")
    cond, step = (OnnxStage(files[part]) for part in ("cond", "step"))
    generator = torch.Generator().manual_seed(2)
    coefficients = np.array([0, -1, 0, 1, 0], np.float32)  # x0 and x_next are the predicted noise
    for faces, samples in batches:
        x = torch.randn(faces, samples, net.n_coefficients, generator=generator)
        context = torch.randn(faces, net.n_context, generator=generator)
        t = torch.randint(0, 1000, (2,), generator=generator)
        with torch.no_grad():
            modulation = net.modulation(context, t)  # scale and shift; the graph folds the norms into its own
            expected = net.denoise(x, modulation[:, 1])
        ours = cond(context=context.numpy(), timesteps=t.float().numpy())["modulation"]
        got = step(x=x.numpy(), x0_prev=x.numpy(), modulation=ours[:, 1], coefficients=coefficients)
        assert relative_error(got["x_next"], expected) <= TOLERANCE, (faces, samples)


def test_batches_of_a_smaller_network(tmp_path):
    counts = (1, 2, 3, 7, 15, 16, 33, 100)
    compare((53, (53, 25, 10), 64), tmp_path, [(faces, samples) for faces in range(1, 9) for samples in counts])


@pytest.mark.long
@pytest.mark.parametrize("sizes", [(53, (53, 25, 10), 1024), (300, (300, 50, 10), 512)], ids=["expgen", "idgen"])
def test_every_batch_of_official_size(tmp_path, sizes):
    compare(sizes, tmp_path, [(faces, samples) for faces in range(1, 9) for samples in range(1, 101)])
