"""What tells which landmarks are covered: its truths, its training on random crops, and the encoder that carries it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_train import quiet, random_pictures

from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.workshop.train.augmentation import crop_input
from ofer_models.workshop.train.encoders import Encoders
from ofer_models.workshop.train.loop import Schedule
from ofer_models.workshop.train.visibility import CoveredFaces, disguise, train_visibility


def test_disguised_crops_keep_their_size_and_hardly_their_looks():
    crop = torch.rand((6, 3, 112, 112), generator=torch.Generator().manual_seed(0)) * 2 - 1
    once, again = (disguise(crop.clone(), torch.Generator().manual_seed(1)) for _ in range(2))
    assert once.shape == crop.shape and torch.isfinite(once).all() and torch.equal(once, again)
    assert once.min() > -3 and once.max() < 3
    assert (once - crop).abs().mean() > 0.1


def test_what_is_covered_is_learned_and_exported(tmp_path):
    """Crops whose left half is black are covered there; the exported encoder says so, and of nothing else."""
    torch.manual_seed(0)
    encoders = Encoders({"identity": 7, "expression": 9}).eval()
    rng = np.random.default_rng(0)
    crops, known = rng.integers(60, 200, (80, 112, 112, 3)).astype(np.uint8), np.ones((80, 468), np.float16)
    crops[::2, :, :56], known[::2, :234] = 0, 0
    known[:, 400:] = np.nan
    faces = CoveredFaces(crops, known)
    network, _ = train_visibility(
        encoders.pixels, faces, CoveredFaces.photographed(crops, known < 0.5), Schedule(60, 32, 3e-3), seed=1, log=quiet
    )
    encoder = encoders.encoder("expression", visibility=network.eval()).eval()
    landmarks, crop = torch.randn(4, 478, 6), crop_input(torch.from_numpy(crops[:4]))
    with torch.no_grad():
        context, occlusion, visible = encoder(landmarks, crop)
    assert context.shape == (4, 256) and occlusion.shape == (4, 1) and visible.shape == (4, 468)
    assert visible[::2, :234].max() < 0.5 < visible[1::2, :234].min() and visible[:, 234:400].min() > 0.5
    torch.testing.assert_close(occlusion, 1 - visible.mean(1, keepdim=True))
    with torch.no_grad():
        torch.testing.assert_close(context, encoders.encoder("expression").eval()(landmarks, crop))  # as without
    inputs = {"landmarks": ("F", 478, 6), "crop112": ("F", 3, 112, 112)}
    pytest.importorskip("onnxscript", reason="`make train-env`")
    from ofer_models.workshop.networks.trace import export_module

    export_module(encoder, tmp_path / "e.onnx", inputs, ["context", "occlusion", "visible"])
    told = OnnxStage(tmp_path / "e.onnx")(landmarks=landmarks.numpy(), crop112=crop.numpy())
    np.testing.assert_allclose(told["visible"], visible, atol=1e-4)


def test_a_landmark_is_covered_as_its_triangle_is(open_head):
    pictures = random_pictures(2, 3)
    visible, covered = np.zeros((2, open_head.n_vertices), bool), np.zeros((2, open_head.n_vertices), bool)
    visible[0], covered[1] = True, True
    bits = {"visible": np.packbits(visible, axis=1), "covered": np.packbits(covered, axis=1)}
    faces = CoveredFaces.rendered(open_head, replace(pictures, **bits))
    assert (faces.open[0] == 1).all() and (faces.open[1] == 0).all()
    neither = {name: np.zeros_like(values) for name, values in bits.items()}
    assert np.isnan(CoveredFaces.rendered(open_head, replace(pictures, **neither)).open).all()
