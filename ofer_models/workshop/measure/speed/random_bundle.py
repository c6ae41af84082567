"""A bundle of official size with random weights: what it costs to run one, without the licensed files.

Needs torch. Written by the same exports as `ofer import`; what it draws is noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ofer_models.bundle.manifest import HEAD, Bundle
from ofer_models.files.arrays import read_npz
from ofer_models.workshop import bundle_writer
from ofer_models.workshop.measure.speed.bench import OFFICIAL
from ofer_models.workshop.networks.arcface import ArcFace
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.farl import Farl
from ofer_models.workshop.networks.official_stages import IdentityContext, JointContext, RankWithEncoders
from ofer_models.workshop.networks.rank import RankNetwork
from ofer_models.workshop.networks.trace import export_module

N_SHAPE, N_FRONTAL = 300, 1785
_CROPS = {"crop112_bgr": ("F", 3, 112, 112), "crop224": ("F", 3, 224, 224)}


def write_official_size(folder: Path, open_head: Path, seed: int = 0) -> Bundle:
    """Write the bundle into a folder, with the open head widened to 300 shape coefficients of which most do nothing."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    head = _widened(read_npz(open_head))
    np.savez(folder / HEAD, **head)
    one = {"crop112_bgr": _CROPS["crop112_bgr"]}
    files = {name: folder / f"{name}.onnx" for name in ("identity_context", "expression_context", "idrank")}
    export_module(IdentityContext(ArcFace()), files["identity_context"], one, ["context"])
    export_module(JointContext(ArcFace(), Farl()), files["expression_context"], _CROPS, ["context"])
    frontal = torch.from_numpy(head["v_template"][:N_FRONTAL])
    rank = RankNetwork(N_FRONTAL).eval().fold(frontal, torch.from_numpy(head["shapedirs"][:N_FRONTAL, :, :N_SHAPE]))
    ranked = {"betas": ("F", "N", N_SHAPE)} | _CROPS
    export_module(RankWithEncoders(JointContext(ArcFace(), Farl()), rank), files["idrank"], ranked, ["score"])
    stages = {name: bundle_writer.graph_entry(path) for name, path in files.items()}
    for name, steps in (("idgen", 10), ("expgen", 8)):  # as the open bundle
        size = OFFICIAL[name]
        stages[name] = bundle_writer.write_sampler(
            Denoiser(size.coefficients, size.widths, size.context).eval(), folder, name, solver="dpmpp_2m",
            spacing="uniform", steps=steps, mean=np.zeros(size.coefficients), deviation=np.ones(size.coefficients),
        )  # fmt: skip
    header = {"name": "random", "version": "official-size", "n_shape": N_SHAPE, "n_expression": 50,
              "candidates": OFFICIAL["idgen"].samples, "hypotheses": OFFICIAL["expgen"].samples}  # fmt: skip
    provenance = bundle_writer.Provenance("random numbers", "none", True)
    bundle_writer.write_manifest(folder, header, stages, {"*": provenance})
    return Bundle.load(folder)


def _widened(head: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    basis = head["shapedirs"]
    n_expression = len(head["expression_names"])
    shape, expression = basis[..., :-n_expression], basis[..., -n_expression:]
    more = np.zeros((*basis.shape[:2], N_SHAPE - shape.shape[-1]), basis.dtype)
    return head | {"shapedirs": np.concatenate([shape, more, expression], axis=-1)}
